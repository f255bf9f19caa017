"""Guarded streams: nothing goes out before it is judged, and nothing that was judged harmless is lost or moved."""

import asyncio
import copy
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from smidgen.errors import EngineEnded
from smidgen.serving.guard.decisions import Decision
from smidgen.serving.guard.streaming import guarded
from smidgen.serving.guard.texts import Transcript

Chunk = dict[str, Any]
FIELDS = ("content", "reasoning_content", "text", "tool")


def chat_chunk(index: int, delta: dict[str, Any], finish: str | None = None) -> Chunk:
    choice = {"index": index, "delta": delta, "finish_reason": finish}
    return {"id": "chatcmpl-1", "object": "chat.completion.chunk", "model": "m", "choices": [choice]}


def text_chunk(index: int, text: str, finish: str | None = None) -> Chunk:
    choice = {"index": index, "text": text, "finish_reason": finish}
    return {"id": "cmpl-1", "object": "text_completion", "model": "m", "choices": [choice]}


def piece(index: int, place: str, text: str) -> Chunk:
    if place == "text":
        return text_chunk(index, text)
    call = {"index": 0, "function": {"arguments": text}}
    return chat_chunk(index, {"tool_calls": [call]} if place == "tool" else {place: text})


def decision(verdict: Any = "allowed", consequence: Any = "allow") -> Decision:
    return Decision("weapons", "answer", verdict, consequence, 0.5, "A reason.", 0.1)


def said(chunks: Sequence[Chunk], index: int) -> str:
    """All that went out of one answer."""
    transcript = Transcript()
    for chunk in chunks:
        for choice in chunk["choices"]:
            if choice["index"] == index and choice.get("finish_reason") != "content_filter":
                transcript.add(choice)
    return transcript.text


async def source(chunks: Sequence[Chunk], error: Exception | None = None) -> AsyncIterator[Chunk]:
    for chunk in chunks:
        yield copy.deepcopy(chunk)
    if error is not None:
        raise error


def run(
    chunks: Sequence[Chunk],
    is_bad: Callable[[str], bool] = lambda _: False,
    *,
    error: Exception | None = None,
    **settings: Any,
) -> tuple[list[Chunk], dict[int, list[str]]]:
    """What goes out, and what was judged of each answer; nothing may go out that was not judged before."""
    judged: dict[int, list[str]] = {}
    out: list[Chunk] = []

    async def judge(index: int, text: str) -> list[Decision]:
        await asyncio.sleep(0)
        judged.setdefault(index, []).append(text)
        return [decision("refused", "refuse") if is_bad(text) else decision()]

    async def go() -> None:
        async for chunk in guarded(source(chunks, error), judge, **settings):
            out.append(chunk)
            for index in {choice["index"] for choice in chunk["choices"]}:
                text = said(out, index)
                assert not text or any(seen.startswith(text) and not is_bad(seen) for seen in judged[index])

    if error is None:
        asyncio.run(go())
    else:
        with pytest.raises(type(error)):
            asyncio.run(go())
    return out, judged


def without_decisions(chunks: Sequence[Chunk]) -> list[Chunk]:
    return [{key: value for key, value in chunk.items() if key != "smidgen"} for chunk in chunks]


PIECES = st.lists(st.tuples(st.integers(0, 2), st.sampled_from(FIELDS), st.text("ab .!\n", max_size=12)), max_size=40)


@given(PIECES, st.integers(1, 40), st.booleans())
@settings(max_examples=150, deadline=None)
def test_what_is_allowed_goes_out_whole_and_in_order(
    pieces: list[tuple[int, str, str]], every: int, finished: bool
) -> None:
    chunks = [piece(*one) for one in pieces]
    if finished:
        chunks += [chat_chunk(index, {}, "stop") for index in range(3)]
        chunks.append({"id": "chatcmpl-1", "object": "chat.completion.chunk", "choices": [], "usage": {"total": 3}})
    out, _ = run(chunks, choices=3, every=every)
    assert without_decisions(out) == chunks


@given(PIECES, st.integers(1, 40), st.sampled_from(["a", "bb", "a b", "b.\n"]))
@settings(max_examples=150, deadline=None)
def test_what_is_refused_never_goes_out(pieces: list[tuple[int, str, str]], every: int, bad: str) -> None:
    chunks = [piece(*one) for one in pieces] + [chat_chunk(index, {}, "stop") for index in range(3)]
    whole = {index: said(chunks, index) for index in range(3)}
    out, _ = run(chunks, lambda text: bad in text, choices=3, every=every)
    refused = [index for index in range(3) if bad in whole[index]]
    for index in range(3):
        ends = [one["finish_reason"] for chunk in out for one in chunk["choices"]
                if one["index"] == index and one["finish_reason"]]  # fmt: skip
        sent = said(out, index)
        if index in refused:
            assert bad not in sent and whole[index].startswith(sent)
            assert ends == ["content_filter"]
        elif len(refused) < 3:
            assert sent == whole[index] and ends == ["stop"]


def test_text_is_held_back_until_a_sentence_ends() -> None:
    words = [text_chunk(0, word) for word in ("One two. ", "Three", " four. ", "Five")]
    _, judged = run(words, every=10)
    assert judged[0] == ["One two. Three four. ", "One two. Three four. Five"]
    _, judged = run([text_chunk(0, "word ")] * 9, every=10)
    assert [len(text) for text in judged[0]] == [20, 40, 45]


