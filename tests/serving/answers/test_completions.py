"""Texts that go on: prompts times answers, echo, counts, and what does not fit is refused."""

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from smidgen.errors import EngineEnded
from smidgen.serving.answers.completions import complete, complete_events
from smidgen.serving.answers.scorer import PromptScorer, TextScores
from smidgen.serving.refusals import Refusal
from smidgen.serving.requests.asked import Asked
from tests.serving.answers.pretended import PretendedUpstream, Reply, error, model_on, sse, text_stream, tokenizer_of


class Scores(PromptScorer):
    """The same of each text: token number i has the log-probability -i; token 5 is the likeliest always."""

    def __init__(self) -> None:
        self.asked: list[Sequence[int]] = []

    async def score(self, texts: Sequence[Sequence[int]], alternatives: int) -> list[TextScores]:
        self.asked += texts
        top = [(5 + number, -float(number)) for number in range(alternatives)]
        return [TextScores([-float(place) for place in range(1, len(text))], [top] * len(text)) for text in texts]


def asked(*prompts: str | list[int], **more: Any) -> Asked:
    body = {"prompt": list(prompts), **more.pop("body", {})}
    return Asked(path="/v1/completions", body=body, prompts=prompts, **more)


def upstream_that_says(*pieces: str, **more: Any) -> PretendedUpstream:
    return PretendedUpstream(lambda body: text_stream(*pieces, **more))


def choices_of(upstream: PretendedUpstream, path: Path, question: Asked) -> list[dict[str, Any]]:
    answer = asyncio.run(complete(model_on(upstream, path, Scores()), question))
    assert [choice["index"] for choice in answer["choices"]] == list(range(len(answer["choices"])))
    return answer["choices"]


def events_of(upstream: PretendedUpstream, path: Path, question: Asked) -> list[dict[str, Any]]:
    async def collect() -> list[dict[str, Any]]:
        return [event async for event in complete_events(model_on(upstream, path, Scores()), question)]

    return asyncio.run(collect())


def test_a_control_token_that_is_written_has_no_place_in_the_text(smollm_path: Path) -> None:
    tokenizer = tokenizer_of(model_on(PretendedUpstream(lambda body: text_stream()), smollm_path))
    control, word = next(iter(tokenizer.control - tokenizer.eos_ids)), tokenizer.encode("ass")[0]

    def told(token: int, text: str, written: int) -> dict[str, Any]:
        found = {"id": token, "bytes": list(tokenizer.piece(token)), "logprob": -1.0, "top_logprobs": []}
        more = {"tokens": [token], "tokens_predicted": written, "completion_probabilities": [found]}
        return {"content": text, "stop": False, **more}

    last = {"content": "", "stop": True, "stop_type": "limit", "tokens_predicted": 2}
    upstream = PretendedUpstream(lambda body: sse([told(control, "", 1), told(word, "ass", 2), last], done=False))
    (choice,) = choices_of(upstream, smollm_path, asked("Hi", logprobs=1, max_tokens=2))
    assert choice["text"] == "ass" and choice["logprobs"]["text_offset"] == [0, 0]


def test_each_prompt_has_its_answers_and_all_are_counted(smollm_path: Path) -> None:
    upstream = PretendedUpstream(lambda body: text_stream(f"{len(body['prompt'])}", f"/{body['seed']}"))
    question = asked("One", "One two three", [5, 6], n=2, seed=4)
    answer = asyncio.run(complete(model_on(upstream, smollm_path), question))
    assert [choice["text"] for choice in answer["choices"]] == ["1/4", "1/5", "3/4", "3/5", "2/4", "2/5"]
    assert answer["usage"] == {"prompt_tokens": 6, "completion_tokens": 12, "total_tokens": 18}
    assert answer["object"] == "text_completion"
    assert all(body["cache_prompt"] is False for _, body in upstream.asked)


def test_streams_of_several_prompts_say_whose_each_piece_is(smollm_path: Path) -> None:
    events = events_of(upstream_that_says("a", "b"), smollm_path, asked("One", "Two", n=2, echo=True))
    texts = dict.fromkeys(range(4), "")
    for event in events:
        for choice in event["choices"]:
            texts[choice["index"]] += choice["text"]
    assert texts == {0: "Oneab", 1: "Oneab", 2: "Twoab", 3: "Twoab"}
    assert [event["usage"] for event in events if "usage" in event] == [
        {"prompt_tokens": 2, "completion_tokens": 8, "total_tokens": 10}
    ]
    assert events[-1]["choices"] == []


