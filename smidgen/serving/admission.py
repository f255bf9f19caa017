"""Who may talk with the server: checked before anything else is read.

A page in a person's browser can reach a server on loopback. It is kept out twice. `Host` must be a name of this server:
otherwise a page may have pointed its own name at 127.0.0.1 and speak as the same site (DNS rebinding). `Origin`, which
browsers send with each request across sites that could change something, must be a page of this machine or one that was
allowed, whatever type of content it claims. Programs send no Origin.

Then comes the key (keys.py), compared in constant time; `/health` alone needs none.
"""

import ipaddress
import re
import socket
from collections.abc import Collection, Sequence
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from smidgen.serving.keys import Key, find_key
from smidgen.serving.refusals import Refusal

PUBLIC = frozenset({"/health", "/v1/health"})
_HOST = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+)(?::\d{1,5})?")


class Admission:
    """ASGI middleware in front of everything.

    hosts: names under which the server may be asked for, beside addresses.
    origins: pages that may ask, beside those of this machine, such as `https://chat.example.org`.
    keys: none lets in whoever gets so far. Which one was sent stands in the scope as `smidgen.key`.
    any_address: whether `Host` may be any address, as for a server on all interfaces; else loopback only.
    """

    def __init__(
        self, app: ASGIApp, hosts: Collection[str], origins: Collection[str], keys: Sequence[Key], any_address: bool
    ) -> None:
        self._app = app
        self._hosts = {host.lower() for host in hosts}
        self._origins = {origin.lower().rstrip("/") for origin in origins}
        self._keys, self._any_address = keys, any_address

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer with a refusal, or let the request through."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        origin = headers.get("origin")
        try:
            self._refuse_strangers(headers)
            if scope["method"] == "OPTIONS" and origin is not None:
                await Response(None, 204, _permission(origin))(scope, receive, send)
                return
            if self._keys and scope["path"] not in PUBLIC:
                scope["smidgen.key"] = self._key(headers)
        except Refusal as refusal:
            await refusal.as_response()(scope, receive, send)
            return
        await self._app(scope, receive, self._with_permission(origin, send))

    def _refuse_strangers(self, headers: Headers) -> None:
        if len(headers.getlist("host")) != 1 or not self._is_our_name(headers["host"]):
            raise Refusal("this server does not go by the name in the Host header; use its address.", 403)
        origins = headers.getlist("origin")
        alone = not origins and headers.get("sec-fetch-site") in ("cross-site", "same-site")
        if alone or origins[1:] or not all(map(self._may_ask, origins)):
            raise Refusal("pages of other sites may not use this server (--allow-origin lets one in).", 403)

    def _key(self, headers: Headers) -> Key:
        bearer = headers.get("authorization", "")
        sent = bearer[len("bearer ") :] if bearer.lower().startswith("bearer ") else headers.get("x-api-key", "")
        key = find_key(self._keys, sent.strip())
        if key is None:
            raise Refusal("the API key is missing or wrong; send it as `Authorization: Bearer KEY`.", 401)
        return key

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
