"""What has to be known beside the figures of a card: why they may flatter, and what they leave out."""

from collections.abc import Mapping
from typing import Any

from smidgen.measuring.figures import number, percent, size

_SEEN = 0.05  # share of a text from which on its figures flatter
_MOSTLY_SEEN = 0.5  # share from which on they say little of other text
_MEASURE_OTHER = "To measure other text: smidgen measure ORIGINAL DIR --text FILE"


def notes(card: Mapping[str, Any]) -> list[str]:
    """What a reader has to know beside the figures, a sentence or two each."""
    about = [line for text in card["fidelity"] for line in _about(text, card)]
    return [*_other_runtime(card), *_rounded_cache(card), *about, *_too_short(card), *_padded(card)]


def _other_runtime(card: Mapping[str, Any]) -> list[str]:
    """Where another framework computed the cut: its arithmetic is part of the figures."""
    runtime = card["cut"].get("runtime")
    if not runtime:
        return []
    named = ", ".join(f"{name} {version}" for name, version in runtime.items())
    how = "in float32 where it can be told so"
    if "ai-edge-litert" in runtime:
        how = "its matrices with activations in 16 bits, or 8 where it was exported so"
    return [f"The cut was computed by {named}, {how}; the original by smidgen, in float32."]


def _rounded_cache(card: Mapping[str, Any]) -> list[str]:
    """Where keys and values were not kept as usual: the figures are of that, and what it saves and costs."""
    kv = card.get("kv") or {}
    if kv.get("kl_mean") is None:
        return []
    return [
        f"The cut was measured with keys and values kept as {kv['type']}: {size(kv['bytes_per_token'])} for each token "
        f"of context instead of {size(kv['bytes_per_token_f16'])}. On the text {kv['text']} the KL divergence is "
        f"{number(kv['kl_mean'])} nats, and {number(kv['kl_mean_f16'])} where they are not rounded."
    ]


def _about(text: Mapping[str, Any], card: Mapping[str, Any]) -> list[str]:
    """Why the figures of a text may flatter."""
    name, seen, found = text["text"], text.get("seen_in_calibration") or 0.0, list[str]()
    if seen > _SEEN:
        used = f"{percent(seen)} of the text {name} was also used to make the cut"
        if seen > _MOSTLY_SEEN:
            found.append(f"Too good to be true: {used}, so its figures flatter. {_MEASURE_OTHER}")
        else:
            found.append(f"{used}, so its figures may be a little better than those of other text. {_MEASURE_OTHER}")
    if text.get("self_written"):
        who = f"The text {name} is by the original itself"
        if any(one.get("self_written") for one in card.get("calibration") or ()):
            who += ", as is the text that the cut was calibrated on: two texts of one author"
        found.append(f"{who}. A text of another kind may lose more.")
    elif not found and name in _calibration_texts(card):
        found.append(_of_calibration(name, text.get("seen_in_calibration") is not None))
    return found


def _of_calibration(name: str, passages_known: bool) -> str:
    """Where the cut learned from the same text.  passages_known: and those that are measured are not among them."""
    if not passages_known:
        return (
            f"The cut was calibrated on a text named {name}. Whether it saw the passages measured here is not known, "
            "so the figures may flatter."
        )
    other = f"The cut was calibrated on other passages of the text {name}"
    return f"{other}: those measured here were kept from it, but a text of another kind may lose more."


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


def _calibration_texts(card: Mapping[str, Any]) -> set[str]:
    """Names of the texts that the steps learned from."""
    said = {text["text"] for text in card.get("calibration") or ()}
    return said | {name for step in card["steps"] for name in (step.get("parameters") or {}).get("calibration", ())}
