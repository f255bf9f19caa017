"""One request to an engine, and what becomes of it when either side leaves."""

import asyncio
import json
import threading
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Any, cast

import pytest

from smidgen.engines.llama_cpp.server import LlamaServer
from smidgen.errors import EngineEnded
from smidgen.serving.upstream import LocalUpstream
from smidgen.serving.wire import exchange

HEAD = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nX-Which: one\r\n\r\n"
Handler = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


def with_engine(handler: Handler, test: Callable[[str], Awaitable[None]]) -> None:
    async def run() -> None:
        async with await asyncio.start_server(handler, "127.0.0.1", 0) as engine, asyncio.timeout(20):
            await test(f"http://127.0.0.1:{engine.sockets[0].getsockname()[1]}")

    asyncio.run(run())


async def request_of(reader: asyncio.StreamReader) -> tuple[bytes, Any]:
    head = await reader.readuntil(b"\r\n\r\n")
    length = int(head.lower().partition(b"content-length: ")[2].split()[0])
    return head, json.loads(await reader.readexactly(length) or b"null")


def test_a_request_goes_out_whole_and_its_answer_comes_back_however_it_is_cut() -> None:
    async def engine(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head, body = await request_of(reader)
        assert head.startswith(b"POST /completion HTTP/1.1\r\n") and b"Authorization: Bearer k" in head
        assert body == {"prompt": "é" * 70_000}
        for byte in b"HTTP/1.1 100 Continue\r\n\r\n" + HEAD + b"5\r\nhello\r\n1;a=b\r\n!\r\n0\r\n\r\n":
            writer.write(bytes([byte]))
            await writer.drain()

    async def test(address: str) -> None:
        body, headers = {"prompt": "é" * 70_000}, {"Authorization": "Bearer k"}
        async with exchange("POST", address, "/completion", body, headers) as answer:
            assert answer.status == 200 and answer.headers["x-which"] == "one"
            assert await answer.read() == b"hello!"

    with_engine(engine, test)


def test_who_leaves_ends_the_connection_at_once() -> None:
    gone = asyncio.Event()

    async def engine(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await request_of(reader)
        writer.write(HEAD + b"5\r\nhello\r\n")
        try:
            await reader.read()
        except ConnectionError:
            pass
        gone.set()
        writer.close()

    async def test(address: str) -> None:
        async with exchange("GET", address, "/", None, {}) as answer:
            async for piece in answer.pieces():
                assert piece == b"hello"
                break
        await gone.wait()

    with_engine(engine, test)


class Server:
    """What an upstream needs of a `LlamaServer`. lent, times: how often it is lent now, and was.  starts: again."""

    ctx_size = 100
    headers: dict[str, str] = {}

    def __init__(self, address: str) -> None:
        self.address, self.lent, self.times, self.starts = address, 0, 0, threading.Event()
        self.starts.set()

    @contextmanager
    def lend(self) -> Iterator[str]:
        self.starts.wait(20)
        self.lent += 1
        self.times += 1
        try:
            yield self.address
        finally:
            self.lent -= 1

    def why_it_broke(self) -> EngineEnded:
        return EngineEnded("llama.cpp ended")


@pytest.mark.parametrize("sent", [b"", b"HTTP/1.1 200", HEAD, HEAD + b"5\r\nhel", b"nonsense\r\n\r\n", None])
def test_a_connection_that_breaks_is_an_engine_that_ended(sent: bytes | None) -> None:
    async def engine(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await request_of(reader)
        writer.write(sent or b"")
        await writer.drain()
        writer.close()

    async def test(address: str) -> None:
        server = Server(address if sent is not None else "http://127.0.0.1:1")
        upstream = LocalUpstream(cast("LlamaServer", server), 1)
        with pytest.raises(EngineEnded, match=r"llama\.cpp ended"):
            async with upstream.exchange("POST", "/completion", {}) as answer:
                await answer.read()
        await asyncio.sleep(0)
        assert server.lent == 0

    with_engine(engine, test)


def test_who_leaves_while_the_engine_starts_again_keeps_nothing() -> None:
    async def engine(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        raise AssertionError("nothing is asked")

    async def test(address: str) -> None:
        server = Server(address)
        server.starts.clear()
        upstream = LocalUpstream(cast("LlamaServer", server), 1)
        asking = asyncio.create_task(upstream.exchange("POST", "/completion", {}).__aenter__())
        await asyncio.sleep(0.05)
        asking.cancel()
        await asyncio.wait([asking])
        server.starts.set()
        while not server.times or server.lent:
            await asyncio.sleep(0.01)

    with_engine(engine, test)
