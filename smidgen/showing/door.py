"""What stands before the page: who gets in, to what, and what the page may do in a browser.

Admission (serving/admission.py) checks the names in `Host` and the key. A browser is met half way: it asks the person
for the key (HTTP's basic authentication: any name, the key as password), it sends `Origin` with the page's requests,
and it opens the page from a link on another site. What changes anything must come from the page itself.

Of Gradio's many addresses only those are open that the page needs: no uploads, no files, no requests to elsewhere. And
browsers are told to load nothing from elsewhere, whatever an answer or a card holds (Content-Security-Policy).
"""

import base64
import binascii
import re
from collections.abc import Collection, Sequence

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from smidgen.serving.admission import Admission
from smidgen.serving.keys import Key
from smidgen.serving.refusals import Refusal

LONGEST_BODY = 4 << 20  # bytes
_READ = re.compile(
    r"/|/health|/config|/theme\.css|/favicon\.ico|/(?:assets|static)/[\w./-]+|/card/\d{1,2}"
    r"|/gradio_api/(?:info|app_id|startup-events|queue/data|heartbeat/\w{1,64})",
    re.ASCII,
)
_WRITTEN = re.compile(r"/gradio_api/(?:queue/join|cancel|reset)")
_MANIFEST = "/manifest.json"
#: Only from here. Gradio's page begins with scripts and styles of its own, in line.
_POLICY = (
    "default-src 'self'; script-src 'self' 'unsafe-inline'; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data: blob:; font-src 'self' data:; connect-src 'self'; frame-src 'self'; worker-src 'self' blob:; "
    "object-src 'none'; base-uri 'self'; form-action 'self'; frame-ancestors 'self'"
)
#: `detail` is what Gradio's page shows of an error.
_TOO_LONG = JSONResponse({"detail": f"The text is longer than {LONGEST_BODY >> 20} MiB: shorten it."}, 413)
_ALWAYS = {
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
}


class Door:
    """ASGI middleware in front of everything. The arguments are those of `Admission`."""

    def __init__(self, app: ASGIApp, hosts: Collection[str], keys: Sequence[Key], any_address: bool) -> None:
        self._admission = Admission(_Bounded(app), hosts, (), keys, any_address)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer with a refusal, or let the request through."""
        if scope["type"] == "lifespan":
            await self._admission(scope, receive, send)
        elif scope["type"] != "http":  # the page opens no web socket
            await send({"type": "websocket.close", "code": 1008})
        elif scope["path"] == _MANIFEST:  # which browsers ask for without the key
            await JSONResponse({"name": "smidgen"})(scope, receive, _with_rules(send))
        else:
            await self._let_in(scope, receive, _with_rules(send))

    async def _let_in(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = Headers(scope=scope)
        try:
            _refuse_closed(scope)
            _refuse_other_pages(scope, headers)
        except Refusal as refusal:
            await refusal.as_response()(scope, receive, send)
            return
        await self._admission({**scope, "headers": _for_admission(scope, headers)}, receive, send)


class _Bounded:
    """Refuses bodies that are longer than any conversation's."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["method"] == "POST":
            body, more = bytearray(), True
            while more:
                message = await receive()
                if message["type"] != "http.request":
                    return  # it left
                body += message.get("body", b"")
                more = message.get("more_body", False)
                if len(body) > LONGEST_BODY:
                    await _TOO_LONG(scope, receive, send)
                    return
            receive = _again(bytes(body), receive)
        await self._app(scope, receive, send)


def _again(body: bytes, receive: Receive) -> Receive:
    given = False

    async def again() -> Message:
        nonlocal given
        if given:
            return await receive()
        given = True
        return {"type": "http.request", "body": body, "more_body": False}

    return again


def _refuse_closed(scope: Scope) -> None:
    """Raises Refusal for an address that the page does not need."""
    allowed = {"GET": _READ, "HEAD": _READ, "POST": _WRITTEN}.get(scope["method"])
    if allowed is None or ".." in scope["path"] or not allowed.fullmatch(scope["path"]):
        raise Refusal("there is nothing here; the page is at /.", 404)


def _refuse_other_pages(scope: Scope, headers: Headers) -> None:
    """Raises Refusal for what a page of another site sends; on this machine, too, others have no business here."""
    origin, host = headers.get("origin"), headers.get("host", "")
    if origin is not None and origin.lower() not in (f"http://{host.lower()}", f"https://{host.lower()}"):
        raise Refusal("pages of other sites may not use this one.", 403)


def _for_admission(scope: Scope, headers: Headers) -> list[tuple[bytes, bytes]]:
    """The headers as it knows them: without the page's own origin, the key as a bearer's, a followed link as typed."""
    followed = scope["path"] == "/" and headers.get("sec-fetch-mode") == "navigate"
    dropped = {b"origin"} | ({b"sec-fetch-site"} if followed else set())
    kept = [(name, value) for name, value in scope["headers"] if name not in dropped]
    password = _password(headers.get("authorization", ""))
    if password is None:
        return kept
    return [*((name, value) for name, value in kept if name != b"authorization"), (b"authorization", password)]


def _password(authorization: str) -> bytes | None:
    """What `Basic` authentication holds, as `Bearer` would send it; None where it is none."""
    scheme, _, coded = authorization.partition(" ")
    if scheme.lower() != "basic":
        return None
    try:
        _, _, password = base64.b64decode(coded, validate=True).partition(b":")
    except binascii.Error:
        return None
    return b"Bearer " + password


def _with_rules(send: Send) -> Send:
    """What the browser must keep to; and it is told to ask for the key where that is missing."""

    async def send_with_rules(message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = MutableHeaders(scope=message)
            headers.setdefault("Content-Security-Policy", _POLICY)
            headers.update(_ALWAYS)
            if message["status"] == 401:
                headers["WWW-Authenticate"] = 'Basic realm="smidgen (any name, the API key as password)"'
        await send(message)

    return send_with_rules
