"""Who gets in to the page, to what of it, and what browsers are told."""

import asyncio
import base64
from collections.abc import Sequence
from typing import Any

import pytest
from starlette.types import Message, Receive, Scope, Send

from smidgen.serving.keys import Key
from smidgen.showing.door import LONGEST_BODY, Door

HOST = ("host", "127.0.0.1:7860")
OWN = ("origin", "http://127.0.0.1:7860")
Headers = Sequence[tuple[str, str]]


async def _inside(scope: Scope, receive: Receive, send: Send) -> None:
    """Answers with the length of the body that it was given."""
    body = b""
    if scope["method"] == "POST":
        body = (await receive())["body"]
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": str(len(body)).encode()})


def ask(
    method: str, path: str, headers: Headers = (HOST,), body: bytes = b"", key: str | None = None, **door: Any
) -> tuple[int, dict[str, str], bytes]:
    """Status, headers and body that the door answers with."""
    keys = [] if key is None else [Key.of_secret(key)]
    app = Door(_inside, door.pop("hosts", ()), keys, door.pop("any_address", False))
    pieces = [body[at : at + 65536] for at in range(0, len(body), 65536)] or [b""]
    sent: list[Message] = []

    async def receive() -> Message:
        piece = pieces.pop(0)
        return {"type": "http.request", "body": piece, "more_body": bool(pieces)}

    async def send(message: Message) -> None:
        sent.append(message)

    raw = [(name.encode(), value.encode()) for name, value in headers]
    asyncio.run(app({"type": "http", "method": method, "path": path, "headers": raw}, receive, send))
    told = {name.decode().lower(): value.decode() for name, value in sent[0]["headers"]}
    return sent[0]["status"], told, sent[-1]["body"]


@pytest.mark.parametrize(
    "path",
    ["/", "/config", "/theme.css", "/assets/index-DphvyggB.js", "/static/js/a.min.js", "/gradio_api/queue/data",
     "/gradio_api/heartbeat/abc123", "/card/0", "/health"],
)  # fmt: skip
def test_what_the_page_needs_is_open(path: str) -> None:
    assert ask("GET", path)[0] == 200


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "/gradio_api/upload"), ("GET", "/gradio_api/file=/etc/passwd"), ("GET", "/gradio_api/file/etc/passwd"),
        ("GET", "/gradio_api/proxy=https://example.org/"), ("POST", "/gradio_api/run/send"), ("GET", "/monitoring"),
        ("POST", "/gradio_api/component_server"), ("GET", "/gradio_api/openapi.json"), ("GET", "/docs"),
        ("GET", "/gradio_api/runs"), ("GET", "/gradio_api/deep_link"), ("POST", "/gradio_api/vibe-edit"),
        ("GET", "/assets/../../secret"), ("GET", "/static/..%2f"), ("POST", "/"), ("PUT", "/"), ("DELETE", "/config"),
        ("OPTIONS", "/gradio_api/queue/join"), ("GET", "/card/0/../1"), ("GET", "/\u0661"), ("GET", "/card/\u0661"),
    ],
)  # fmt: skip
def test_all_else_is_closed(method: str, path: str) -> None:
    assert ask(method, path)[0] == 404


def test_another_name_for_this_machine_is_refused() -> None:
    assert ask("GET", "/", [("host", "rebound.example.org")])[0] == 403
    assert ask("GET", "/", [("host", "rebound.example.org")], any_address=True)[0] == 403
    assert ask("GET", "/", [("host", "192.0.2.7:7860")])[0] == 403
    assert ask("GET", "/", [("host", "192.0.2.7:7860")], any_address=True)[0] == 200
    assert ask("GET", "/", [])[0] == 403


def test_requests_come_from_the_page_itself() -> None:
    join = "/gradio_api/queue/join"
    assert ask("POST", join, [HOST, OWN], b"{}")[0] == 200
    for origin in ("https://example.org", "http://127.0.0.1:3000", "http://localhost:7860", "null", ""):
        assert ask("POST", join, [HOST, ("origin", origin)])[0] == 403
    assert ask("POST", join, [HOST, ("sec-fetch-site", "cross-site")])[0] == 403
    assert ask("GET", "/config", [HOST, ("sec-fetch-site", "cross-site")])[0] == 403
    address = ("host", "192.0.2.7:7860"), ("origin", "http://192.0.2.7:7860")
    assert ask("POST", join, address, any_address=True)[0] == 200


def test_a_link_on_another_site_opens_the_page() -> None:
    followed = [HOST, ("sec-fetch-site", "cross-site"), ("sec-fetch-mode", "navigate")]
    assert ask("GET", "/", followed)[0] == 200
    assert ask("GET", "/config", followed)[0] == 403


def basic(password: str) -> tuple[str, str]:
    return "authorization", "Basic " + base64.b64encode(f"anybody:{password}".encode()).decode()


def test_the_key_is_a_browsers_password_or_a_programs_bearer() -> None:
    for sent in (
        basic("a:key"),
        ("authorization", "Bearer a:key"),
        ("authorization", basic("a:key")[1].replace("B", "b", 1)),
    ):
        assert ask("GET", "/", [HOST, sent], key="a:key")[0] == 200
    for sent in (basic("wrong"), basic(""), ("authorization", "Basic !"), ("authorization", "Basic"), ("x-none", "1")):
        status, headers, _ = ask("GET", "/config", [HOST, sent], key="a:key")
        assert status == 401 and headers["www-authenticate"].startswith("Basic realm=")
    assert ask("GET", "/health", key="a:key")[0] == 200
    assert ask("GET", "/card/0", key="a:key")[0] == 401


def test_long_bodies_are_refused_however_they_come() -> None:
    join, body = "/gradio_api/queue/join", b"x" * LONGEST_BODY
    assert ask("POST", join, [HOST, OWN], body)[2] == str(LONGEST_BODY).encode()
    assert ask("POST", join, [HOST, OWN], body + b"x")[0] == 413


@pytest.mark.parametrize("path", ["/", "/nowhere"])
def test_browsers_are_told_to_load_nothing_from_elsewhere(path: str) -> None:
    headers = ask("GET", path)[1]
    policy = headers["content-security-policy"]
    assert "default-src 'self'" in policy and "http" not in policy and "unsafe-eval" not in policy
    assert headers["referrer-policy"] == "no-referrer" and headers["x-content-type-options"] == "nosniff"


def test_no_web_sockets() -> None:
    sent: list[Message] = []

    async def send(message: Message) -> None:
        sent.append(message)

    async def receive() -> Message:
        return {"type": "websocket.connect"}

    asyncio.run(Door(_inside, (), [], False)({"type": "websocket", "path": "/", "headers": []}, receive, send))
    assert [message["type"] for message in sent] == ["websocket.close"]
