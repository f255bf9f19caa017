"""Where a card comes from, as the page says it: what was done, what it learned from, how it was measured.

What a cut's file tells of its history may come from a stranger, and so is bounded.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from smidgen.errors import printable
from smidgen.measuring.figures import NOT_MEASURED, number, size, whole

_LONGEST_HISTORY = 32  # steps


def calibration(card: Mapping[str, Any]) -> list[str]:
    """Of each text that the cut learned from, how many tokens it used; empty where that is not known."""
    return [
        f"{printable(text['text'])}: {whole(text['tokens'])} of {whole(text['available'])} tokens"
        for text in card.get("calibration") or ()
    ]


def steps(card: Mapping[str, Any]) -> list[tuple[str, str]]:
    """What was done in each step, and its settings, in words.

    First the steps that the cut's file tells of from earlier cuts. The file may come from a stranger.
    """
    history = list(card.get("history") or [])
    earlier = history[: max(0, len(history) - len(card["steps"]))]
    return [_step(step) for step in [*earlier[:_LONGEST_HISTORY], *card["steps"]]]


def _step(step: Mapping[str, Any]) -> tuple[str, str]:
    parameters = step.get("parameters")
    settings = _settings(parameters) if isinstance(parameters, Mapping) else ""
    return printable(step.get("summary", step.get("step", "?")), 1000), settings


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


def made(card: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Where the card is from, as rows of a table."""
    known = dict(card.get("made") or {})
    versions = known.pop("versions", {})
    peak = known.pop("peak_ram_bytes", None)
    rows = [(key.replace("_", " "), _plain(value)) for key, value in known.items() if key != "seconds"]
    rows.append(("measuring took", NOT_MEASURED if known.get("seconds") is None else f"{known['seconds']:.0f} s"))
    rows.append(("memory while measuring (peak)", size(peak)))
    rows.append(("versions", ", ".join(f"{name} {found}" for name, found in versions.items() if found)))
    return rows
