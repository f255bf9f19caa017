"""Connections that send or take nothing whole end, and keep nobody from stopping the server."""

import asyncio
import json
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any, cast

import pytest
import uvicorn

from smidgen.serving import connections
from smidgen.serving.connections import Impatient
from smidgen.serving.front import Door, build_front
from smidgen.serving.hosting import Hosted
from smidgen.serving.pool import Pool
from smidgen.serving.upstream import Upstream
from tests.serving.test_front import NAME, Engine, Said


def run(app: Any, test: Callable[[int, uvicorn.Server], Awaitable[None]]) -> None:
    async def with_server() -> None:
        config = uvicorn.Config(app, http=Impatient, log_config=None, log_level="critical", lifespan="off")
        server, listener = uvicorn.Server(config), socket.create_server(("127.0.0.1", 0))
        serving = asyncio.create_task(server.serve([listener]))
        async with asyncio.timeout(20):
            while not server.started:
                await asyncio.sleep(0.01)
            await test(listener.getsockname()[1], server)
            server.should_exit = True
            await serving

    asyncio.run(with_server())


async def never_asked(scope: Any, receive: Any, send: Any) -> None:
    raise AssertionError("no whole request came")


async def reading(scope: Any, receive: Any, send: Any) -> None:
    while (await receive()).get("more_body"):
        pass


Connection = tuple[asyncio.StreamReader, asyncio.StreamWriter]  # a writer that nobody holds ends it


async def connect(port: int, sent: bytes) -> Connection:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(sent)
    await writer.drain()
    return reader, writer


@pytest.mark.parametrize("sent", [b"", b"GET / HTTP/1.1\r\n", b"GET / HTTP/1.1\r\nHost: a\r\n"])
def test_a_head_that_does_not_come_ends_the_connection(sent: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "HEAD_PATIENCE_S", 0.1)

    async def test(port: int, server: uvicorn.Server) -> None:
        connection = await connect(port, sent)
        assert await connection[0].read() == b""

    run(never_asked, test)


def test_a_client_that_does_not_read_has_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "READER_PATIENCE_S", 0.1)
    gone = asyncio.Event()

    async def writing(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        watch = asyncio.create_task(receive())
        await send({"type": "http.response.start", "status": 200, "headers": []})
        while not watch.done():
            await send({"type": "http.response.body", "body": b"a" * 2**20, "more_body": True})
            await asyncio.sleep(0)
        assert watch.result()["type"] == "http.disconnect"
        gone.set()

    async def test(port: int, server: uvicorn.Server) -> None:
        connection = await connect(port, b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        await gone.wait()
        assert not server.server_state.connections and not connection[1].is_closing()

    run(writing, test)


class Endless(Engine):
    """An engine that never stops writing."""

    @asynccontextmanager
    async def exchange(self, method: str, path: str, body: dict[str, Any] | None) -> AsyncIterator[Any]:
        async def pieces() -> AsyncIterator[bytes]:
            event = {"content": "a" * 10_000, "tokens": [5], "stop": False, "tokens_predicted": 1}
            while True:
                yield f"data: {json.dumps(event)}\n\n".encode()
                await asyncio.sleep(0)

        said = Said((), ends=False)
        said.pieces = pieces
        yield said


def test_who_asks_and_does_not_read_frees_its_slot(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "READER_PATIENCE_S", 0.1)
    pool = Pool([Hosted.check(NAME, ctx_size=512)], lambda model: cast("Upstream", Endless()), 10**12, None, 4)

    async def test(port: int, server: uvicorn.Server) -> None:
        body = b'{"prompt": "a", "stream": true}'
        head = b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n" % len(body)
        connection = await connect(port, head + body)
        assert await connection[0].readline() == b"HTTP/1.1 200 OK\r\n"
        line = pool.loaded()[NAME].line
        assert line.working == 1
        while line.working or server.server_state.connections:
            await asyncio.sleep(0.01)

    run(build_front(pool, Door(())), test)


@pytest.mark.parametrize(
    "sent", [b"", b"POST / HTTP/1.1\r\n", b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\n{"]
)
def test_the_server_stops_without_waiting_for_half_a_request(sent: bytes) -> None:
    kept: list[tuple[Connection, uvicorn.Server]] = []

    async def test(port: int, server: uvicorn.Server) -> None:
        kept.append((await connect(port, sent), server))
        while not server.server_state.connections:
            await asyncio.sleep(0.01)

    run(reading, test)
    assert not kept[0][1].server_state.connections and not kept[0][1].server_state.tasks
