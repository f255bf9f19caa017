"""What computes behind the front: one request to it, and its answer as it comes.

The front does not know whether that is a llama.cpp beside it, several on other machines (replicas.py), or another
engine.
"""

from collections.abc import AsyncIterator, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any, Literal, Protocol

import anyio
import httpx2

from smidgen.engines.llama_cpp.server import LlamaServer
from smidgen.engines.vllm import VllmServer
from smidgen.errors import EngineEnded

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
        limits = httpx2.Limits(max_connections=None, max_keepalive_connections=0)
        # Without the proxies that the environment names: the engine is on this machine.
        self._client = httpx2.AsyncClient(timeout=None, limits=limits, trust_env=False)

    @asynccontextmanager
    async def exchange(self, method: str, path: str, body: dict[str, Any] | None) -> AsyncIterator[Answer]:
        """See `Upstream`."""
        lease = self.server.lend()
        address = await anyio.to_thread.run_sync(lease.__enter__)  # it may have to start again, which takes a while
        try:
            request = self._client.build_request(method, address + path, json=body, headers=self.server.headers)
            try:
                answer = await self._client.send(request, stream=True)
            except httpx2.HTTPError as error:
                raise await self._why_it_broke() from error
            try:
                yield _LocalAnswer(answer, self)
            finally:
                with anyio.CancelScope(shield=True):
                    await answer.aclose()
        finally:
            lease.__exit__(None, None, None)

    def close(self) -> None:
        """End the engine."""
        self.server.close()

    async def _why_it_broke(self) -> EngineEnded:
        return await anyio.to_thread.run_sync(self.server.why_it_broke)


class _LocalAnswer:
    def __init__(self, answer: httpx2.Response, upstream: LocalUpstream) -> None:
        self.status = answer.status_code
        self.headers: Mapping[str, str] = answer.headers
        self._answer, self._upstream = answer, upstream

    async def read(self) -> bytes:
        return b"".join([piece async for piece in self.pieces()])

    async def pieces(self) -> AsyncIterator[bytes]:
        try:
            async for piece in self._answer.aiter_raw():
                yield piece
        except httpx2.HTTPError as error:
            raise await self._upstream._why_it_broke() from error
