"""Original and cut answer the same few prompts, and the answers that lost most are shown side by side.

A dozen prompts of our own (side_by_side.json): everyday questions, a little arithmetic and code, and a few languages.
Models with a chat template get them as questions, others as the beginning of a text. Both always write the token that
they find likeliest, so that nothing is left to chance.

Which pairs are shown: of the answers that differ, those whose original the cut finds least likely, by

    (log p_original(answer) − log p_cut(answer)) / tokens of the answer,   answer: the original's

in nats. It is what the cut would lose here if it had to write what the original writes. The worst are shown on
purpose: a reader learns from them what can happen, and from the number of equal answers what mostly happens.
"""

import json
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from importlib.resources import files
from typing import Any

from smidgen.engines.base import Answering, Ids
from smidgen.errors import SmidgenError
from smidgen.progress import Task, track

TOKENS = 48  # of an answer, at most
SECONDS = 120.0  # after which no further prompt is begun
_LEAST_TOKENS = 8  # that an answer must have room for
_SHOWN = 4  # pairs


@dataclass(frozen=True)
class Prompt:
    """language: its code.  question: for models that chat.  beginning: of a text, for those that do not."""

    language: str
    question: str
    beginning: str


@dataclass(frozen=True)
class Pair:
    """Two answers to a prompt. nats_per_token: see above; None where the original answered nothing."""

    prompt: str
    language: str
    original: str
    cut: str
    nats_per_token: float | None


def prompts() -> list[Prompt]:
    """The prompts that come with smidgen."""
    text = files("smidgen.measuring").joinpath("side_by_side.json").read_text("utf-8")
    return [Prompt(**entry) for entry in json.loads(text)]


def side_by_side(
    original: Answering, cut: Answering, asked: Sequence[Prompt] | None = None, seconds: float = SECONDS
) -> dict[str, Any]:
    """`answers` of a card. asked: None for the prompts that come with smidgen.  seconds: then no more is asked.

    prompts: how many were asked; where that is not all, `reason` says so.  same: how many answers are equal.  form:
    chat or text.  tokens: the most that an answer has.  shown: pairs as in `Pair`, the worst first.
    Raises SmidgenError where an engine fails.
    """
    asked = prompts() if asked is None else asked
    form = "chat" if _chats(original, asked[0]) and _chats(cut, asked[0]) else "text"
    pairs, begun = list[Pair](), time.monotonic()
    fitting = [prompt for prompt in asked if _room(original, cut, prompt, form) >= _LEAST_TOKENS]
    with track("Answers side by side", 2 * len(fitting)) as task:
        for prompt in fitting:
            if pairs and time.monotonic() - begun > seconds:
                break
            pairs.append(_pair(original, cut, prompt, form, task))
    different = [pair for pair in pairs if pair.original != pair.cut]
    different.sort(key=lambda pair: pair.nats_per_token or 0.0, reverse=True)
    reasons = []
    if too_long := len(asked) - len(fitting):
        reasons.append(f"{too_long} of {len(asked)} prompts are too long for the context.")
    if left_out := len(fitting) - len(pairs):
        reasons.append(f"{left_out} more were left out, to save time on this machine.")
    return {
        "prompts": len(pairs),
        "same": len(pairs) - len(different),
        "form": form,
        "tokens": TOKENS,
        "reason": " ".join(reasons) or None,
        "shown": [asdict(pair) for pair in different[:_SHOWN]],
    }


def _chats(model: Answering, prompt: Prompt) -> bool:
    """Whether a model has a chat template that takes a question."""
    try:
        model.ask(prompt.question)
    except SmidgenError:
        return False
    return True


def _pair(original: Answering, cut: Answering, prompt: Prompt, form: str, task: Task) -> Pair:
    """One prompt at a time: answers that are written together may come out otherwise than alone."""
    ids = [_ids(model, prompt, form) for model in (original, cut)]
    tokens = min(TOKENS, _room(original, cut, prompt, form))
    first, second = (
        model.write([known], (), tokens, task)[0].strip() for model, known in zip((original, cut), ids, strict=True)
    )
    lost = None if first == second else _lost(original, cut, ids, first)
    return Pair(prompt.question if form == "chat" else prompt.beginning, prompt.language, first, second, lost)


def _room(original: Answering, cut: Answering, prompt: Prompt, form: str) -> int:
    """How many tokens an answer may have in either model's context."""
    return min(model.context - len(_ids(model, prompt, form)) for model in (original, cut))


def _ids(model: Answering, prompt: Prompt, form: str) -> Ids:
    if form == "chat":
        return model.ask(prompt.question)
    return model.tokenizer.encode(prompt.beginning, add_bos=model.tokenizer.adds_bos)


def _lost(original: Answering, cut: Answering, prompts: Sequence[Ids], answer: str) -> float | None:
    """How much less likely the cut finds the original's answer, in nats for each of the original's tokens.

    None where there is no answer, or where encoded anew it is longer than a context.
    """
    models = original, cut
    answers = [model.tokenizer.encode(answer) for model in models]
    known = list(zip(models, prompts, answers, strict=True))
    if not answers[0] or any(len(prompt) + len(written) > model.context for model, prompt, written in known):
        return None
    nats = [model.score([(prompt, written)], Task("", 1))[0].log_probability for model, prompt, written in known]
    return (nats[0] - nats[1]) / len(answers[0])
