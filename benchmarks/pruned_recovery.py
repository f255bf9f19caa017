"""How much of what pruning cost is won back, over tokens of training: taught by the original, or by the text alone.

    smidgen cut original.gguf --layers 22 --no-measure -o pruned
    python -m benchmarks.pruned_recovery original.gguf pruned/model.gguf --text wikitext2-valid.txt@0.5 \\
        --evaluation wikitext2-valid.txt

Three students of one shape read the same rows in the same order: the pruned model taught by the original (forward KL,
what `cut --heal` does), the pruned model with cross-entropy alone, and one that begins with random weights, with
cross-entropy. The share of the lost bits per byte that is won back is (pruned − student) / (pruned − original).
"""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks import record
from benchmarks.students import Study, add_options, parsed
from smidgen.distill.fresh import FreshPlan, fresh_student
from smidgen.distill.trainee import open_decoder
from smidgen.formats.checkpoint import Checkpoint
from smidgen.progress import say


def run_all(options: argparse.Namespace, original: Checkpoint, pruned: Checkpoint) -> dict[str, Any]:
    """All students, as the object that is saved."""
    study = Study(options, original)
    plan = FreshPlan(pruned.config, tuple(range(len(pruned.config.layers))))
    before, after = study.measure(open_decoder(original)), study.measure(open_decoder(pruned))
    say(f"bits per byte: original {before['bits_per_byte']:.3f}, pruned {after['bits_per_byte']:.3f}")
    rates, from_scratch = options.rates, options.scratch_rates
    ways = {
        "pruned, taught by the original": (lambda: open_decoder(pruned), True, rates),
        "pruned, cross-entropy": (lambda: open_decoder(pruned), False, rates),
        "from scratch, cross-entropy": (
            lambda: fresh_student(pruned, plan, "random", options.seed), False, from_scratch,
        ),
    }  # fmt: skip
    students: dict[str, Any] = {}
    for name, (begin, taught, tried) in ways.items():
        students[name] = study.best(begin, taught, tried)
        lost = after["bits_per_byte"] - before["bits_per_byte"]
        for point in students[name]["points"]:
            point["won_back"] = (after["bits_per_byte"] - point["bits_per_byte"]) / lost
        say(f"{name}: {students[name]['best']:.3f} bits per byte")
    return {
        **record.facts(), "original": {"file": options.original.name, "sha256": original.sha256(), **before},
        "pruned": {"sha256": pruned.sha256(), "parameters": pruned.parameters, "layers": len(pruned.config.layers),
                   "ffn": pruned.config.layers[0].ffn_width, **after},
        **study.described(), "students": students,
    }  # fmt: skip


def show(result: dict[str, Any]) -> str:
    """The table that goes into README.md: bits per byte, and the share won back, over tokens."""
    students = result["students"]
    rows = [
        [f"{points[0]['tokens']:,}", *(f"{point['bits_per_byte']:.3f} ({point['won_back']:.0%})" for point in points)]
        for points in zip(*(student["points"] for student in students.values()), strict=True)
    ]
    return record.table(("tokens", *students), rows)


def main(arguments: Sequence[str] | None = None) -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("original", type=Path)
    parser.add_argument("pruned", type=Path)
    add_options(parser, rates="1e-4")
    parser.add_argument("--scratch-rates", default="1e-3", help="the same for the student that begins at random")
    parser.add_argument("--output", type=Path, default=record.RESULTS / "pruned_recovery.json")
    options = parsed(parser.parse_args(arguments))
    options.scratch_rates = [float(rate) for rate in options.scratch_rates.split(",")]
    with Checkpoint.open(options.original) as original, Checkpoint.open(options.pruned) as pruned:
        result = run_all(options, original, pruned)
    record.save(options.output, result)
    print(show(result))


if __name__ == "__main__":
    main()
