"""Several answers that are written at the same time, as one stream."""

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from typing import TypeVar

_T = TypeVar("_T")
_WAITING = 64  # pieces that may wait for a slow reader


async def interleaved(streams: Sequence[AsyncGenerator[_T]], at_once: int) -> AsyncGenerator[_T]:
    """The items of all streams as they come. The first error ends all of them; so does closing this generator.

    at_once: streams that run at the same time, so that one request leaves room for others between its parts.
    """
    if len(streams) == 1:
        async with aclosing(streams[0]) as only:
            async for item in only:
                yield item
        return
    queue = asyncio.Queue[tuple[_T] | Exception | None](_WAITING)
    turns = asyncio.Semaphore(at_once)
    tasks = [asyncio.create_task(_pump(stream, queue, turns)) for stream in streams]
    try:
        running = len(tasks)
        while running:
            found = await queue.get()
            if isinstance(found, Exception):
                raise found
            if found is None:
                running -= 1
            else:
                yield found[0]
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _pump(
    stream: AsyncGenerator[_T], queue: "asyncio.Queue[tuple[_T] | Exception | None]", turns: asyncio.Semaphore
) -> None:
    try:
        async with turns, aclosing(stream):
            async for item in stream:
                await queue.put((item,))
    except Exception as error:
        await queue.put(error)
    else:
        await queue.put(None)
