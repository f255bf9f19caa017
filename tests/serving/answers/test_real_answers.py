"""Answers of a real model, whole and streamed, and the scores of its prompts."""

import asyncio
from pathlib import Path
from typing import Any

import pytest
import torch

import smidgen
from smidgen.errors import EngineEnded
from smidgen.serving.answers.chat import chat, chat_events
from smidgen.serving.answers.completions import complete, complete_events
from smidgen.serving.answers.scorer import PromptScorer
from smidgen.serving.refusals import Refusal
from smidgen.serving.requests.reading import read_request
from tests import tiny_models
from tests.serving.answers.conftest import Running
from tests.serving.answers.pretended import tokenizer_of

EMOJI = [{"role": "user", "content": "Say hi \U0001f44b in Bengali and with emoji"}]
rendered_by = pytest.mark.parametrize("by_us", [False, True])
BENGALI = "বাংলা ভাষা বাংলা ভাষা বাংলা"


def talked(running: Running, by_us: bool = False, **body: Any) -> dict[str, Any]:
    model = running.rendering if by_us else running.model
    return running.loop.run(chat(model, read_request("/v1/chat/completions", body)))


def talked_in_pieces(running: Running, by_us: bool = False, **body: Any) -> list[dict[str, Any]]:
    model = running.rendering if by_us else running.model
    asked = read_request("/v1/chat/completions", body | {"stream": True})

    async def collect() -> list[dict[str, Any]]:
        return [event async for event in chat_events(model, asked)]

    return running.loop.run(collect())


def completed(running: Running, **body: Any) -> dict[str, Any]:
    return running.loop.run(complete(running.model, read_request("/v1/completions", body)))


def completed_in_pieces(running: Running, **body: Any) -> list[dict[str, Any]]:
    asked = read_request("/v1/completions", body | {"stream": True})

    async def collect() -> list[dict[str, Any]]:
        return [event async for event in complete_events(running.model, asked)]

    return running.loop.run(collect())


@rendered_by
def test_emoji_have_one_entry_a_token_and_all_log_probabilities(running: Running, by_us: bool) -> None:
    answer = talked(running, by_us, messages=EMOJI, max_tokens=6, temperature=0, logprobs=True, top_logprobs=2)
    entries = answer["choices"][0]["logprobs"]["content"]
    assert len(entries) == answer["usage"]["completion_tokens"] == 6
    text = bytes(byte for entry in entries for byte in entry["bytes"]).decode()
    assert text == answer["choices"][0]["message"]["content"]
    assert all(len(entry["top_logprobs"]) == 2 for entry in entries)
    assert all(entry["logprob"] == entry["top_logprobs"][0]["logprob"] for entry in entries)  # temperature 0
    assert any(entry["token"].startswith("bytes:") for entry in entries)


@rendered_by
def test_emoji_in_a_stream_have_one_entry_a_token(running: Running, by_us: bool) -> None:
    asked = {"messages": EMOJI, "max_tokens": 6, "temperature": 0, "logprobs": True, "top_logprobs": 1}
    events = talked_in_pieces(running, by_us, **asked)
    entries = [
        entry
        for event in events[:-1]
        for entry in (event["choices"][0]["logprobs"] or {"content": []})["content"]
    ]  # fmt: skip
    assert len(entries) == events[-1]["usage"]["completion_tokens"] == 6
    whole = talked(running, by_us, **asked)["choices"][0]["logprobs"]["content"]
    assert [entry["bytes"] for entry in entries] == [entry["bytes"] for entry in whole]


@pytest.mark.parametrize("tokens", [8, 9])
def test_bengali_in_the_shape_of_completions(running: Running, tokens: int) -> None:
    answer = completed(running, prompt=BENGALI, max_tokens=tokens, temperature=0, logprobs=2)
    choice = answer["choices"][0]
    found = choice["logprobs"]
    assert len(found["tokens"]) == len(found["token_logprobs"]) == len(found["text_offset"]) == tokens
    known = [one for one in found["token_logprobs"] if one is not None]
    assert len(known) >= tokens - 1  # one may be the beginning of a character that did not come
    assert all(len(top) == 2 for top in found["top_logprobs"] if top is not None)
    assert max(found["text_offset"]) <= len(choice["text"])


@rendered_by
def test_three_answers(running: Running, by_us: bool) -> None:
    answer = talked(running, by_us, messages=EMOJI, max_tokens=4, n=3, temperature=0)
    assert answer["usage"]["completion_tokens"] == 12
    single = talked(running, messages=EMOJI, max_tokens=4, temperature=0)
    assert answer["usage"]["prompt_tokens"] == single["usage"]["prompt_tokens"]
    assert [choice["index"] for choice in answer["choices"]] == [0, 1, 2]


def test_a_seed_repeats_its_answer_also_when_the_prompt_was_read_before(running: Running) -> None:
    def written() -> str:
        return completed(running, prompt="Once upon a time", max_tokens=12, seed=3, temperature=1.5)["choices"][0][
            "text"
        ]

    first = written()
    assert all(written() == first for _ in range(3))


