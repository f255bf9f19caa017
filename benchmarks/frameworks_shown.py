"""The results of frameworks.py as a table: a row for the cut's own file, and for each folder of each framework."""

from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks.record import table as markdown
from smidgen.engines.frameworks.known import FRAMEWORKS

_WEIGHTS = ("model", "MB", "KL to the original, nats", "ratio", "same next token", "off our decoder by")
_SPEED = ("s to load", "prompt, tokens/s", "writing, tokens/s", "memory, MB")


def table(results: Sequence[Mapping[str, Any]]) -> str:
    """ratio: KL of smidgen's folder over that of the framework's own quantizer, with its 95% interval.  off our decoder
    by: the largest difference of a token's log-probability, for the same weights.

    Columns of speed only where something was timed.
    """
    rows = [row for result in results for row in _rows(result)]
    timed = any(any(speed) for _, speed in rows)
    head = _WEIGHTS + (_SPEED if timed else ())
    return markdown(head, [weights + (speed if timed else []) for weights, speed in rows])


def _rows(result: Mapping[str, Any]) -> list[tuple[list[str], list[str]]]:
    """Cells about the weights, and about speed."""
    name, cut = result["name"], result["cut"]
    rows = [(_weights(f"{name}, the cut's own file", cut, "", ""), _speed_of_file(cut.get("speed")))]
    for one in result["folders"]:
        figures = {"bytes": one["bytes"], **one["figures"]}
        ours = one["whose"] == "smidgen"
        ratio = result["ratios"].get(one["runtime"]) if ours else None
        told = "" if ratio is None else "{:.2f} ({:.2f} to {:.2f})".format(ratio["ratio"], *ratio["interval"])
        away = figures.get("to_our_decoder")
        what = f"{name}, {FRAMEWORKS[one['runtime']].name}: {'the cut' if ours else 'its own quantizer'}"
        off = "" if away is None else f"{away['largest_difference']:.0e}"
        rows.append((_weights(what, figures, told, off), _speed(figures.get("speed"))))
    for runtime, why in result.get("failed", {}).items():
        what = f"{name}, {FRAMEWORKS[runtime].name}: its own quantizer failed ({why})"
        rows.append(([what, *[""] * (len(_WEIGHTS) - 1)], _speed(None)))
    return rows


def _weights(what: str, figures: Mapping[str, Any], ratio: str, off: str) -> list[str]:
    size, kl = f"{figures['bytes'] / 1e6:.1f}", f"{figures['kl_mean']:.4f}"
    return [what, size, kl, ratio, f"{100 * figures['same_top1']:.1f}%", off]


def _speed_of_file(found: Mapping[str, Any] | None) -> list[str]:
    """As `smidgen bench` has it."""
    if found is None:
        return [""] * len(_SPEED)
    rates = [_rate(found["prompt_tokens_per_s"]), _rate(found["decode_tokens_per_s"])]
    return ["", *rates, f"{found['peak_ram_bytes'] / 1e6:.0f}"]


def _speed(found: Mapping[str, Any] | None) -> list[str]:
    """As framework_speed.py has it."""
    if found is None:
        return [""] * len(_SPEED)
    median = {name: one["median"] for name, one in found.items()}
    rates = [_rate(median["prompt_tokens_per_s"]), _rate(median["decode_tokens_per_s"])]
    return [f"{median['load_seconds']:.1f}", *rates, f"{median['peak_bytes'] / 1e6:.0f}"]


def _rate(value: float | None) -> str:
    return "not measured" if value is None else f"{value:.1f}"
