"""The report card as a page: one HTML file that opens offline, asks nothing of the network and runs no script.

`render` turns the card (card.py) into plain words, rows and bars for the template card.html.j2; the pictures are in
report_pictures.py. Every string from the card is escaped: model names and paths come from strangers.
"""

import re
from collections.abc import Mapping, Sequence
from importlib.resources import files
from typing import Any

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup, escape

from smidgen.curve import curve_svg
from smidgen.errors import printable
from smidgen.measuring.answers_shown import answer_rows
from smidgen.measuring.figures import NOT_MEASURED, number, percent, size, whole
from smidgen.measuring.report_pictures import damage_picture, pair_picture, type_picture, type_shares
from smidgen.measuring.verdict import cut_name, is_trimmed, notes, verdict, worst_text

_LONGEST_HISTORY = 32  # steps
_TRIM_PICTURES = (("Tokens per byte", "tokens_per_byte"), ("Bits per byte", "bits_per_byte"))
_BEFORE_UNIT = re.compile(r"(?<=\d) (?=[kMG]B)|(?<=\(KL) ")


def render(card: Mapping[str, Any]) -> str:
    """The page for a card as `build_card` makes it, or as read from card.json."""
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters.update(size=size, number=number, percent=percent, whole=whole, plain=plain, unbroken=unbroken)
    template = environment.from_string(files("smidgen.measuring").joinpath("card.html.j2").read_text("utf-8"))
    tensors, damage, trimmed = card["cut"].get("tensors", []), damage_by_tensor(card), trimmed_texts(card)
    picture = type_picture(tensors)
    return template.render(
        card=card, name=cut_name(card), verdict=verdict(card), notes=notes(card), calibration=calibration(card),
        figures=headline(card), bars=bars(card), worst=worst_text(card),
        types=picture, shares=type_shares(tensors), damage=damage,
        damages=damage_picture(picture, damage) if damage else None, made=_made(card), steps=_steps(card),
        not_measured=NOT_MEASURED, trimmed=trimmed, part=part_of_model,
        beside_tensors=card["cut"]["bytes"] - sum(tensor["bytes"] for tensor in tensors),
        answers=answer_rows(card), changed=changed_answers(card),
        trims=[pair_picture(title, trimmed, key) for title, key in _TRIM_PICTURES], healings=healings(card),
    )  # fmt: skip


def changed_answers(card: Mapping[str, Any]) -> list[Mapping[str, str]]:
    """Items whose answer went from right to wrong, with both answers."""
    return [item for score in card["tasks"].values() for item in score.get("changed", ())]


def healings(card: Mapping[str, Any]) -> list[tuple[Mapping[str, Any], Markup]]:
    """Each step of healing, and its curve as a picture."""
    title = "KL divergence from the original on the watched text, over the steps of training"
    return [
        (step, Markup(curve_svg(title, points, "steps of training", "KL on the watched text, nats per token", True)))
        for step in card["steps"]
        if (points := [(float(at), float(kl)) for at, kl in step.get("watched", ())])
    ]


def trimmed_texts(card: Mapping[str, Any]) -> list[tuple[str, Mapping[str, Any]]]:
    """Name and figures of every text, languages first and the worst of them foremost, if the vocabulary was trimmed."""
    others = [(text["text"], text) for text in card["fidelity"] if text["text"] not in _named(card)]
    texts = [*card["languages"].items(), *others]
    return texts if is_trimmed(card) else []


def _named(card: Mapping[str, Any]) -> set[str]:
    return {text["text"] for text in card["languages"].values()}


def part_of_model(tensor: Mapping[str, Any]) -> str:
    """Where a tensor belongs: `layer 3 (was 5): query, key, value`, `embedding`; empty where that is not known."""
    role = (tensor["role"] or "").replace("+", ", ").replace("_", " ")
    layer, before = tensor["layer"], tensor.get("original_layer", tensor["layer"])
    if layer is None:
        return role
    moved = "" if before == layer else f" (was {'?' if before is None else before})"
    return f"layer {layer}{moved}: {role}"


def unbroken(sentence: str) -> Markup:
    """The sentence, escaped, with names such as gemma-3-270m (unless too long for a phone) and figures kept whole."""
    sentence = _BEFORE_UNIT.sub("\N{NO-BREAK SPACE}", sentence)
    parts = (
        Markup('<span class="unbroken">{}</span>').format(word) if "-" in word and len(word) < 30 else escape(word)
        for word in sentence.split(" ")
    )
    return Markup(" ").join(parts)


def plain(value: float) -> str:
    """As few digits as tell it: 4.5, 6.5625."""
    return f"{value:g}"


def headline(card: Mapping[str, Any]) -> list[dict[str, str]]:
    """The main figures: label, figure, what it was before, and one plain sentence."""
    text, speed = worst_text(card), card["speed"]
    before = speed.get("original") or {}
    shown = [
        {
            "label": "Size", "figure": size(card["cut"]["bytes"]), "before": f"was {size(card['original']['bytes'])}",
            "meaning": f"{number(card['cut']['bits_per_weight'])} bits for each weight, the whole file counted.",
        },
    ]  # fmt: skip
    if text is not None:
        shown += _fidelity_figures(text, is_trimmed(card))
    rate = speed.get("decode_tokens_per_s")
    shown.append(
        {
            "label": "Speed (tokens/s)",
            "figure": number(rate),
            "before": "see why below" if rate is None else f"was {number(before.get('decode_tokens_per_s'))}",
            "meaning": "Tokens written in a second, on the machine named below.",
        }
    )
    return shown


