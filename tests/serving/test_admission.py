"""Who may talk with the server: names, pages and keys."""

import asyncio
import json
from typing import Any

import pytest
from starlette.responses import PlainTextResponse

from smidgen.serving.admission import Admission, is_loopback_name, own_names
from smidgen.serving.keys import Key

HOST = {"host": "127.0.0.1:8080"}


def ask(
    headers: dict[str, str] | list[tuple[str, str]], path: str = "/v1/models", method: str = "GET", **settings: Any
) -> tuple[int, dict[str, str], Any]:
    """Status, headers and content of the answer to a request with these headers."""
    options: dict[str, Any] = {"hosts": own_names("127.0.0.1"), "origins": (), "keys": (), "any_address": False}
    app = Admission(PlainTextResponse("let in"), **options | settings)
    pairs = headers.items() if isinstance(headers, dict) else headers
    scope = {
        "type": "http", "method": method, "path": path,
        "headers": [(key.lower().encode(), value.encode("latin-1")) for key, value in pairs],
    }  # fmt: skip
    sent: list[Any] = []

    async def receive() -> Any:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: Any) -> None:
        sent.append(message)

    asyncio.run(app(scope, receive, send))
    answered = {key.decode(): value.decode() for key, value in sent[0]["headers"]}
    return sent[0]["status"], answered, b"".join(part.get("body", b"") for part in sent[1:])


@pytest.mark.parametrize(
    "host", ["127.0.0.1:8080", "localhost", "LOCALHOST:1", "[::1]:8080", "127.9.9.9", "localhost."]
)
def test_own_names_are_let_in(host: str) -> None:
    assert ask({"host": host})[0] == 200


@pytest.mark.parametrize(
    "host",
    ["evil.example", "evil.example:8080", "localhost.evil.example", "127.0.0.1.evil.example",
     "localhost:1@evil.example", "", "local host", "192.168.1.5", "127.0.0.1:8080/x", "127.0.0.1:999999", "[::1",
     "0x7f000001"],
)  # fmt: skip
def test_other_names_are_not(host: str) -> None:
    status, _, body = ask({"host": host})
    assert status == 403 and "Host" in json.loads(body)["error"]["message"]


def test_a_missing_or_doubled_host_is_refused() -> None:
    assert ask({})[0] == 403
    assert ask([("host", "localhost"), ("host", "evil.example")])[0] == 403


def test_a_server_for_other_machines_is_asked_for_by_address_or_name() -> None:
    for host in ("192.168.1.5:8080", "[fe80::1]:8080", "localhost"):
        assert ask({"host": host}, any_address=True)[0] == 200
    assert ask({"host": "evil.example"}, any_address=True)[0] == 403
    assert ask({"host": "Models.Example.org"}, hosts={"models.example.org"})[0] == 200


@pytest.mark.parametrize("origin", ["http://localhost:3000", "http://127.0.0.1:8080", "https://[::1]"])
def test_pages_of_this_machine_may_ask_and_read(origin: str) -> None:
    status, headers, _ = ask(HOST | {"origin": origin})
    assert status == 200 and headers["access-control-allow-origin"] == origin
    status, headers, _ = ask(HOST | {"origin": origin}, method="OPTIONS", keys=[Key.of_secret("secret")])
    assert status == 204 and "Authorization" in headers["access-control-allow-headers"]


@pytest.mark.parametrize(
    "origin",
    ["https://evil.example", "null", "http://localhost.evil.example", "http://localhost@evil.example", "file://", "",
     "http://[::1", "chrome-extension://abc", "http://evil.example#localhost"],
)  # fmt: skip
@pytest.mark.parametrize("method", ["GET", "POST", "OPTIONS"])
def test_other_pages_may_not(origin: str, method: str) -> None:
    status, headers, _ = ask(HOST | {"origin": origin}, method=method)
    assert status == 403 and "access-control-allow-origin" not in headers


def test_a_page_without_an_origin_is_known_by_its_site() -> None:
    assert ask(HOST | {"sec-fetch-site": "cross-site"})[0] == 403
    assert ask(HOST | {"sec-fetch-site": "same-origin"})[0] == 200


def test_a_page_that_was_allowed() -> None:
    allowed = {"origins": ["https://chat.example.org/"]}
    assert ask(HOST | {"origin": "https://chat.example.org"}, **allowed)[0] == 200
    assert ask(HOST | {"origin": "https://chat.example.org:444"}, **allowed)[0] == 403


def test_the_key() -> None:
    for sent in ({"authorization": "Bearer secret"}, {"authorization": "bearer  secret "}, {"x-api-key": "secret"}):
        assert ask(HOST | sent, keys=[Key.of_secret("secret")])[0] == 200
    for sent in ({}, {"authorization": "Bearer "}, {"authorization": "secret"}, {"x-api-key": "s\u00e9cret"}):
        status, headers, body = ask(HOST | sent, keys=[Key.of_secret("secret")])
        assert status == 401 and headers["www-authenticate"] == "Bearer"
        assert json.loads(body)["error"]["type"] == "authentication_error"
    assert ask(HOST, "/health", keys=[Key.of_secret("secret")])[0] == 200


def test_loopback_names() -> None:
    assert all(map(is_loopback_name, ("localhost", "a.localhost", "127.1.2.3", "::1", "[::1]")))
    assert not any(map(is_loopback_name, ("localhost.example", "128.0.0.1", "", "::2", "127.1")))
