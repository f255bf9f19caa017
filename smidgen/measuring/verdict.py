"""What a card says in words: the verdict in one sentence, and what has to be known beside the figures.

The verdict goes by the text on which most was lost. Where the vocabulary is whole, that is told by the KL divergence.
Where it was trimmed, KL is over the tokens that are left, and so does not see what the others cost. Then it is told by
bits per byte, which count the whole text: in nats for each of the original's tokens, so many more does the cut need,

    Δ = ln 2 · (bits per byte of the cut − bits per byte of the original) / (tokens per byte of the original)

On text that the original would write this is what KL over all spellings would be, so the same words fit it.
"""

import math
from collections.abc import Mapping
from typing import Any

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
_SEEN = 0.05  # share of a text from which on its figures flatter


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


def calibration_texts(card: Mapping[str, Any]) -> set[str]:
    """Names of the texts that the steps learned from."""
    said = {text["text"] for text in card.get("calibration") or ()}
    return said | {name for step in card["steps"] for name in (step.get("parameters") or {}).get("calibration", ())}


def cut_name(card: Mapping[str, Any]) -> str:
    return card["cut"].get("name") or "the cut model"


def verdict(card: Mapping[str, Any]) -> str:
    """One sentence for someone who has never heard of KL divergence."""
    before, after = card["original"]["bytes"], card["cut"]["bytes"]
    change = 1 - after / before
    if abs(change) < 0.0005:
        first = f"{cut_name(card)} is as large as {card['original']['name']} ({size(after)})"
    else:
        word = "smaller" if change > 0 else "larger"
        sizes = f"{size(before)} → {size(after)}"
        first = f"{cut_name(card)} is {percent(abs(change))} {word} than {card['original']['name']} ({sizes})"
    parts = [first]
    text = worst_text(card)
    if text is not None:
        parts.append(_of_trimmed(text) if is_trimmed(card) else _of_whole(text))
    ratio = _speed_ratio(card)
    if ratio is not None:
        parts.append(_speed_words(ratio))
    return ", ".join(parts[:-1]) + (", and " if len(parts) > 1 else "") + parts[-1] + "."


def _of_whole(text: Mapping[str, Any]) -> str:
    agrees = f"agrees with it on the next token {percent(text['same_top1'])} of the time"
    return f"{closeness(text['kl_mean'])} (KL {number(text['kl_mean'])}) and {agrees}"


def _of_trimmed(text: Mapping[str, Any]) -> str:
    """A cut that was healed on such text may need fewer bits than the original, and still be far from it."""
    before, after = text["bits_per_byte_original"], text["bits_per_byte_cut"]
    words, change = closeness(max(nats_lost(text), text["kl_mean"])), after / before - 1 if before else 0.0
    if abs(change) < 0.0005:
        bits = "as many bits for each byte of text"
    else:
        bits = f"{percent(abs(change))} {'more' if change > 0 else 'fewer'} bits for each byte of text"
    return f"{words} with a trimmed vocabulary ({bits}, {number(before)} → {number(after)})"


def _speed_words(ratio: float) -> str:
    if abs(ratio - 1) < 0.03:
        return "writes as fast"
    return f"writes {number(ratio)} times as fast" if ratio > 1 else f"writes at {percent(ratio)} of its speed"


def _speed_ratio(card: Mapping[str, Any]) -> float | None:
    after = card["speed"].get("decode_tokens_per_s")
    before = (card["speed"].get("original") or {}).get("decode_tokens_per_s")
    return after / before if after and before else None


def notes(card: Mapping[str, Any]) -> list[str]:
    """What a reader has to know beside the figures, a sentence or two each."""
    about = [line for text in card["fidelity"] for line in _about(text, card)]
    return [*about, *_too_short(card), *_padded(card)]


def _about(text: Mapping[str, Any], card: Mapping[str, Any]) -> list[str]:
    """Why the figures of a text may flatter."""
    name, seen, found = text["text"], text.get("seen_in_calibration") or 0.0, list[str]()
    if seen > _SEEN:
        used = f"{percent(seen)} of the text {name} was also used to make the cut, so its figures flatter."
        found.append(f"Too good to be true: {used}")
    if text.get("self_written"):
        who = f"The text {name} is by the original itself"
        if any(one.get("self_written") for one in card.get("calibration") or ()):
            who += ", as is the text that the cut was calibrated on: two texts of one author"
        found.append(f"{who}. A text of another kind may lose more.")
    elif not found and name in calibration_texts(card):
        other = f"The cut was calibrated on other passages of the text {name}"
        found.append(f"{other}: those measured here were kept from it, but a text of another kind may lose more.")
    return found


def _padded(card: Mapping[str, Any]) -> list[str]:
    """Where the embeddings have other rows of padding: how much of the expectations was left out for that."""
    sides = ("padding_mass_original", "padding_mass_cut")
    texts = [*card["fidelity"], *card["languages"].values()]
    before, after = (max((text.get(side) or 0.0 for text in texts), default=0.0) for side in sides)
    if not (before or after):
        return []
    return [
        "The embeddings have other rows of padding, which no text becomes. KL divergence and next token leave these "
        f"out on both sides: up to {percent(before)} of the original's expectations and {percent(after)} of the cut's."
    ]


def _too_short(card: Mapping[str, Any]) -> list[str]:
    return [
        f"The text {text['text']} is too short to calibrate on as much as on the others: it has {text['available']:,} "
        f"tokens, of which {text['tokens']:,} were used."
        for text in card.get("calibration") or ()
        if text["too_short"]
    ]
