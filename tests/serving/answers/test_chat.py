"""Answers to conversations: nothing lost or added, right counts, and errors that are errors."""

import asyncio
from contextlib import aclosing
from typing import Any

import pytest

from smidgen.errors import EngineEnded
from smidgen.serving.answers.chat import chat, chat_events
from smidgen.serving.refusals import Refusal
from smidgen.serving.requests.asked import Asked
from tests.serving.answers.pretended import PretendedUpstream, Reply, chat_stream, error, model_on, sse

QUESTION = [{"role": "user", "content": "Well?"}]


def asked(**more: Any) -> Asked:
    return Asked(path="/v1/chat/completions", body={"messages": QUESTION}, messages=QUESTION, **more)


def whole(reply: Reply, question: Asked) -> dict[str, Any]:
    return asyncio.run(chat(model_on(PretendedUpstream(lambda body: reply)), question))


def streamed(reply: Reply, question: Asked) -> list[dict[str, Any]]:
    async def collect() -> list[dict[str, Any]]:
        return [event async for event in chat_events(model_on(PretendedUpstream(lambda body: reply)), question)]

    return asyncio.run(collect())


def text_in(events: list[dict[str, Any]], index: int = 0) -> str:
    choices = [choice for event in events for choice in event["choices"] if choice["index"] == index]
    return "".join(choice["delta"].get("content", "") for choice in choices)


def test_an_answer_in_openais_shape_without_llama_cpps_own_fields() -> None:
    answer = whole(chat_stream("Yes", "."), asked())
    assert answer.pop("id").startswith("chatcmpl-")
    assert isinstance(answer.pop("created"), int)
    assert answer.pop("system_fingerprint").startswith("smidgen-")
    assert answer == {
        "object": "chat.completion",
        "model": "ours",
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": "Yes.", "refusal": None},
                "logprobs": None,
                "finish_reason": "stop",
            }
        ],
        "usage": {"prompt_tokens": 5, "completion_tokens": 2, "total_tokens": 7},
    }


def test_a_stream_begins_with_the_role_and_ends_with_the_usage() -> None:
    events = streamed(chat_stream("Yes", "."), asked(stream=True))
    assert events[0]["choices"][0]["delta"] == {"role": "assistant", "content": ""}
    assert text_in(events) == "Yes."
    assert events[-2]["choices"][0]["finish_reason"] == "stop"
    assert events[-1]["choices"] == []
    assert events[-1]["usage"]["completion_tokens"] == 2
    assert len({(event["id"], event["created"]) for event in events}) == 1
    assert not [event for event in events if "__verbose" in event or "timings" in event]


@pytest.mark.parametrize(
    ("pieces", "stop", "shown", "reason"),
    [
        (["friend", "ly", "@@"], ("ely@@@@",), "friendly@@", "length"),  # held back, and sent in the end
        (["friend", "ly@@", "@@", " more"], ("ly@@@@",), "friend", "stop"),
        (["one", " two", " three"], ("three", "two"), "one ", "stop"),
        (["aaa", "aab"], ("aab",), "aaa", "stop"),
    ],
)
def test_stop_texts_lose_and_add_nothing(pieces: list[str], stop: tuple[str, ...], shown: str, reason: str) -> None:
    reply = chat_stream(*pieces, finish="length")
    answer = whole(reply, asked(stop=stop))["choices"][0]
    assert (answer["message"]["content"], answer["finish_reason"]) == (shown, reason)
    events = streamed(reply, asked(stop=stop, stream=True))
    assert text_in(events) == shown
    assert events[-2]["choices"][0]["finish_reason"] == reason


def test_a_stop_text_ends_the_work_and_the_tokens_so_far_count() -> None:
    upstream = PretendedUpstream(lambda body: chat_stream("a", "b", "STOP", done=False), hangs=True)
    answer = asyncio.run(chat(model_on(upstream), asked(stop=("STOP",))))
    assert answer["usage"] == {"prompt_tokens": 5, "completion_tokens": 3, "total_tokens": 8}
    assert upstream.open == 0
    assert not upstream.asked[0][1].get("stop")  # llama.cpp would hold text back


def test_several_answers_have_seeds_of_their_own_and_one_count() -> None:
    upstream = PretendedUpstream(lambda body: chat_stream(str(body["seed"])))
    answer = asyncio.run(chat(model_on(upstream), asked(n=3, seed=7)))
    assert [choice["index"] for choice in answer["choices"]] == [0, 1, 2]
    assert [choice["message"]["content"] for choice in answer["choices"]] == ["7", "8", "9"]
    assert answer["usage"] == {"prompt_tokens": 5, "completion_tokens": 3, "total_tokens": 8}
    assert all(body["cache_prompt"] is False for _, body in upstream.asked)


def test_several_answers_are_streamed_side_by_side_with_one_usage() -> None:
    events = streamed(chat_stream("a", "b"), asked(n=2, stream=True))
    assert text_in(events, 0) == text_in(events, 1) == "ab"
    assert [event for event in events if "usage" in event] == events[-1:]
    assert events[-1]["usage"] == {"prompt_tokens": 5, "completion_tokens": 4, "total_tokens": 9}


def test_no_more_at_a_time_than_the_engine_has_slots() -> None:
    upstream = PretendedUpstream(lambda body: chat_stream("a"), slots=2)
    asyncio.run(chat(model_on(upstream), asked(n=5)))
    assert upstream.most_open == 2


