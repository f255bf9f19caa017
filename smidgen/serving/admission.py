"""Who may talk with the server: checked before anything else is read.

A page in a person's browser can reach a server on loopback. It is kept out twice. `Host` must be a name of this server:
otherwise a page may have pointed its own name at 127.0.0.1 and speak as the same site (DNS rebinding). `Origin`, which
browsers send with each request across sites that could change something, must be a page of this machine or one that was
allowed, whatever type of content it claims. Programs send no Origin.

Then comes the key, compared in constant time; `/health` alone needs none.
"""

import hmac
import ipaddress
import json
import re
import socket
from collections.abc import Collection
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Receive, Scope, Send

PUBLIC = frozenset({"/health", "/v1/health"})
_HOST = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+)(?::\d{1,5})?")


class Admission:
    """ASGI middleware in front of everything.

    hosts: names under which the server may be asked for, beside addresses.
    origins: pages that may ask, beside those of this machine, such as `https://chat.example.org`.
    api_key: None lets in whoever gets so far.
    any_address: whether `Host` may be any address, as for a server on all interfaces; else loopback only.
    """

    def __init__(
        self, app: ASGIApp, hosts: Collection[str], origins: Collection[str], api_key: str | None, any_address: bool
    ) -> None:
        self._app = app
        self._hosts = {host.lower() for host in hosts}
        self._origins = {origin.lower().rstrip("/") for origin in origins}
        self._api_key, self._any_address = api_key, any_address

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer with a refusal, or let the request through."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        refusal = self._refusal(scope["method"], scope["path"], headers)
        if refusal is None:
            await self._app(scope, receive, self._with_permission(headers.get("origin"), send))
        else:
            await refusal(scope, receive, send)

    def _refusal(self, method: str, path: str, headers: Headers) -> JSONResponse | None:
        if len(headers.getlist("host")) != 1 or not self._is_our_name(headers["host"]):
            return error_response(403, "this server does not go by the name in the Host header; use its address.")
        origin = headers.get("origin")
        if headers.getlist("origin")[1:] or (origin is not None and not self._may_ask(origin)):
            return error_response(403, "pages of other sites may not use this server (--allow-origin lets one in).")
        if origin is None and headers.get("sec-fetch-site") in ("cross-site", "same-site"):
            return error_response(403, "pages of other sites may not use this server (--allow-origin lets one in).")
        if method == "OPTIONS" and origin is not None:
            return JSONResponse(None, 204, _permission(origin))
        if path not in PUBLIC and not self._has_key(headers):
            return error_response(401, "the API key is missing or wrong; send it as `Authorization: Bearer KEY`.")
        return None

    def _is_our_name(self, host: str) -> bool:
        match = _HOST.fullmatch(host)
        if match is None:
            return False
        name = match[1].strip("[]").lower().rstrip(".")
        return name in self._hosts or is_loopback_name(name) or (self._any_address and _is_address(name))

    def _may_ask(self, origin: str) -> bool:
        if origin.lower() in self._origins:
            return True
        try:
            parts = urlsplit(origin)
        except ValueError:
            return False
        return parts.scheme in ("http", "https") and parts.hostname is not None and is_loopback_name(parts.hostname)

    def _has_key(self, headers: Headers) -> bool:
        if self._api_key is None:
            return True
        bearer = headers.get("authorization", "")
        sent = bearer[len("bearer ") :] if bearer.lower().startswith("bearer ") else headers.get("x-api-key", "")
        return hmac.compare_digest(sent.strip().encode(), self._api_key.encode())

    @staticmethod
    def _with_permission(origin: str | None, send: Send) -> Send:
        """A page that may ask may also read the answer."""
        if origin is None:
            return send
        added = [(key.lower().encode(), value.encode()) for key, value in _permission(origin).items()]

        async def send_with_permission(message: "dict") -> None:
            if message["type"] == "http.response.start":
                message = {**message, "headers": [*message["headers"], *added]}
            await send(message)

        return send_with_permission  # pyright: ignore[reportReturnType]


def _permission(origin: str) -> dict[str, str]:
    return {
        "Access-Control-Allow-Origin": origin,
        "Access-Control-Allow-Headers": "Authorization, Content-Type, X-Api-Key",
        "Access-Control-Allow-Methods": "GET, POST, OPTIONS",
        "Vary": "Origin",
    }


def is_loopback_name(name: str) -> bool:
    """Whether a host name or address always means this very machine; asks no name server."""
    name = name.strip("[]").lower()
    if name == "localhost" or name.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False


def own_names(host: str) -> set[str]:
    """Names by which a server that listens on `host` is called."""
    return {host.lower(), socket.gethostname(), f"{socket.gethostname()}.local"}


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def error_response(status: int, message: str, kind: str | None = None) -> JSONResponse:
    """An error in the shape of OpenAI's."""
    kinds = {401: "authentication_error", 403: "permission_error", 404: "not_found_error", 503: "server_error"}
    kind = kind or kinds.get(status, "server_error" if status >= 500 else "invalid_request_error")
    headers = {"WWW-Authenticate": "Bearer"} if status == 401 else None
    return JSONResponse({"error": error_object(status, message, kind)}, status, headers)


def error_object(status: int, message: str, kind: str) -> dict[str, object]:
    """What stands under `error`."""
    return {"message": message, "type": kind, "param": None, "code": status}


def error_event(message: str) -> bytes:
    """A server-sent event that ends a stream which cannot be completed."""
    return f"data: {json.dumps({'error': error_object(503, message, 'server_error')})}\n\n".encode()
