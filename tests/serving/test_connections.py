"""Connections that send or take nothing whole end, and keep nobody from stopping the server."""

import asyncio
import socket
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
import uvicorn

from smidgen.serving import connections
from smidgen.serving.connections import Impatient


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


async def connect(port: int, sent: bytes) -> asyncio.StreamReader:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(sent)
    await writer.drain()
    return reader


@pytest.mark.parametrize("sent", [b"", b"GET / HTTP/1.1\r\n", b"GET / HTTP/1.1\r\nHost: a\r\n"])
def test_a_head_that_does_not_come_ends_the_connection(sent: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "HEAD_PATIENCE_S", 0.1)

    async def test(port: int, server: uvicorn.Server) -> None:
        assert await (await connect(port, sent)).read() == b""

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
        reader = await connect(port, b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        await gone.wait()
        assert not server.server_state.connections
        del reader

    run(writing, test)


@pytest.mark.parametrize(
    "sent", [b"", b"POST / HTTP/1.1\r\n", b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\n{"]
)
def test_the_server_stops_without_waiting_for_half_a_request(sent: bytes) -> None:
    async def test(port: int, server: uvicorn.Server) -> None:
        await connect(port, sent)
        while not server.server_state.connections:
            await asyncio.sleep(0.01)

    run(reading, test)
