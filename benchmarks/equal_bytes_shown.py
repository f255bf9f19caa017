"""The tables of KL against bytes (equal_bytes.py), as they stand on the pages."""

from collections.abc import Sequence

from benchmarks import record
from benchmarks.equal_bytes import HEALED, LLAMA_CPP, OTHER, SMIDGEN, Model, Point

#: Where the picture lies, from the page.
PICTURE = "pictures/equal-bytes.svg"
_NOTHING = "There is no result yet."


def at_home(models: Sequence[Model]) -> str:
    """The picture, every file on text of the kind that it was calibrated on, and what is to be said beside that."""
    rows = [
        (model.name, _maker(point), f"{point.nbytes:,}", f"{model.bits(point.nbytes):.2f}",
         f"{point.kl:.4f} ({point.interval[0]:.4f} to {point.interval[1]:.4f})", f"{100 * point.same_top1:.1f}%",
         _ratio(point))
        for model in models for point in model.points
    ]  # fmt: skip
    if not rows:
        return _NOTHING
    head = ("model", "file", "bytes", "bits a weight", "KL, nats (95%)", "same top token", "ratio of KL (95%)")
    notes = [f"{model.name}: {note}" for model in models for note in model.notes]
    return "\n\n".join([f"![KL against bytes]({PICTURE})", record.table(head, rows), *notes])


def elsewhere(models: Sequence[Model]) -> str:
    """smidgen's files and llama.cpp's best on text of other kinds."""
    rows = []
    for model in models:
        for point in (*model.of(SMIDGEN), *model.of(HEALED)):
            for name, found in point.elsewhere.items():
                ours, theirs = (found[side]["kl_mean"] for side in ("smidgen", "llama_cpp"))
                low, high = found["ratio_interval"]
                rows.append((model.name, _maker(point), f"{point.nbytes:,}", name, f"{ours:.4f}", f"{theirs:.4f}",
                             f"{found['ratio']:.2f} ({low:.2f} to {high:.2f})"))  # fmt: skip
    if not rows:
        return _NOTHING
    return record.table(("model", "file", "bytes", "text", "KL", "llama.cpp: KL", "ratio of KL (95%)"), rows)


def _maker(point: Point) -> str:
    if point.maker == OTHER:
        return f"{OTHER}: {point.name}"
    if point.maker == LLAMA_CPP:
        return f"{LLAMA_CPP}: {point.name}"
    took = "" if point.processor_seconds is None else f" for {point.processor_seconds / 60:.0f} processor minutes"
    return f"**{point.maker}**{took}"


def _ratio(point: Point) -> str:
    if point.ratio is None:
        return "1" if point.maker == LLAMA_CPP else ""
    ratio, low, high = point.ratio
    return f"{ratio:.2f} ({low:.2f} to {high:.2f})"
