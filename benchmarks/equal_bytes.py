"""What quality_vs_llama_cpp.py found on several models, as points: KL against bytes. For tables and the picture.

A result is results/equal_bytes_MODEL.json, and equal_bytes_MODEL_healed.json where the same was done with `--heal`.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.record import RESULTS

#: Names as shown, and as in names of files.
MODELS = (
    ("Gemma 3 270M", "gemma-3-270m"),
    ("SmolLM2 135M", "smollm2-135m"),
    ("Qwen2.5-Coder 1.5B", "qwen2.5-coder-1.5b"),
)
LLAMA_CPP, SMIDGEN, HEALED, OTHER = "llama.cpp", "smidgen", "smidgen, healed", "other engine"


@dataclass(frozen=True)
class Point:
    """One file on the text of its own kind.

    maker: one of the four above.  name: what is said of it beside that.  wanted: bytes that were asked for; None for
    other engines.  kl: mean in nats, with its 95% interval.  ratio: to llama.cpp's best of the same size, with its
    interval; None where the file is not smidgen's.  elsewhere: name of another text → both sides on it, as in the
    result.  processor_seconds: of healing.
    """

    maker: str
    name: str
    nbytes: int
    wanted: int | None
    kl: float
    interval: tuple[float, float]
    same_top1: float
    ratio: tuple[float, float, float] | None
    elsewhere: dict[str, dict[str, Any]]
    processor_seconds: float | None


@dataclass(frozen=True)
class Model:
    """All files of one model, the smallest first."""

    name: str
    weights: int
    points: list[Point]
    notes: list[str]

    def of(self, maker: str) -> list[Point]:
        """Those of one maker."""
        return [point for point in self.points if point.maker == maker]

    def bits(self, nbytes: int) -> float:
        """Of the whole file, for each weight."""
        return 8 * nbytes / self.weights


def models(folder: Path = RESULTS) -> list[Model]:
    """Those that have a result."""
    return [model for name, file in MODELS if (model := _model(name, folder / f"equal_bytes_{file}.json"))]


def _model(name: str, plain: Path) -> Model | None:
    healed = plain.with_name(f"{plain.stem}_healed.json")
    found = {path: json.loads(path.read_text(encoding="utf-8")) for path in (plain, healed) if path.exists()}
    if not found:
        return None
    points: dict[tuple[str, str, int], Point] = {}
    for path, result in found.items():
        for point in _points(result, HEALED if path == healed else SMIDGEN):
            points.setdefault((point.maker, point.name, point.nbytes), point)
    first = next(iter(found.values()))
    notes = list(dict.fromkeys(note for result in found.values() for note in result["notes"]))
    ordered = sorted(points.values(), key=lambda point: (point.nbytes, point.maker))
    return Model(name, first["original"]["weights"], ordered, notes)


def _points(result: dict[str, Any], ours: str) -> Iterator[Point]:
    for size in result["sizes"]:
        best = size["llama_cpp"][0]
        yield _point(LLAMA_CPP, best["mixture"], best, size["size"])
        if size["smidgen"]:
            yield _point(ours, "", size["smidgen"], size["size"], size)
    for other in result["other_engines"]:
        yield _point(OTHER, other["engine"], other, None)


def _point(
    maker: str, name: str, figures: dict[str, Any], wanted: int | None, size: dict[str, Any] | None = None
) -> Point:
    low, high = figures["kl_interval"]
    return Point(
        maker, name, figures["bytes"], wanted, figures["kl_mean"], (low, high), figures["same_top1"],
        None if size is None else (size["ratio"], *size["ratio_interval"]),
        {} if size is None else size["other"],
        None if size is None or not figures["healing"] else figures["healing"]["processor_seconds"],
    )  # fmt: skip
