"""What stands in answers: decisions in the extension field, and refusals in OpenAI's shape."""

from typing import Any

import pytest
from openai.types import Completion
from openai.types.chat import ChatCompletion, ChatCompletionChunk

from smidgen.serving.guard.answers import (
    extension,
    refusal_chunks,
    refusal_completion,
    refusal_text,
    refuse_choices,
    with_extension,
)  # fmt: skip
from smidgen.serving.guard.decisions import Decision

REFUSED = Decision("weapons", "prompt", "refused", "refuse", 0.98765, "Because.", 0.2)
ALLOWED = Decision("town", "answer", "allowed", "allow", 0.01, "Fine.", 0.1)
UNDECIDED = Decision("weapons", "answer", "undecided", "refuse", None, "Too late.", 30.0, choice=1)


def test_every_decision_is_in_the_extension_field() -> None:
    assert extension([REFUSED, UNDECIDED], {"EMAIL_ADDRESS": 2}) == {
        "smidgen": {
            "guard": [
                {
                    "policy": "weapons", "on": "prompt", "verdict": "refused", "consequence": "refuse",
                    "probability": 0.9877, "reason": "Because.",
                },
                {
                    "policy": "weapons", "on": "answer", "verdict": "undecided", "consequence": "refuse",
                    "probability": None, "reason": "Too late.", "choice": 1,
                },
            ],
            "redacted": {"EMAIL_ADDRESS": 2},
        }
    }  # fmt: skip
    assert extension([]) == {}
    assert with_extension({"a": 1}, []) == {"a": 1}
    assert with_extension({"smidgen": {"b": 1}}, [], {"US_SSN": 1}) == {"smidgen": {"b": 1, "redacted": {"US_SSN": 1}}}


@pytest.mark.parametrize("kind", ["chat", "text"])
def test_a_refusal_is_an_answer_that_openais_client_reads(kind: Any) -> None:
    body = refusal_completion(kind, "m", [REFUSED])
    read = (ChatCompletion if kind == "chat" else Completion).model_validate(body, strict=True)
    assert read.choices[0].finish_reason == "content_filter"
    assert body["usage"]["total_tokens"] == 0
    assert body["smidgen"]["guard"][0]["policy"] == "weapons"
    chunks = refusal_chunks(kind, "m", [REFUSED])
    for chunk in chunks:
        (ChatCompletionChunk if kind == "chat" else Completion).model_validate(
            chunk if kind == "chat" else chunk, strict=True
        )
    assert chunks[-1]["choices"][0]["finish_reason"] == "content_filter"
    assert len({chunk["id"] for chunk in chunks}) == 1


def test_the_sentence_says_what_was_refused_and_why() -> None:
    assert refusal_text([REFUSED]) == "The guard of this server refuses this request: policy weapons."
    assert "could not judge this answer by its policy weapons" in refusal_text([ALLOWED, UNDECIDED])


def test_decisions_on_prompt_and_answer_stand_together() -> None:
    answered = with_extension({}, [ALLOWED])
    both = with_extension(answered, [REFUSED], {"US_SSN": 1})["smidgen"]
    assert [one["on"] for one in both["guard"]] == ["prompt", "answer"]
    assert with_extension(answered, [REFUSED, ALLOWED])["smidgen"]["guard"] == both["guard"]
    assert with_extension(answered, [], {"US_SSN": 1})["smidgen"]["guard"] == answered["smidgen"]["guard"]


def test_refused_answers_are_replaced_and_the_others_stay() -> None:
    body = {
        "id": "1", "object": "chat.completion", "usage": {"total_tokens": 9},
        "choices": [
            {"index": index, "message": {"role": "assistant", "content": f"answer {index}"}, "finish_reason": "stop",
             "logprobs": {"content": [{"token": "answer"}]}}
            for index in range(2)
        ],
    }  # fmt: skip
    done = refuse_choices(body, [Decision("town", "answer", "allowed", "allow", 0.1, "", 0.1, choice=0), UNDECIDED])
    assert done["choices"][0] == body["choices"][0]
    assert "answer 1" not in str(done["choices"][1]) and done["choices"][1]["logprobs"] is None
    assert done["choices"][1]["finish_reason"] == "content_filter"
    assert done["usage"] == {"total_tokens": 9}
    text = {"object": "text_completion", "choices": [{"index": 0, "text": "bad", "finish_reason": "stop"}]}
    assert refuse_choices(text, [REFUSED])["choices"][0]["text"] == ""
