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
from smidgen.measuring.report_pictures import damage_picture, pair_picture, type_picture, type_shares

NOT_MEASURED = "not measured"
_LONGEST_HISTORY = 32  # steps
# Mean KL in nats up to which two models are called so. Our own words, set against DESIGN 8: Q5_0 of a small model is
# 0.02, 4-bit types 0.06 to 0.18.
_CLOSENESS = (
    (1e-6, "makes the same predictions as the original"),
    (0.01, "predicts almost exactly like the original"),
    (0.05, "predicts very much like the original"),
    (0.15, "predicts much like the original"),
    (0.5, "predicts noticeably differently from the original"),
)
_TRIM_PICTURES = (("Tokens per byte", "tokens_per_byte"), ("Bits per byte", "bits_per_byte"))
_BEFORE_UNIT = re.compile(r"(?<=\d) (?=[kMG]B)|(?<=\(KL) ")
_FARTHEST = "predicts very differently from the original"


def render(card: Mapping[str, Any]) -> str:
    """The page for a card as `build_card` makes it, or as read from card.json."""
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters.update(size=size, number=number, percent=percent, whole=whole, plain=plain, unbroken=unbroken)
    template = environment.from_string(files("smidgen.measuring").joinpath("card.html.j2").read_text("utf-8"))
    tensors, damage, trimmed = card["cut"].get("tensors", []), damage_by_tensor(card), trimmed_texts(card)
    picture = type_picture(tensors)
    return template.render(
        card=card, name=cut_name(card), verdict=verdict(card), figures=headline(card), bars=bars(card),
        worst=worst_text(card), types=picture, shares=type_shares(tensors), damage=damage,
        damages=damage_picture(picture, damage) if damage else None, made=_made(card), steps=_steps(card),
        not_measured=NOT_MEASURED, calibration=calibration_texts(card), trimmed=trimmed, part=part_of_model,
        beside_tensors=card["cut"]["bytes"] - sum(tensor["bytes"] for tensor in tensors),
        trims=[pair_picture(title, trimmed, key) for title, key in _TRIM_PICTURES], healings=healings(card),
    )  # fmt: skip


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
    return texts if any(text.get("dropped_mass") or text.get("tokens_dropped") for _, text in texts) else []


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


def size(value: float | None) -> str:
    """Bytes as people write them: 253.1 MB (powers of ten)."""
    if value is None:
        return NOT_MEASURED
    for unit, factor in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if value >= factor:
            return f"{value / factor:.2f} {unit}" if unit == "GB" else f"{value / factor:.1f} {unit}"
    return f"{value:.0f} bytes"


def number(value: float | None, digits: int = 3) -> str:
    """Three significant digits, never in exponent form: 0.0617, 1.02, 48.1, 12,345."""
    if value is None:
        return NOT_MEASURED
    if value != 0 and abs(value) < 1e-6:
        return "under 0.000001"
    if abs(value) >= 1000:
        return f"{value:,.0f}"
    text = f"{value:#.{digits}g}"
    return (f"{value:.{digits + 4}f}".rstrip("0") if "e" in text else text).rstrip(".")


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


def percent(share: float | None) -> str:
    """0.8731 → 87.3%. Never rounded up to 100% or down to 0%."""
    if share is None:
        return NOT_MEASURED
    if 0.9995 <= share < 1 or 0 < share < 0.0005:
        return "over 99.9%" if share > 0.5 else "under 0.1%"
    return f"{100 * share:.1f}%"


def whole(value: float | None) -> str:
    """12,345."""
    return NOT_MEASURED if value is None else f"{value:,.0f}"


def cut_name(card: Mapping[str, Any]) -> str:
    return card["cut"].get("name") or "the cut model"


def worst_text(card: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """The text on which most was lost: the verdict speaks of it."""
    return max(card["fidelity"], key=lambda text: text["kl_mean"], default=None)


def closeness(kl: float) -> str:
    return next((words for bound, words in _CLOSENESS if kl <= bound), _FARTHEST)


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
        agrees = f"agrees with it on the next token {percent(text['same_top1'])} of the time"
        parts.append(f"{closeness(text['kl_mean'])} (KL {number(text['kl_mean'])}) and {agrees}")
    ratio = _speed_ratio(card)
    if ratio is not None:
        parts.append(_speed_words(ratio))
    return ", ".join(parts[:-1]) + (", and " if len(parts) > 1 else "") + parts[-1] + "."


def _speed_words(ratio: float) -> str:
    if abs(ratio - 1) < 0.03:
        return "writes as fast"
    return f"writes {number(ratio)} times as fast" if ratio > 1 else f"writes at {percent(ratio)} of its speed"


def _speed_ratio(card: Mapping[str, Any]) -> float | None:
    after = card["speed"].get("decode_tokens_per_s")
    before = (card["speed"].get("original") or {}).get("decode_tokens_per_s")
    return after / before if after and before else None


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
        shown += [
            {
                "label": "KL divergence", "figure": number(text["kl_mean"]), "before": "0 is no change",
                "meaning": "How far its expectations moved from the original's, on average per token (nats).",
            },
            {
                "label": "Same next token", "figure": percent(text["same_top1"]), "before": "of 100%",
                "meaning": "How often both models find the same next token the likeliest.",
            },
            {
                "label": "Bits per byte", "figure": number(text["bits_per_byte_cut"]),
                "before": f"was {number(text['bits_per_byte_original'])}",
                "meaning": "How much it is surprised by the text: lower predicts better.",
            },
        ]  # fmt: skip
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


def calibration_texts(card: Mapping[str, Any]) -> set[str]:
    """Names of the texts that the steps learned from."""
    return {name for step in card["steps"] for name in (step.get("parameters") or {}).get("calibration", ())}


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