@pytest.mark.parametrize("n", [1, 3])
def test_leaving_cancels_all_answers(n: int) -> None:
    async def leave() -> PretendedUpstream:
        upstream = PretendedUpstream(lambda body: chat_stream("a", done=False), hangs=True)
        async with aclosing(chat_events(model_on(upstream), asked(n=n, stream=True))) as events:
            await anext(events)
            assert upstream.open
        return upstream

    assert asyncio.run(leave()).open == 0


def test_a_cancelled_task_ends_its_work() -> None:
    async def cancel() -> PretendedUpstream:
        upstream = PretendedUpstream(lambda body: chat_stream("a", done=False), hangs=True)
        task = asyncio.create_task(chat(model_on(upstream), asked(n=2)))
        while len(upstream.asked) < 2:
            await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        return upstream

    assert asyncio.run(cancel()).open == 0


BEGUN = [*QUESTION, {"role": "assistant", "content": "It is"}]


@pytest.mark.parametrize(("echo", "text"), [(False, " so."), (True, "It is so.")])
def test_a_begun_answer_is_the_same_streamed_and_whole(echo: bool, text: str) -> None:
    question = Asked(path="/v1/chat/completions", body={"messages": BEGUN}, messages=BEGUN, echo=echo)
    assert whole(chat_stream(" so", "."), question)["choices"][0]["message"]["content"] == text
    assert text_in(streamed(chat_stream(" so", "."), question)) == text


def test_calls_of_tools_are_put_together() -> None:
    def delta(**call: Any) -> dict[str, Any]:
        return {"choices": [{"index": 0, "delta": {"tool_calls": [call]}, "finish_reason": None}]}

    reply = sse(
        [
            delta(index=0, id="x1", type="function", function={"name": "look", "arguments": ""}),
            delta(index=0, function={"arguments": '{"at":'}),
            delta(index=1, id="x2", type="function", function={"name": "go", "arguments": "{}"}),
            delta(index=0, function={"arguments": " 1}"}),
            {"choices": [{"index": 0, "delta": {}, "finish_reason": "tool_calls"}]},
            {"choices": [], "usage": {"prompt_tokens": 1, "completion_tokens": 9}},
        ]
    )
    choice = whole(reply, asked())["choices"][0]
    assert choice["finish_reason"] == "tool_calls"
    assert choice["message"]["content"] is None
    assert choice["message"]["tool_calls"] == [
        {"id": "x1", "type": "function", "function": {"name": "look", "arguments": '{"at": 1}'}},
        {"id": "x2", "type": "function", "function": {"name": "go", "arguments": "{}"}},
    ]


def test_one_call_at_most_where_that_is_asked_for() -> None:
    def call(number: int) -> dict[str, Any]:
        made = {"index": number, "id": f"x{number}", "function": {"name": "look", "arguments": "{}"}}
        return {"choices": [{"index": 0, "delta": {"tool_calls": [made]}, "finish_reason": None}]}

    upstream = PretendedUpstream(lambda body: sse([call(0), call(1)]), hangs=True)
    question = Asked("/v1/chat/completions", {"messages": QUESTION, "parallel_tool_calls": False}, messages=QUESTION)
    choice = asyncio.run(chat(model_on(upstream), question))["choices"][0]
    assert [one["id"] for one in choice["message"]["tool_calls"]] == ["x0"]
    assert choice["finish_reason"] == "tool_calls" and upstream.open == 0


def test_a_stream_that_breaks_off_never_passes_for_whole() -> None:
    for reply in (chat_stream("a", done=False), (200, b""), (200, b'data: {"choices": [')):
        with pytest.raises(EngineEnded, match="broke off"):
            whole(reply, asked())
        with pytest.raises(EngineEnded, match="broke off"):
            streamed(reply, asked(stream=True))


@pytest.mark.parametrize(
    ("reply", "status", "words"),
    [
        (error(400, "no such thing"), 400, "no such thing"),
        (error(500, "type must be string, but is null"), 400, "must be string"),  # an exception over what was sent
        (error(500, "Compute error."), 500, "Compute"),
        (error(503, "Loading model"), 503, "Loading"),
        (error(501, "not supported"), 501, "not supported"),
        ((500, b"<html>"), 500, "without a word"),
        (sse([{"error": {"code": 500, "message": "Invalid input batch."}}]), 500, "batch"),
        ((200, b'error: {"code": 400, "message": "old"}\n\n'), 400, "old"),
    ],
)
def test_refusals_of_the_engine(reply: Reply, status: int, words: str) -> None:
    with pytest.raises(Refusal, match=words) as found:
        whole(reply, asked())
    assert found.value.status == status


def test_a_conversation_over_the_context_names_both_numbers() -> None:
    reply = error(400, "too big", type="exceed_context_size_error", n_prompt_tokens=431, n_ctx=256)
    with pytest.raises(Refusal, match="431 tokens.* 256 tokens") as found:
        whole(reply, asked())
    assert (found.value.status, found.value.code) == (400, "context_length_exceeded")


def test_the_first_event_tells_whether_the_engine_accepts() -> None:
    async def first() -> None:
        upstream = PretendedUpstream(lambda body: error(400, "no"))
        async with aclosing(chat_events(model_on(upstream), asked(n=2, stream=True))) as events:
            await anext(events)

    with pytest.raises(Refusal):
        asyncio.run(first())