def test_a_short_answer_is_judged_once() -> None:
    chunks = [chat_chunk(0, {"role": "assistant", "content": ""}), chat_chunk(0, {"content": "Hello."})]
    out, judged = run([*chunks, chat_chunk(0, {}, "stop")])
    assert judged == {0: ["Hello."]}
    assert "smidgen" not in out[1]
    assert out[2]["smidgen"]["guard"] == [
        {
            "policy": "weapons", "on": "answer", "verdict": "allowed", "consequence": "allow", "probability": 0.5,
            "reason": "A reason.",
        }
    ]  # fmt: skip


def test_an_answer_without_a_word_is_not_judged() -> None:
    chunks = [chat_chunk(0, {"role": "assistant", "content": None}), chat_chunk(0, {}, "length")]
    out, judged = run(chunks)
    assert (out, judged) == (chunks, {})


def test_the_refusal_is_the_last_of_it_and_reading_stops() -> None:
    told: list[list[Decision]] = []
    read = 0

    async def endless() -> AsyncIterator[Chunk]:
        nonlocal read
        while True:
            read += 1
            yield chat_chunk(0, {"content": "bad. " if read == 5 else "good. "})

    async def judge(index: int, text: str) -> list[Decision]:
        return [decision("refused", "refuse") if "bad" in text else decision()]

    async def go() -> list[Chunk]:
        return [chunk async for chunk in guarded(endless(), judge, every=12, on_decisions=told.append)]

    out = asyncio.run(go())
    assert said(out, 0) == "good. " * 4
    assert out[-1]["choices"][0]["finish_reason"] == "content_filter"
    delta = out[-1]["choices"][0]["delta"]
    assert "refuses this answer: policy weapons" in delta["refusal"] and "content" not in delta
    assert out[-1]["smidgen"]["guard"][0]["verdict"] == "refused"
    assert read == 7 and len(told) == 3


def test_where_nothing_went_out_the_refusal_is_all_that_is_said() -> None:
    out, _ = run([chat_chunk(0, {"content": "bad"}), chat_chunk(0, {}, "stop")], lambda text: "bad" in text)
    assert out[0]["choices"][0]["delta"]["content"] == out[0]["choices"][0]["delta"]["refusal"]


def test_what_was_flagged_once_stays_flagged() -> None:
    chunks = [*([text_chunk(0, "word. ")] * 9), text_chunk(0, "", "stop")]

    async def whole() -> list[Chunk]:
        async def judge(index: int, text: str) -> list[Decision]:
            return [decision("flagged", "flag") if len(text) < 20 else decision()]

        return [chunk async for chunk in guarded(source(chunks), judge, every=6)]

    assert asyncio.run(whole())[-1]["smidgen"]["guard"][0]["verdict"] == "flagged"


@pytest.mark.parametrize(
    "hidden",
    [
        {"tool_calls": [{"index": 0, "id": "1", "type": "function", "function": {"name": "bad", "arguments": ""}}]},
        {"function_call": {"arguments": "bad"}},
        {"reasoning_content": "bad"},
        {"refusal": "bad"},
        {"not_yet_invented": [{"inside": {"deeper": "bad"}}]},
    ],
)
def test_no_field_gets_past_the_guard(hidden: dict[str, Any]) -> None:
    out, _ = run([chat_chunk(0, hidden), chat_chunk(0, {}, "stop")], lambda text: "bad" in text)
    assert [choice["finish_reason"] for chunk in out for choice in chunk["choices"]] == ["content_filter"]


def test_a_word_that_is_cut_between_chunks_is_judged_whole() -> None:
    chunks = [piece(0, place, text) for place in ("tool", "content") for text in ("ba", "d ", "x")]
    _, judged = run(chunks)
    assert judged[0] == ["bad x\nbad x"]


def test_one_chunk_may_have_parts_of_several_answers() -> None:
    both = {"id": "1", "object": "text_completion", "choices": [
        {"index": 0, "text": "good", "finish_reason": None}, {"index": 1, "text": "bad", "finish_reason": None},
    ]}  # fmt: skip
    out, _ = run([both, text_chunk(0, " end", "stop")], lambda text: "bad" in text, choices=2)
    assert said(out, 0) == "good end"
    assert said(out, 1) == ""


def test_where_the_stream_breaks_what_was_read_is_judged_first() -> None:
    out, _ = run([text_chunk(0, "good")], error=EngineEnded("gone"))
    assert said(out, 0) == "good"
    out, _ = run([text_chunk(0, "bad")], lambda text: "bad" in text, error=EngineEnded("gone"), choices=2)
    assert said(out, 0) == ""


def test_an_undecided_guard_follows_the_policy() -> None:
    async def go(consequence: str) -> list[Chunk]:
        async def judge(index: int, text: str) -> list[Decision]:
            return [decision("undecided", consequence)]

        return [chunk async for chunk in guarded(source([text_chunk(0, "x", "stop")]), judge)]

    for consequence in ("allow", "flag"):
        out = asyncio.run(go(consequence))
        assert said(out, 0) == "x" and out[0]["smidgen"]["guard"][0]["verdict"] == "undecided"
    assert asyncio.run(go("refuse"))[0]["choices"][0]["finish_reason"] == "content_filter"
