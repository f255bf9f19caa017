"""The results of frameworks.py as a table: a row for the cut's own file, and for each folder of each framework."""

from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks.record import table as markdown
from smidgen.engines.frameworks.known import FRAMEWORKS

_HEAD = (
    "model", "weights as", "MB", "KL to the original, nats", "ratio", "same next token", "off our decoder by",
    "s to load", "prompt, tokens/s", "writing, tokens/s", "memory, MB",
)  # fmt: skip


def table(results: Sequence[Mapping[str, Any]]) -> str:
    """ratio: KL of smidgen's folder over that of the framework's own quantizer, with its 95% interval.  off our decoder
    by: the largest difference of a token's log-probability, for the same weights.
    """
    return markdown(_HEAD, [row for result in results for row in _rows(result)])


def _rows(result: Mapping[str, Any]) -> list[list[str]]:
    cut = result["cut"]
    quick = cut.get("speed")
    speed = ["", "", "", ""] if quick is None else [
        "", _rate(quick["prompt_tokens_per_s"]), _rate(quick["decode_tokens_per_s"]),
        f"{quick['peak_ram_bytes'] / 1e6:.0f}",
    ]  # fmt: skip
    rows = [[result["name"], "llama.cpp, the file itself", *_fidelity(cut, ""), "", *speed]]
    for one in result["folders"]:
        figures = one["figures"]
        ours = one["whose"] == "smidgen"
        ratio = result["ratios"].get(one["runtime"]) if ours else None
        away = figures.get("to_our_decoder")
        told = "" if ratio is None else "{:.2f} ({:.2f} to {:.2f})".format(ratio["ratio"], *ratio["interval"])
        whose = "from the cut" if ours else "by its own quantizer"
        rows.append(
            [
                result["name"], f"{FRAMEWORKS[one['runtime']].name}, {whose}",
                *_fidelity({"bytes": one["bytes"], **figures}, told),
                "" if away is None else f"{away['largest_difference']:.0e}", *_speed(figures.get("speed")),
            ]
        )  # fmt: skip
    return rows


def _fidelity(figures: Mapping[str, Any], ratio: str) -> list[str]:
    return [
        f"{figures['bytes'] / 1e6:.1f}", f"{figures['kl_mean']:.4f}", ratio, f"{100 * figures['same_top1']:.1f}%",
    ]  # fmt: skip


def _speed(found: Mapping[str, Any] | None) -> list[str]:
    if found is None:
        return ["", "", "", ""]
    median = {name: one["median"] for name, one in found.items()}
    return [
        f"{median['load_seconds']:.1f}", _rate(median["prompt_tokens_per_s"]), _rate(median["decode_tokens_per_s"]),
        f"{median['peak_bytes'] / 1e6:.0f}",
    ]  # fmt: skip


def _rate(value: float | None) -> str:
    return "not measured" if value is None else f"{value:.1f}"
