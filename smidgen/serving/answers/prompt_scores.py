"""What the model thinks of a prompt's own tokens: `echo` with `logprobs`, by which evaluation harnesses score texts.

llama.cpp's server does not tell, so our decoder computes it (scorer.py), as it does for a report card. llama.cpp rounds
activations to 8 bits, so its own figures, those of an answer behind the prompt, differ by some hundredths. Where such a
request wants one more token and the likeliest one, as harnesses do, the scores tell that as well, and llama.cpp need
not read the prompt once more.
"""

from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass

import anyio

from smidgen.serving.answers.events import Event
from smidgen.serving.answers.logprobs import Alternative, TokenEntry
from smidgen.serving.answers.model import AnsweringModel
from smidgen.serving.answers.prompts import Prompt
from smidgen.serving.answers.scorer import TextScores
from smidgen.serving.refusals import Refusal
from smidgen.serving.requests.asked import Asked

MOST_SCORES = 1 << 20  # log-probabilities in one answer: they stand in memory as text, some 25 bytes each
# Of a request for one token: fields that leave the likeliest one the likeliest.
_WITHOUT_EFFECT = frozenset(
    "prompt max_tokens n_predict temperature seed stream n_probs cache_prompt stop top_k top_p min_p".split()
)


@dataclass(frozen=True)
class PromptScores:
    """Scores of one prompt. entries: of all its tokens, the first without a log-probability.

    left_out: characters that its tokens begin with and its text does not.  behind: ids of the likeliest tokens to
    follow, and their log-probabilities.
    """

    entries: list[TokenEntry]
    left_out: int
    behind: list[tuple[int, float]]


async def prompt_scores(model: AnsweringModel, prompts: Sequence[Prompt], alternatives: int) -> list[PromptScores]:
    """The scores of each prompt. Raises Refusal where this model's prompts cannot be scored, or not so many at once."""
    if model.scorer is None or model.facts.tokenizer is None:
        raise Refusal(
            "the log-probabilities of prompts are not to be had of this model here; leave echo or logprobs out.", 501,
            param="echo",
        )  # fmt: skip
    wanted = sum(len(prompt.ids) for prompt in prompts) * (1 + alternatives)
    if wanted > MOST_SCORES:
        raise Refusal(
            f"these prompts would have {wanted} log-probabilities; {MOST_SCORES} are the most of one request. Send "
            "fewer prompts at a time, or ask for fewer alternatives.",
            param="prompt",
        )
    found = await model.scorer.score([prompt.ids for prompt in prompts], max(1, alternatives))
    return await anyio.to_thread.run_sync(
        lambda: [_scores(model, *pair, alternatives) for pair in zip(prompts, found, strict=True)]
    )


def _scores(model: AnsweringModel, prompt: Prompt, found: TextScores, alternatives: int) -> PromptScores:
    tokenizer = model.facts.tokenizer
    assert tokenizer is not None
    # Put there by the tokenizer, not by a person.
    hidden = prompt.ids[0] == tokenizer.bos_id and not prompt.text.startswith(tokenizer.token_text(prompt.ids[0]))
    entries = [TokenEntry(prompt.ids[0], model.piece(prompt.ids[0]), None, None, shown=not hidden)]
    for token, logprob, top in zip(prompt.ids[1:], found.own, found.top, strict=False):
        likeliest = tuple(Alternative(model.piece(one), value) for one, value in top[:alternatives])
        entries.append(TokenEntry(token, model.piece(token), logprob, likeliest))
    spelled = b"".join(entry.bytes for entry in entries if entry.shown).decode(errors="replace")
    # A space that some tokenizers put in front.
    left_out = 1 if spelled.startswith(" ") and not prompt.text.startswith(" ") else 0
    return PromptScores(entries, left_out, found.top[-1])


def greedy_token(model: AnsweringModel, asked: Asked, scores: PromptScores) -> AsyncGenerator[Event] | None:
    """The events of an answer that is one token, the likeliest, as llama.cpp's; None where another is asked for."""
    if asked.max_tokens != 1 or asked.body.get("temperature") != 0 or not _WITHOUT_EFFECT.issuperset(asked.body):
        return None
    return _one_token(model, scores.behind)


async def _one_token(model: AnsweringModel, top: Sequence[tuple[int, float]]) -> AsyncGenerator[Event]:
    tokenizer = model.facts.tokenizer
    assert tokenizer is not None
    token, logprob = top[0]
    ends = token in tokenizer.eos_ids
    told = {
        "id": token, "bytes": list(model.piece(token)), "logprob": logprob,
        "top_logprobs": [{"id": one, "bytes": list(model.piece(one)), "logprob": value} for one, value in top],
    }  # fmt: skip
    yield {
        "content": "" if token in tokenizer.eos_ids | tokenizer.control else model.piece(token).decode(errors="ignore"),
        "tokens_predicted": 1, "completion_probabilities": [told], "stop": True,
        "stop_type": "eos" if ends else "limit",
    }  # fmt: skip
