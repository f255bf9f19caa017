"""What computes behind the front: one request to it, and its answer as it comes.

The front does not know whether that is a llama.cpp beside it, several on other machines (replicas.py), or another
engine.
"""

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from typing import Any, Literal, Protocol

import anyio

from smidgen.engines.llama_cpp.server import LlamaServer
from smidgen.engines.vllm import VllmServer
from smidgen.errors import EngineEnded
from smidgen.serving.wire import BROKEN, WireAnswer, exchange

Dialect = Literal["llama.cpp", "openai"]


class Answer(Protocol):
    """What the engine answers to one request. Raises EngineEnded where it ends in between."""

    status: int
    headers: Mapping[str, str]

    async def read(self) -> bytes:
        """The whole body."""
        ...

    def pieces(self) -> AsyncIterator[bytes]:
        """The body as it comes, cut anywhere."""
        ...


class Upstream(Protocol):
    """An engine with one model.

    context: tokens of prompt and answer of one request.  slots: requests that it works on at a time.
    dialect: whose endpoints it has: llama.cpp's own beside OpenAI's, or OpenAI's alone.
    """

    context: int
    slots: int
    dialect: Dialect

    def exchange(self, method: str, path: str, body: dict[str, Any] | None) -> AbstractAsyncContextManager[Answer]:
        """Send one request. Leaving the context, for whatever reason, ends the work on it and frees its slot.

        Raises EngineEnded, with what to tell a person, where the engine ends or cannot be started again.
        """
        ...

    def close(self) -> None:
        """End the engine. It may take a moment."""
        ...


class LocalUpstream:
    """A llama.cpp or a vLLM in a process of its own on this machine; an `Upstream`."""

    def __init__(self, server: LlamaServer | VllmServer, slots: int) -> None:
        self.dialect: Dialect = "openai" if isinstance(server, VllmServer) else "llama.cpp"
        self.server, self.context, self.slots = server, server.ctx_size, slots

    @asynccontextmanager
    async def exchange(self, method: str, path: str, body: dict[str, Any] | None) -> AsyncIterator[Answer]:
        """See `Upstream`."""
        async with self._lent() as address, AsyncExitStack() as stack:
            try:
                asked = exchange(method, address, path, body, self.server.headers)
                answer = await stack.enter_async_context(asked)
            except BROKEN as error:
                raise await self._why_it_broke() from error
            yield _LocalAnswer(answer, self)

    def close(self) -> None:
        """End the engine."""
        self.server.close()

    @asynccontextmanager
    async def _lent(self) -> AsyncIterator[str]:
        """The engine's address. It may have to start again, which takes a while; who leaves meanwhile gives it back."""
        lease = self.server.lend()
        entering = asyncio.ensure_future(anyio.to_thread.run_sync(lease.__enter__))

        def give_back(entered: "asyncio.Future[str]") -> None:
            if not entered.cancelled() and entered.exception() is None:
                lease.__exit__(None, None, None)

        try:
            yield await asyncio.shield(entering)
        finally:
            entering.add_done_callback(give_back)

    async def _why_it_broke(self) -> EngineEnded:
        return await anyio.to_thread.run_sync(self.server.why_it_broke)


class _LocalAnswer:
    def __init__(self, answer: WireAnswer, upstream: LocalUpstream) -> None:
        self.status, self.headers = answer.status, answer.headers
        self._answer, self._upstream = answer, upstream

    async def read(self) -> bytes:
        return b"".join([piece async for piece in self.pieces()])

    async def pieces(self) -> AsyncIterator[bytes]:
        try:
            async for piece in self._answer.pieces():
                yield piece
        except BROKEN as error:
            raise await self._upstream._why_it_broke() from error
