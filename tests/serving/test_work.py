"""An answer on its way: what breaks it off is told in the dialect of its stream, and who leaves is no fault."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import nullcontext
from types import SimpleNamespace
from typing import Any, cast

import pytest
from starlette.requests import ClientDisconnect

from smidgen.errors import EngineEnded
from smidgen.serving.hosting import Hosted
from smidgen.serving.line import Line
from smidgen.serving.pool import Loaded, Pool
from smidgen.serving.upstream import Upstream
from smidgen.serving.work import Stream, Work


class OneModel:
    """A pool of one model that is always there."""

    def use(self, model: Hosted) -> Any:
        return nullcontext(Loaded(model, cast("Upstream", None), Line(1, 1)))


def sent(events: AsyncIterator[dict[str, Any]], named: bool, leaves_after: int | None = None) -> bytes:
    """What a client gets that leaves after so many messages."""
    got: list[bytes] = []
    left = asyncio.Event()

    async def receive() -> dict[str, Any]:
        await left.wait()
        return {"type": "http.disconnect"}

    async def send(message: Any) -> None:
        got.append(message.get("body", b""))
        if len(got) == leaves_after:
            left.set()

    async def answer(loaded: Loaded) -> Stream:
        return Stream(events, named)

    work = Work(cast("Pool", OneModel()), cast("Hosted", SimpleNamespace()), answer, 60)
    asyncio.run(asyncio.wait_for(work({"type": "http"}, receive, cast("Any", send)), 60))
    return b"".join(got)


async def that_break_off() -> AsyncIterator[dict[str, Any]]:
    yield {"type": "message_start"}
    raise EngineEnded("it ended")


async def without_end() -> AsyncIterator[dict[str, Any]]:
    while True:
        yield {"type": "ping"}
        await asyncio.sleep(0)


async def that_never_come() -> AsyncIterator[dict[str, Any]]:
    await asyncio.Event().wait()
    yield {}


def test_a_named_stream_that_breaks_off_ends_in_an_event_called_error() -> None:
    *_, name, data = sent(that_break_off(), named=True).decode().strip().splitlines()
    told = json.loads(data.removeprefix("data: "))
    assert name == "event: error" and told["type"] == "error" and told["error"]["code"] == 503


def test_another_stream_has_the_error_alone() -> None:
    last = sent(that_break_off(), named=False).decode().strip().splitlines()[-1]
    assert set(json.loads(last.removeprefix("data: "))) == {"error"}


def test_who_leaves_a_stream_that_has_begun_is_no_fault() -> None:
    assert sent(without_end(), named=False, leaves_after=3)


def test_who_leaves_before_it_has_begun_gets_nothing() -> None:
    async def leave() -> None:
        async def receive() -> dict[str, Any]:
            return {"type": "http.disconnect"}

        async def answer(loaded: Loaded) -> Stream:
            return Stream(that_never_come())

        work = Work(cast("Pool", OneModel()), cast("Hosted", SimpleNamespace()), answer, 60)
        await work({"type": "http"}, receive, cast("Any", None))

    with pytest.raises(ClientDisconnect):
        asyncio.run(leave())
