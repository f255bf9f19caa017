"""What a client is told when its request is not carried out, in the shape of OpenAI's errors."""

import json
import math

from starlette.responses import JSONResponse

from smidgen.errors import SmidgenError

_KINDS = {
    401: "authentication_error", 403: "permission_error", 404: "not_found_error", 429: "rate_limit_error",
    501: "not_implemented_error",
}  # fmt: skip


class Refusal(SmidgenError):
    """A request that is refused with a status of its own; any other SmidgenError is status 400.

    param: the field that is at fault.  code: a word for programs, such as `context_length_exceeded`.
    kind: OpenAI's `type`, by default as the status says.  retry_after: seconds after which to try again.
    """

    def __init__(
        self,
        message: str,
        status: int = 400,
        *,
        param: str | None = None,
        code: str | None = None,
        kind: str | None = None,
        retry_after: float | None = None,
    ) -> None:
        super().__init__(message)
        self.status, self.param, self.code, self.retry_after = status, param, code, retry_after
        self.kind = kind or kind_of(status)

    def as_object(self) -> dict[str, object]:
        """What stands under `error`."""
        return error_object(self.status, str(self), self.kind, self.param, self.code)

    def as_response(self) -> JSONResponse:
        """The whole answer."""
        headers = {"WWW-Authenticate": "Bearer"} if self.status == 401 else {}
        if self.retry_after is not None:
            headers["Retry-After"] = str(max(1, math.ceil(self.retry_after)))
        return JSONResponse({"error": self.as_object()}, self.status, headers)


def kind_of(status: int) -> str:
    """OpenAI's `type` of an error."""
    return _KINDS.get(status, "server_error" if status >= 500 else "invalid_request_error")


def error_object(
    status: int, message: str, kind: str, param: str | None = None, code: str | None = None
) -> dict[str, object]:
    """What stands under `error`. code: the status where there is no word for it."""
    return {"message": message, "type": kind, "param": param, "code": code or status}


def error_event(error: Exception, named: bool = False) -> bytes:
    """A server-sent event that ends a stream which cannot be completed. named: as Responses and Anthropic have it."""
    if isinstance(error, Refusal):
        told = error.as_object()
    else:
        told = error_object(503, str(error), "server_error")
    head, kind = ("event: error\n", {"type": "error"}) if named else ("", {})
    return f"{head}data: {json.dumps({**kind, 'error': told})}\n\n".encode()