@pytest.mark.parametrize(
    ("pieces", "stop", "shown", "reason"),
    [
        (["friend", "ly", "@@"], ("ely@@@@",), "friendly@@", "length"),
        (["friend", "ly@@", "@@", " more"], ("ly@@@@",), "friend", "stop"),
    ],
)
def test_stop_texts_lose_and_add_nothing(
    pieces: list[str], stop: tuple[str, ...], shown: str, reason: str, smollm_path: Path
) -> None:
    question = asked("One", stop=stop)
    choice = choices_of(upstream_that_says(*pieces), smollm_path, question)[0]
    assert (choice["text"], choice["finish_reason"]) == (shown, reason)
    events = events_of(upstream_that_says(*pieces), smollm_path, question)
    assert "".join(choice["text"] for event in events for choice in event["choices"]) == shown


def test_what_the_engine_is_asked(smollm_path: Path) -> None:
    """Ids, never a text; no stop texts; never more tokens than the context has room for."""
    upstream = upstream_that_says("a")
    choices_of(upstream, smollm_path, asked("One two", stop=("x",), max_tokens=1000, body={"temperature": 0.5}))
    path, body = upstream.asked[0]
    assert path == "/completion"
    assert all(isinstance(token, int) for token in body["prompt"])
    assert body["n_predict"] == 64 - len(body["prompt"])
    assert body["temperature"] == 0.5
    assert not {"stop", "echo", "suffix", "max_tokens"} & set(body)


def test_an_end_token_that_llama_cpp_does_not_know_ends_the_text(smollm_path: Path) -> None:
    end = min(tokenizer_of(model_on(upstream_that_says(), smollm_path)).eos_ids)
    reply = text_stream("a", "<end>", done=False)[1].replace(
        b'"content": "<end>", "tokens": [7]', b'"content": "<end>", "tokens": [%d]' % end
    )
    upstream = PretendedUpstream(lambda body: (200, reply), hangs=True)
    choice = choices_of(upstream, smollm_path, asked("One"))[0]
    assert (choice["text"], choice["finish_reason"]) == ("a", "stop")
    assert upstream.open == 0


def test_only_the_prompts_scores(smollm_path: Path) -> None:
    upstream = upstream_that_says()
    question = asked("One two", max_tokens=0, echo=True, logprobs=2)
    choice = choices_of(upstream, smollm_path, question)[0]
    assert choice["text"] == "One two"
    assert choice["finish_reason"] == "length"
    assert choice["logprobs"]["tokens"] == ["One", " two"]
    assert choice["logprobs"]["token_logprobs"] == [None, -1.0]
    assert choice["logprobs"]["top_logprobs"][0] is None
    assert list(choice["logprobs"]["top_logprobs"][1].values()) == [0.0, -1.0]
    assert choice["logprobs"]["text_offset"] == [0, 3]
    assert not upstream.asked


@pytest.mark.parametrize(
    ("prompt", "tokens", "offsets"),
    [
        ("Hello world", ["<bos>", "Hello", " world"], [0, 0, 5]),
        ("<bos>Hello", ["<bos>", "Hello"], [0, 5]),
        (" Hello", ["<bos>", " Hello"], [0, 0]),
    ],
)
def test_a_bos_that_the_tokenizer_adds_has_no_place_in_the_text(
    prompt: str, tokens: list[str], offsets: list[int], gemma_path: Path
) -> None:
    choice = choices_of(upstream_that_says(), gemma_path, asked(prompt, max_tokens=0, echo=True, logprobs=0))[0]
    assert choice["text"] == prompt
    assert choice["logprobs"]["tokens"] == tokens
    assert choice["logprobs"]["text_offset"] == offsets