def test_two_prompts_streamed_as_whole(running: Running) -> None:
    asked = {"prompt": ["The capital of France", "One two"], "max_tokens": 5, "temperature": 0, "echo": True}
    whole = completed(running, **asked)
    events = completed_in_pieces(running, **asked)
    for index, choice in enumerate(whole["choices"]):
        pieces = [one for event in events for one in event["choices"] if one["index"] == index]
        assert "".join(one["text"] for one in pieces) == choice["text"]
        assert pieces[-1]["finish_reason"] == choice["finish_reason"] == "length"
    assert events[-1]["usage"] == whole["usage"]
    assert whole["usage"]["completion_tokens"] == 10


def test_a_stop_text_that_never_comes_swallows_nothing(running: Running) -> None:
    asked = {"prompt": "My dog is very friend", "max_tokens": 1, "temperature": 0, "logit_bias": {}}
    plain = completed(running, **asked)["choices"][0]["text"]
    assert plain
    stop = f"{plain[-2:]}@@@@"
    assert completed(running, **asked, stop=stop)["choices"][0]["text"] == plain
    pieces = completed_in_pieces(running, **asked, stop=stop)
    assert "".join(one["text"] for event in pieces for one in event["choices"]) == plain


def test_a_begun_answer_goes_on(running: Running) -> None:
    messages = [*EMOJI, {"role": "assistant", "content": "I would say"}]
    asked = {"messages": messages, "max_tokens": 5, "temperature": 0}
    whole = talked(running, **asked)["choices"][0]["message"]["content"]
    assert not whole.startswith("I would say")
    pieces = talked_in_pieces(running, **asked)
    assert "".join(event["choices"][0]["delta"].get("content", "") for event in pieces[:-1]) == whole


@rendered_by
def test_too_long_a_conversation_names_both_numbers(running: Running, by_us: bool) -> None:
    with pytest.raises(Refusal, match=r"8\d\d tokens.* 512 tokens") as found:
        talked(running, by_us, messages=[{"role": "user", "content": "word " * 800}])
    assert (found.value.status, found.value.code) == (400, "context_length_exceeded")


def test_scores_of_a_prompt_are_those_of_the_model(running: Running, smollm_path: Path) -> None:
    text = "The quick brown fox jumps over the \U0001f642 dog."
    answer = completed(running, prompt=[text, "A"], max_tokens=0, echo=True, logprobs=3)
    found = answer["choices"][0]["logprobs"]
    ids = tokenizer_of(running.model).encode(text)
    assert len(found["tokens"]) == len(ids) == answer["usage"]["prompt_tokens"] - 1
    with torch.no_grad():
        expected = smidgen.load(smollm_path).decoder(torch.tensor([ids]))[0].log_softmax(-1)
    own = expected[:-1].gather(1, torch.tensor(ids)[1:, None])[:, 0]
    assert found["token_logprobs"][0] is None
    assert found["token_logprobs"][1:] == pytest.approx(own.tolist(), abs=2e-3)
    for place, top in enumerate(found["top_logprobs"][1:]):
        assert list(top.values()) == pytest.approx(expected[place].topk(3).values.tolist(), abs=2e-3)
    assert answer["choices"][1]["logprobs"]["token_logprobs"] == [None]
    assert [text[place:] for place in found["text_offset"]][1].startswith(" quick")


def test_the_answer_behind_a_scored_prompt_is_the_engines(running: Running) -> None:
    answer = completed(running, prompt="The capital of France", max_tokens=3, temperature=0, echo=True, logprobs=1)
    plain = completed(running, prompt="The capital of France", max_tokens=3, temperature=0)
    choice = answer["choices"][0]
    assert choice["text"] == "The capital of France" + plain["choices"][0]["text"]
    assert len(choice["logprobs"]["tokens"]) == answer["usage"]["total_tokens"]
    assert None not in choice["logprobs"]["token_logprobs"][1:]


def test_leaving_ends_the_scoring_and_the_next_request_works(running: Running) -> None:
    async def leave() -> None:
        task = asyncio.create_task(running.scorer.score([[5] * 500] * 4, 1))
        await asyncio.sleep(0.2)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert len(await running.scorer.score([[5, 6]], 1)) == 1

    running.loop.run(leave())


def test_a_scorer_that_is_killed_is_one_error(running: Running) -> None:
    async def kill() -> None:
        await running.scorer.score([[5, 6]], 1)
        task = asyncio.create_task(running.scorer.score([[5] * 500] * 4, 1))
        await asyncio.sleep(0.1)
        running.scorer.close()
        with pytest.raises(EngineEnded, match="scores prompts ended"):
            await task
        assert len(await running.scorer.score([[5, 6]], 1)) == 1

    running.loop.run(kill())


def test_a_model_that_our_decoder_does_not_know_is_not_scored(running: Running, tmp_path: Path) -> None:
    path = tiny_models.write_gemma3(tmp_path / "foreign.gguf")
    path.write_bytes(path.read_bytes().replace(b"gemma3", b"gemmaX"))
    with pytest.raises(Refusal, match="cannot be scored with this model") as found:
        running.loop.run(PromptScorer(path).score([[1, 2]], 1))
    assert found.value.status == 501
