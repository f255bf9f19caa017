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
    answered, begun = list[_Answered](), time.monotonic()
    fitting = [prompt for prompt in asked if _room(original, cut, prompt, form) >= _LEAST_TOKENS]
    with track("Answers side by side", 2 * len(fitting)) as task:
        for prompt in fitting:
            if answered and time.monotonic() - begun > seconds:
                break
            answered.append(_answer(original, cut, prompt, form, task))
    apart = [one for one in answered if one.original != one.cut]
    different = [
        Pair(one.prompt.question if form == "chat" else one.prompt.beginning, one.prompt.language, one.original,
             one.cut, lost)
        for one, lost in zip(apart, _lost(original, cut, apart), strict=True)
    ]  # fmt: skip
    different.sort(key=lambda pair: pair.nats_per_token or 0.0, reverse=True)
    reasons = []
    if too_long := len(asked) - len(fitting):
        reasons.append(f"{too_long} of {len(asked)} prompts are too long for the context.")
    if left_out := len(fitting) - len(answered):
        reasons.append(f"{left_out} more were left out, to save time on this machine.")
    return {
        "prompts": len(answered),
        "same": len(answered) - len(different),
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


@dataclass(frozen=True)
class _Answered:
    """What both said.  ids: the prompt as each of them reads it."""

    prompt: Prompt
    ids: tuple[Ids, Ids]
    original: str
    cut: str


def _answer(original: Answering, cut: Answering, prompt: Prompt, form: str, task: Task) -> _Answered:
    """One prompt at a time: answers that are written together may come out otherwise than alone."""
    ids = _ids(original, prompt, form), _ids(cut, prompt, form)
    tokens = min(TOKENS, _room(original, cut, prompt, form))
    first, second = (
        model.write([known], (), tokens, task)[0].strip() for model, known in zip((original, cut), ids, strict=True)
    )
    return _Answered(prompt, ids, first, second)


def _room(original: Answering, cut: Answering, prompt: Prompt, form: str) -> int:
    """How many tokens an answer may have in either model's context."""
    return min(model.context - len(_ids(model, prompt, form)) for model in (original, cut))


def _ids(model: Answering, prompt: Prompt, form: str) -> Ids:
    if form == "chat":
        return model.ask(prompt.question)
    return model.tokenizer.encode(prompt.beginning, add_bos=model.tokenizer.adds_bos)


def _lost(original: Answering, cut: Answering, answered: Sequence[_Answered]) -> list[float | None]:
    """How much less likely the cut finds each of the original's answers, in nats for each of the original's tokens.

    None where there is no answer, or where encoded anew it is longer than a context. All are asked for at once: each
    time a model is asked it reads all of its weights.
    """
    models = original, cut
    lost: list[float | None] = [None] * len(answered)
    asked: dict[int, Sequence[tuple[Ids, Ids]]] = {}
    for place, one in enumerate(answered):
        both = [(ids, model.tokenizer.encode(one.original)) for model, ids in zip(models, one.ids, strict=True)]
        fit = (len(ids) + len(answer) <= model.context for model, (ids, answer) in zip(models, both, strict=True))
        if both[0][1] and all(fit):
            asked[place] = both
    if not asked:
        return lost
    with track("Comparing answers", 2 * len(asked)) as task:
        before, after = (
            model.score(pairs, task) for model, pairs in zip(models, zip(*asked.values(), strict=True), strict=True)
        )
    for (place, both), one, other in zip(asked.items(), before, after, strict=True):
        lost[place] = (one.log_probability - other.log_probability) / len(both[0][1])
    return lost
