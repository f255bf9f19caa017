"""The report card as a page: one HTML file that opens offline, asks nothing of the network and runs no script.

`render` turns the card (card.py) into plain words, rows and charts for the templates in page/, one for each section;
report_charts.py and report_pictures.py have the geometry. Every string from the card is escaped: model names and paths
come from strangers. Cards of earlier versions lack some keys; what is missing is said to be not measured.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any

from jinja2 import Environment, FunctionLoader, StrictUndefined
from markupsafe import Markup, escape

from smidgen.curve import curve_svg
from smidgen.measuring import report_origin
from smidgen.measuring.answers_shown import (
    AnswerRow,
    agreement_words,
    answer_rows,
    language_name,
    language_rows,
)
from smidgen.measuring.figures import NOT_MEASURED, bits_per_byte, number, percent, size, whole
from smidgen.measuring.notes import notes
from smidgen.measuring.report_charts import (
    WIDTH,
    Estimate,
    ForestChart,
    forest_chart,
    spread_chart,
    stack_chart,
    sure_chart,
)
from smidgen.measuring.report_pictures import damage_picture, pair_picture, type_picture, type_shares
from smidgen.measuring.speed_shown import context_rows, energy_rows, energy_words, models_of, remarks
from smidgen.measuring.verdict import cut_name, is_trimmed, verdict, worst_text

_TRIM_PICTURES = (("Tokens per byte", "tokens_per_byte"), ("Bits per byte", "bits_per_byte"))
_BEFORE_UNIT = re.compile(r"(?<=\d) (?=[kMG]B)|(?<=[+−\d]) (?=±)|(?<=±) ")
_MOST_ESTIMATES = 16  # in one chart
_NORMAL = 1.96  # standard errors on each side of a mean: 95%


def render(card: Mapping[str, Any]) -> str:
    """The page for a card as `build_card` makes it, or as read from card.json."""
    tensors, damage, trimmed = card["cut"].get("tensors", []), damage_by_tensor(card), trimmed_texts(card)
    picture, worst, floor = type_picture(tensors), worst_text(card), card.get("noise_floor")
    rows, measured = answer_rows(card), models_of(card)
    return _templates().get_template("card.html.j2").render(
        card=card, name=cut_name(card), verdict=verdict(card), notes=notes(card), not_measured=NOT_MEASURED,
        figures=headline(card), worst=worst, width=WIDTH,
        stacks=stack_chart(card["parts"]) if card.get("parts") else None, tied=_is_tied(tensors),
        shares=type_shares(tensors), beside_tensors=card["cut"]["bytes"] - sum(one["bytes"] for one in tensors),
        spread=None if worst is None else spread_chart(worst, floor), sure=None if worst is None else sure_chart(worst),
        trimmed=trimmed, trims=[pair_picture(title, trimmed, key) for title, key in _TRIM_PICTURES],
        tasks=asked([row for row in rows if not row.safety]), safety=asked([row for row in rows if row.safety]),
        by_language=asked(language_rows(card)), changed=changed_answers(card),
        agreement=agreement_words(card["safety"]), languages=_languages(card),
        bars=bars(card), contexts=context_rows(measured), remarks=remarks(measured),
        spent=energy_rows(measured), energy=energy_words(measured), types=picture, part=part_of_model, damage=damage,
        damages=damage_picture(picture, damage) if damage else None, healings=healings(card),
        steps=report_origin.steps(card), calibration=report_origin.calibration(card), made=report_origin.made(card),
    )  # fmt: skip


@cache
def _templates() -> Environment:
    """All of page/, compiled once."""
    found = Environment(
        loader=FunctionLoader(_template), autoescape=True, undefined=StrictUndefined, trim_blocks=True,
        lstrip_blocks=True,
    )  # fmt: skip
    filters = {"size": size, "number": number, "percent": percent, "whole": whole, "bits_per_byte": bits_per_byte}
    found.filters.update(filters, plain=plain, px=px, unbroken=unbroken)
    return found


def _template(name: str) -> str:
    """The text of a template, or of the style sheet, by the name that others include it by."""
    return files("smidgen.measuring").joinpath("page", name).read_text("utf-8")


@dataclass(frozen=True)
class Asked:
    """What both models were asked, of one section.  any_weak: whether some of it says little."""

    rows: Sequence[AnswerRow]
    chart: ForestChart | None
    any_weak: bool


def asked(rows: Sequence[AnswerRow]) -> Asked:
    """Rows of answers with their chart, in points of a hundred."""
    estimates = [
        Estimate(
            row.label,
            100 * bounds[0],
            100 * bounds[1],
            100 * bounds[2],
            row.difference.replace(" points", ""),
            row.weak,
        )
        for row in rows
        if (bounds := row.bounds) is not None
    ]
    return Asked(rows, forest_chart(estimates[:_MOST_ESTIMATES]), any(row.weak for row in rows))


@dataclass(frozen=True)
class Languages:
    """Name and figures of each language, and the chart of their KL divergences."""

    rows: Sequence[tuple[str, Mapping[str, Any]]]
    chart: ForestChart | None


def _languages(card: Mapping[str, Any]) -> Languages:
    rows, estimates = [], []
    for code, text in card["languages"].items():
        name = language_name(code) + ("" if text.get("asked", True) else " (not asked for)")
        mean, half = text["kl_mean"], _NORMAL * (text.get("kl_standard_error") or 0.0)
        rows.append((name, text))
        words = f"{number(mean)} ± {number(half, 2)}" if half else number(mean)
        estimates.append(Estimate(name, mean, max(0.0, mean - half), mean + half, words))
    floor = card.get("noise_floor")
    return Languages(rows, forest_chart(estimates, floor["kl_mean"] if floor else None))


def _is_tied(tensors: Sequence[Mapping[str, Any]]) -> bool:
    """Whether a cut has an embedding and no head of its own."""
    roles = {tensor.get("role") for tensor in tensors}
    return "embedding" in roles and "head" not in roles


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


def px(length: float) -> str:
    """A length in a picture."""
    return f"{length:.2f}"


def plain(value: float) -> str:
    """As few digits as tell it: 4.5, 6.5625."""
    return f"{value:g}"


def _bits_words(bits: float | None) -> str:
    if bits is None:
        return "All files of the model; how many weights it has is not known."
    return f"{number(bits)} bits for each weight, the whole file counted."


def headline(card: Mapping[str, Any]) -> list[dict[str, str]]:
    """The main figures: label, figure, what it was before, and one plain sentence."""
    text, speed = worst_text(card), card["speed"]
    before = speed.get("original") or {}
    shown = [
        {
            "label": "Size", "figure": size(card["cut"]["bytes"]), "before": f"was {size(card['original']['bytes'])}",
            "meaning": _bits_words(card["cut"]["bits_per_weight"]),
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
        "label": "Bits per byte", "figure": bits_per_byte(text["bits_per_byte_cut"]),
        "before": f"was {bits_per_byte(text['bits_per_byte_original'])}",
        "meaning": "How much it is surprised by the text: lower predicts better.",
    }  # fmt: skip
    return [bits, *compared] if trimmed else [*compared, bits]


def bars(card: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Original and cut side by side: title, which way is better, and for each the words and the length in percent."""
    speed, before = card["speed"], card["speed"].get("original") or {}
    rows = (
        ("Writing speed, tokens per second", "higher is better", "decode_tokens_per_s", number),
        ("Reading speed (prompt), tokens per second", "higher is better", "prompt_tokens_per_s", number),
        ("Memory while it writes", "smaller is better", "resident_bytes", size),
        ("Memory at most, while it loads", "smaller is better", "peak_ram_bytes", size),
    )
    result = []
    for title, better, key, words in rows:
        original, cut = before.get(key), speed.get(key)
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
