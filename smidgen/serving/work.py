"""One request that an engine works on, from its place in the line to the last byte of the answer.

All of it runs in one task, so that whatever ends it (the client leaves, its time is over, the engine ends) leaves every
context on the way: the engine stops, the slot is free, the model may be unloaded.
"""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any

from starlette.requests import ClientDisconnect
from starlette.responses import JSONResponse, Response
from starlette.types import Receive, Scope, Send

from smidgen.errors import SmidgenError
from smidgen.serving.hosting import Hosted
from smidgen.serving.pool import Loaded, Pool
from smidgen.serving.refusals import Refusal, error_event

Events = AsyncIterator[dict[str, Any]]


@dataclass(frozen=True)
class Stream:
    """An answer in pieces. named: each event carries its `type` as its name, as Responses and Anthropic have it."""

    events: Events
    named: bool = False


@dataclass
class Work(Response):
    """An answer that is made while it is sent.

    answer: given the loaded model, the whole answer, or a stream of events.
    seconds: the most that it may take, waiting included.  headers: of the response.
    first: called when the first event is there.
    """

    pool: Pool
    model: Hosted
    answer: Callable[[Loaded], Awaitable[dict[str, Any] | Stream]]
    seconds: float
    added: dict[str, str] = field(default_factory=dict)
    first: Callable[[], None] = lambda: None
    begun: bool = False
    named: bool = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Work until the answer is sent. Raises ClientDisconnect, Refusal and others before it has begun only."""
        work = asyncio.create_task(self._run(scope, receive, send))
        watch = asyncio.create_task(_gone(receive))
        try:
            await asyncio.wait((work, watch), return_when=asyncio.FIRST_COMPLETED)
            if work.done():
                work.result()
            elif not self.begun:
                raise ClientDisconnect
        finally:
            for task in (work, watch):
                task.cancel()
            await asyncio.gather(work, watch, return_exceptions=True)

    async def _run(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            async with asyncio.timeout(self.seconds):
                async with self.pool.use(self.model) as loaded, loaded.line.place():
                    answer = await self.answer(loaded)
                    if isinstance(answer, Stream):
                        self.named = answer.named
                        await self._stream(answer, send)
                        return
                await JSONResponse(answer, headers=self.added)(scope, receive, send)
        except TimeoutError:
            error = Refusal(f"the answer was not complete after {self.seconds:.0f} s.", 504, code="timeout")
            if not self.begun:
                raise error from None
            await _send(send, error_event(error, self.named), last=True)

    async def _stream(self, stream: Stream, send: Send) -> None:
        """Send events as they come. What fails before the first is an ordinary refusal, later an event."""
        async with aclosing(stream.events) as events:  # pyright: ignore[reportArgumentType]
            try:
                async for event in events:
                    if not self.begun:
                        self.first()
                        await self._begin(send)
                    await _send(send, _as_event(event, stream.named))
            except SmidgenError as error:
                if not self.begun:
                    raise
                await _send(send, error_event(error, stream.named), last=True)
                return
            if not self.begun:
                await self._begin(send)
            await _send(send, b"" if stream.named else b"data: [DONE]\n\n", last=True)

    async def _begin(self, send: Send) -> None:
        self.begun = True
        headers = {"content-type": "text/event-stream; charset=utf-8", "cache-control": "no-cache", **self.added}
        raw = [(key.lower().encode(), value.encode("latin-1")) for key, value in headers.items()]
        await send({"type": "http.response.start", "status": 200, "headers": raw})


def _as_event(event: dict[str, Any], named: bool) -> bytes:
    name = f"event: {event['type']}\n" if named and "type" in event else ""
    return f"{name}data: {json.dumps(event, ensure_ascii=False)}\n\n".encode("utf-8", "backslashreplace")


async def _send(send: Send, piece: bytes, last: bool = False) -> None:
    await send({"type": "http.response.body", "body": piece, "more_body": not last})


async def _gone(receive: Receive) -> None:
    """Returns when the client has left."""
    while (await receive())["type"] != "http.disconnect":
        pass
