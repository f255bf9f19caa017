"""Answers while they are written: in line, stopped, failed, abandoned."""

import asyncio
import threading
import time
from collections.abc import Callable
from contextlib import aclosing

import pytest

from smidgen.errors import EngineEnded
from smidgen.showing import writing as writing_module
from smidgen.showing.writing import Line, Writing
from tests.showing.pretended import reply_of


def until(true: Callable[[], bool]) -> None:
    end = time.monotonic() + 30
    while not true():
        assert time.monotonic() < end
        time.sleep(0.005)


def watched(writing: Writing) -> list[str]:
    """What somebody sees who looks until the end."""

    async def watch() -> list[str]:
        return [writing.text async for _ in writing.looks()]

    return asyncio.run(watch())


def test_it_is_seen_whole_and_its_state_is_done() -> None:
    writing = Writing(lambda: reply_of(["a", "b", "c"]), Line(1))
    assert watched(writing)[-1] == "abc"
    assert (writing.state, writing.error) == ("done", None)
    assert writing.reply is not None and writing.reply.stop == "end"


def test_stopping_keeps_what_there_is_and_ends_the_reply() -> None:
    go_on = threading.Event()
    writing = Writing(lambda: reply_of(["a", "b", "c"], go_on), Line(1))
    until(lambda: writing.text == "a")
    writing.stop()
    assert (writing.state, writing.text) == ("stopped", "a")
    go_on.set()
    until(lambda: writing.reply is not None and writing.reply.stop == "closed")
    assert writing.text == "a"


def test_an_engine_that_ends_is_an_error_in_words() -> None:
    writing = Writing(lambda: reply_of(["a"], end=EngineEnded("llama.cpp ended.")), Line(1))
    watched(writing)
    assert (writing.state, writing.error, writing.text) == ("failed", "llama.cpp ended.", "a")


def test_an_unexpected_error_says_nothing_of_its_text(capsys: pytest.CaptureFixture[str]) -> None:
    writing = Writing(lambda: reply_of(["a"], end=KeyError("my secret message")), Line(1))
    watched(writing)
    assert writing.state == "failed" and "KeyError" in str(writing.error)
    assert "secret" not in capsys.readouterr().err + str(writing.error)


def test_others_wait_in_line_and_come_in_order() -> None:
    line, go_on, order = Line(1), threading.Event(), []

    def begin(name: str, wait: threading.Event | None = None) -> Callable[[], object]:
        def asked() -> object:
            order.append(name)
            return reply_of([name, "."], wait)

        return asked

    first = Writing(begin("first", go_on), line)  # pyright: ignore[reportArgumentType]
    until(lambda: first.state == "writing")
    others = []
    for name in ("second", "third", "fourth"):
        others.append(Writing(begin(name), line))  # pyright: ignore[reportArgumentType]
        until(lambda: len(line._waiting) == len(others))
    assert [other.state for other in others] == ["waiting"] * 3
    others[1].stop()  # who leaves the line is not asked for
    go_on.set()
    until(lambda: others[2].ended and others[0].ended)
    assert order == ["first", "second", "fourth"]


def test_who_looks_no_more_gives_the_place_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writing_module, "_ABANDONED_S", 0.05)
    go_on, line = threading.Event(), Line(1)
    abandoned = Writing(lambda: reply_of(["a", "b", "c"], go_on), line)
    until(lambda: abandoned.text == "a")
    time.sleep(0.1)
    go_on.set()
    until(lambda: abandoned.state == "stopped")
    assert abandoned.text == "a"
    assert watched(Writing(lambda: reply_of(["next"]), line))[-1] == "next"


def test_leaving_the_looks_stops_it() -> None:
    writing = Writing(lambda: reply_of(["a", "b"], threading.Event()), Line(1))

    async def leave() -> None:
        async with aclosing(writing.looks()) as looks:
            await anext(looks)

    asyncio.run(leave())
    assert writing.state == "stopped"