def _fidelity_figures(text: Mapping[str, Any], trimmed: bool) -> list[dict[str, str]]:
    """Those of one text. Where the vocabulary was trimmed, bits per byte come first: the others leave the trim out."""
    only = " Only of the tokens that it kept: what the others cost is in the bits per byte." if trimmed else ""
    compared = [
        {
            "label": "KL divergence", "figure": number(text["kl_mean"]), "before": "0 is no change",
            "meaning": "How far its expectations moved from the original's, on average per token (nats)." + only,
        },
        {
            "label": "Same next token", "figure": percent(text["same_top1"]), "before": "of 100%",
            "meaning": "How often both models find the same next token the likeliest." + only,
        },
    ]  # fmt: skip
    bits = {
        "label": "Bits per byte", "figure": number(text["bits_per_byte_cut"]),
        "before": f"was {number(text['bits_per_byte_original'])}",
        "meaning": "How much it is surprised by the text: lower predicts better.",
    }  # fmt: skip
    return [bits, *compared] if trimmed else [*compared, bits]


def bars(card: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Original and cut side by side: title, which way is better, and for each the words and the length in percent."""
    speed, before = card["speed"], card["speed"].get("original") or {}
    rows = [
        ("File size", "smaller is better", card["original"]["bytes"], card["cut"]["bytes"], size),
        *(
            (title, better, before.get(key), speed.get(key), words)
            for title, better, key, words in (
                ("Writing speed, tokens per second", "higher is better", "decode_tokens_per_s", number),
                ("Reading speed (prompt), tokens per second", "higher is better", "prompt_tokens_per_s", number),
                ("Memory while it writes", "smaller is better", "resident_bytes", size),
                ("Memory at most, while it loads", "smaller is better", "peak_ram_bytes", size),
            )
        ),
    ]
    result = []
    for title, better, original, cut, words in rows:
        longest = max(original or 0, cut or 0) or 1
        pair = [
            {"who": who, "words": words(value), "length": 100 * (value or 0) / longest, "known": value is not None}
            for who, value in (("original", original), ("cut", cut))
        ]
        result.append({"title": title, "better": better, "pair": pair})
    return result


def damage_by_tensor(card: Mapping[str, Any]) -> dict[str, float]:
    """Tensor → the damage that the steps report for it; empty where none does."""
    damage: dict[str, float] = {}
    for step in card["steps"]:
        for tensor in step.get("tensors", ()):
            if tensor.get("damage") is not None:
                damage[tensor["name"]] = damage.get(tensor["name"], 0.0) + float(tensor["damage"])
    return damage


def calibration(card: Mapping[str, Any]) -> list[str]:
    """Of each text that the cut learned from, how many tokens it used; empty where that is not known."""
    return [
        f"{printable(text['text'])}: {whole(text['tokens'])} of {whole(text['available'])} tokens"
        for text in card.get("calibration") or ()
    ]


def _steps(card: Mapping[str, Any]) -> list[tuple[str, str]]:
    """What was done in each step, and its settings, in words.

    First the steps that the cut's file tells of from earlier cuts. The file may come from a stranger.
    """
    history = list(card.get("history") or [])
    earlier = history[: max(0, len(history) - len(card["steps"]))]
    return [_step(step) for step in [*earlier[:_LONGEST_HISTORY], *card["steps"]]]


def _step(step: Mapping[str, Any]) -> tuple[str, str]:
    parameters = step.get("parameters")
    settings = _settings(parameters) if isinstance(parameters, Mapping) else ""
    return printable(step.get("summary", step.get("step", "?")), 200), settings


def _settings(values: Mapping[str, Any]) -> str:
    """The settings, but for what is said already and for tables of numbers, which card.json has."""
    told = {key: value for key, value in values.items() if key not in ("step", "summary") and _is_short(value)}
    return "; ".join(f"{key.replace('_', ' ')}: {_plain(value)}" for key, value in told.items())


def _is_short(value: Any) -> bool:
    """Whether it is one value, or names."""
    if isinstance(value, Sequence) and not isinstance(value, str):
        return all(isinstance(part, str) for part in value)
    return value is not None and not isinstance(value, Mapping)


def _plain(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {_plain(part)}" for key, part in value.items())
    if isinstance(value, Sequence) and not isinstance(value, str):
        return ", ".join(_plain(part) for part in value) or "none"
    if isinstance(value, float):
        return number(value)
    if isinstance(value, int) and not isinstance(value, bool):
        return whole(value)
    return "none" if value is None else str(value)


def _made(card: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Where the card is from, as rows of a table."""
    made = dict(card.get("made") or {})
    versions = made.pop("versions", {})
    peak = made.pop("peak_ram_bytes", None)
    rows = [(key.replace("_", " "), _plain(value)) for key, value in made.items() if key != "seconds"]
    rows.append(("measuring took", NOT_MEASURED if made.get("seconds") is None else f"{made['seconds']:.0f} s"))
    rows.append(("memory while measuring (peak)", size(peak)))
    rows.append(("versions", ", ".join(f"{name} {found}" for name, found in versions.items() if found)))
    return rows