def test_one_more_token_comes_from_the_scores_where_it_is_the_likeliest(smollm_path: Path) -> None:
    """Harnesses ask so; the prompt is read once only. Anything that shapes the choice is left to the engine."""
    upstream = upstream_that_says("x")
    question = asked("One two", max_tokens=1, echo=True, logprobs=1, seed=1234, body={"temperature": 0})
    choice = choices_of(upstream, smollm_path, question)[0]
    assert not upstream.asked
    assert len(choice["logprobs"]["tokens"]) == 3
    assert choice["logprobs"]["token_logprobs"][-1] == 0.0
    shaped = asked("One two", max_tokens=1, echo=True, logprobs=1, body={"temperature": 0, "grammar": 'root ::= "x"'})
    assert choices_of(upstream, smollm_path, shaped)[0]["text"] == "One twox"
    assert len(upstream.asked) == 1


def test_no_alternatives_are_null(smollm_path: Path) -> None:
    choice = choices_of(upstream_that_says(), smollm_path, asked("One two", max_tokens=0, echo=True, logprobs=0))[0]
    assert choice["logprobs"]["top_logprobs"] is None
    assert choice["logprobs"]["token_logprobs"] == [None, -1.0]
    choice = choices_of(upstream_that_says("a"), smollm_path, asked("One two", echo=True))[0]
    assert choice["logprobs"] is None


@pytest.mark.parametrize(
    ("question", "words", "code"),
    [
        (asked("word " * 80), "8[01] tokens.* 64 tokens", "context_length_exceeded"),
        (asked([5] * 64), "64 tokens.* 64 tokens", "context_length_exceeded"),
        (asked("a" * 100_000), "more tokens.* 64 tokens", "context_length_exceeded"),
        (asked(""), "empty", None),
        (asked([]), "empty", None),
        (asked("One", [10**6]), "from 0 to 49151", None),
    ],
)
def test_prompts_that_are_refused(question: Asked, words: str, code: str | None, smollm_path: Path) -> None:
    upstream = upstream_that_says("a")
    with pytest.raises(Refusal, match=words) as found:
        choices_of(upstream, smollm_path, question)
    assert (found.value.status, found.value.code) == (400, code)
    assert not upstream.asked


def test_a_prompt_may_fill_the_context_where_nothing_is_written(smollm_path: Path) -> None:
    question = asked([5] * 64, max_tokens=0, echo=True)
    assert choices_of(upstream_that_says(), smollm_path, question)[0]["finish_reason"] == "length"


def test_scores_that_are_not_to_be_had_are_refused(smollm_path: Path) -> None:
    question = asked("One", echo=True, logprobs=1)
    with pytest.raises(Refusal, match="leave echo or logprobs out") as found:
        asyncio.run(complete(model_on(upstream_that_says("a"), smollm_path), question))
    assert found.value.status == 501


def test_more_scores_than_an_answer_can_hold_are_refused(smollm_path: Path) -> None:
    prompts = [[5] * 60] * 1000
    with pytest.raises(Refusal, match="Send fewer prompts"):
        choices_of(upstream_that_says(), smollm_path, asked(*prompts, echo=True, max_tokens=0, logprobs=20))


def test_a_stream_that_breaks_off_never_passes_for_whole(smollm_path: Path) -> None:
    with pytest.raises(EngineEnded, match="broke off"):
        choices_of(upstream_that_says("a", done=False), smollm_path, asked("One"))


def test_a_tokenizer_that_only_llama_cpp_knows() -> None:
    def answer(body: dict[str, Any]) -> Reply:
        if "tokens" in body:
            return 200, b'{"content": "ids"}'
        return (200, b'{"tokens": [1, 2, 3]}') if "content" in body else text_stream("a")

    upstream = PretendedUpstream(answer)
    found = asyncio.run(complete(model_on(upstream), asked("One", [8, 9], echo=True)))
    assert [choice["text"] for choice in found["choices"]] == ["Onea", "idsa"]
    assert found["usage"]["prompt_tokens"] == 5


def test_one_failing_prompt_ends_all(smollm_path: Path) -> None:
    upstream = PretendedUpstream(lambda body: error(400, "no") if len(body["prompt"]) == 1 else text_stream("a"))
    with pytest.raises(Refusal, match="no"):
        choices_of(upstream, smollm_path, asked("One two", "One"))
    assert upstream.open == 0
