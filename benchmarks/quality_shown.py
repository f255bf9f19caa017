"""A result of quality_vs_llama_cpp.py as tables: what it prints."""

from collections.abc import Mapping
from typing import Any

from benchmarks import record


def show(result: Mapping[str, Any]) -> str:
    """The home text, other engines' files on it, and the other texts."""
    rows, kinds = [], []
    for one in result["sizes"]:
        if one["smidgen"]:
            rows.append(_row("smidgen", one["smidgen"], ratio(one)))
        rows += [_row(f"llama.cpp {found['mixture']}", found) for found in one["llama_cpp"]]
        for name, other in (one.get("other") or {}).items():
            kinds.append((f"{one['size']:,}", name, kl(other["smidgen"]), kl(other["llama_cpp"]), ratio(other)))
    rows += [_row(f"other engine: {found['engine']}", found) for found in result["other_engines"]]
    head = ("file", "bytes", "KL mean (95%)", "KL p99", "same top-1", "bits per byte", "ratio to best (95%)")
    tables = [record.table(head, rows)]
    if kinds:
        tables.append(record.table(("size", "text", "smidgen, KL", "llama.cpp, KL", "ratio (95%)"), kinds))
    return "\n\n".join([*tables, *result["notes"]])


def _row(name: str, figures: Mapping[str, Any], compared: str = "") -> tuple[str, ...]:
    numbers = (f"{figures['kl_p99']:.2f}", f"{figures['same_top1']:.1%}", f"{figures['bits_per_byte_cut']:.4f}")
    return name, f"{figures['bytes']:,}", kl(figures), *numbers, compared


def kl(figures: Mapping[str, Any]) -> str:
    """The mean with its interval, in nats."""
    low, high = figures["kl_interval"]
    return f"{figures['kl_mean']:.4f} ({low:.4f} to {high:.4f})"


def ratio(result: Mapping[str, Any]) -> str:
    """Of smidgen's mean to llama.cpp's, with its interval."""
    low, high = result["ratio_interval"]
    return f"{result['ratio']:.2f} ({low:.2f} to {high:.2f})"
