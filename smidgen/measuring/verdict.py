"""What a card says in one sentence, for someone who has never heard of KL divergence.

The page, the terminal and README.md say the same one: size, closeness, speed, tasks, what changed in safety, and the
worst language. What was not measured is left out; a task that cannot tell is said to be so.

The verdict goes by the text on which most was lost. Where the vocabulary is whole, that is told by the KL divergence.
Where it was trimmed, KL is over the tokens that are left, and so does not see what the others cost. Then it is told by
bits per byte, which count the whole text: in nats for each of the original's tokens, so many more does the cut need,

    Δ = ln 2 · (bits per byte of the cut − bits per byte of the original) / (tokens per byte of the original)

On text that the original would write this is what KL over all spellings would be, so the same words fit it.
"""

import math
from collections.abc import Mapping
from typing import Any

from smidgen.measuring.answers_shown import language_name, points, safety_words, short_name, weakness
from smidgen.measuring.figures import number, percent, size

# Nats per token up to which two models are called so. Our own words, set against DESIGN 8: Q5_0 of a small model is
# 0.02, 4-bit types 0.06 to 0.18.
_CLOSENESS = (
    (1e-6, "makes the same predictions as the original"),
    (0.01, "predicts almost exactly like the original"),
    (0.05, "predicts very much like the original"),
    (0.15, "predicts much like the original"),
    (0.5, "predicts noticeably differently from the original"),
)
_FARTHEST = "predicts very differently from the original"
_MOST_TASKS = 4  # that the sentence names


def judged(card: Mapping[str, Any]) -> dict[str, Any]:
    """The verdict as data.  text: on which most was lost; None where none was compared.  by: what decides that."""
    text = worst_text(card)
    return {
        "sentence": verdict(card),
        "text": None if text is None else text["text"],
        "by": "bits_per_byte" if is_trimmed(card) else "kl_mean",
    }


def is_trimmed(card: Mapping[str, Any]) -> bool:
    """Whether the cut has fewer tokens than the original."""
    texts = [*card["fidelity"], *card["languages"].values()]
    return any(text.get("dropped_mass") or text.get("tokens_dropped") for text in texts)


def worst_text(card: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """The text on which most was lost: the verdict speaks of it."""
    lost = nats_lost if is_trimmed(card) else _kl
    return max(card["fidelity"], key=lost, default=None)


def nats_lost(text: Mapping[str, Any]) -> float:
    """Δ, see above."""
    more = text["bits_per_byte_cut"] - text["bits_per_byte_original"]
    return math.log(2) * more / text["tokens_per_byte_original"]


def _kl(text: Mapping[str, Any]) -> float:
    return text["kl_mean"]


def closeness(nats: float) -> str:
    return next((words for bound, words in _CLOSENESS if nats <= bound), _FARTHEST)


def cut_name(card: Mapping[str, Any]) -> str:
    return card["cut"].get("name") or "the cut model"


def verdict(card: Mapping[str, Any]) -> str:
    """The sentence."""
    text = worst_text(card)
    said = [_size_words(card)]
    if text is not None:
        said.append(_of_trimmed(text) if is_trimmed(card) else _of_whole(text))
    ratio = speed_ratio(card)
    if ratio is not None:
        said.append(_speed_words(ratio))
    said += [*_task_words(card["tasks"]), *safety_words(card["safety"]), *_language_words(card["languages"])]
    return f"{cut_name(card)}: {'; '.join(said)}."


def _size_words(card: Mapping[str, Any]) -> str:
    before, after = card["original"]["bytes"], card["cut"]["bytes"]
    if abs(1 - after / before) < 0.0005:
        return f"as large as {card['original']['name']} ({size(after)})"
    (first, unit), (second, other) = size(after).split(" "), size(before).split(" ")
    earlier = second if unit == other else f"{second} {other}"
    return f"{first} {unit} instead of the {earlier} of {card['original']['name']}"


def _of_whole(text: Mapping[str, Any]) -> str:
    agrees = f"gives the same next word {percent(text['same_top1'])} of the time"
    return f"{closeness(text['kl_mean'])}; {agrees}"


def _of_trimmed(text: Mapping[str, Any]) -> str:
    """A cut that was healed on such text may need fewer bits than the original, and still be far from it."""
    before, after = text["bits_per_byte_original"], text["bits_per_byte_cut"]
    words, change = closeness(max(nats_lost(text), text["kl_mean"])), after / before - 1 if before else 0.0
    if abs(change) < 0.0005:
        bits = "as many bits for each byte of text"
    else:
        bits = f"{percent(abs(change))} {'more' if change > 0 else 'fewer'} bits for each byte of text"
    return f"{words}, with a trimmed vocabulary ({bits})"


def speed_ratio(card: Mapping[str, Any]) -> float | None:
    """How many times as fast the cut writes; None where that was not measured, or the machine was busy meanwhile."""
    speed = card["speed"]
    sides = (speed, speed.get("original") or {})
    if any((side.get("busy") or {}).get("sentence") for side in sides):
        return None
    after, before = (side.get("decode_tokens_per_s") for side in sides)
    return after / before if after and before else None


def _speed_words(ratio: float) -> str:
    return "writes as fast" if abs(ratio - 1) < 0.03 else f"writes {number(ratio, 2)}× as fast"


def _task_words(tasks: Mapping[str, Any]) -> list[str]:
    """`MMLU −0.6 ± 0.9` in points of a hundred, or why a task cannot tell."""
    scored = {short_name(name): score for name, score in tasks.items() if "interval" in score}
    said = [f"{name} {points(score) if weakness(score) is None else f'cannot tell ({weakness(score)})'}"
            for name, score in scored.items()]  # fmt: skip
    more = len(said) - _MOST_TASKS
    return said if more <= 0 else [*said[:_MOST_TASKS], f"{more} more task{'s' if more > 1 else ''}"]


def _language_words(languages: Mapping[str, Any]) -> list[str]:
    """The one that lost most, where there are several; of those that were to be kept if these are several."""
    asked = [code for code, text in languages.items() if text.get("asked", True)]
    pool = asked if len(asked) > 1 else list(languages)
    if len(pool) < 2:
        return []
    kept = "" if pool[0] in asked else ", which was not asked for"
    return [f"worst language {language_name(pool[0])}{kept}"]
