"""How much of what pruning cost is won back, over tokens of training: taught by the original, or by the text alone.

    smidgen cut original.gguf --layers 22 --no-measure -o pruned
    python -m benchmarks.pruned_recovery original.gguf pruned/model.gguf --text wikitext2-valid.txt@0.5 \\
        --evaluation wikitext2-valid.txt --elsewhere emma.txt

Four students of one shape read the same rows in the same order: the pruned model taught by the original (forward KL,
what `cut --heal` does), the same with half the loss from the text, the pruned model with the text alone, and one that
begins with random weights, with the text alone. The share of the lost bits per byte that is won back is
(pruned − student) / (pruned − original), on unseen text of the kind that was learned from, and on another kind
(`--elsewhere`): what a student has only learned about this text is not won back there.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks import options as shared
from benchmarks import record
from benchmarks.students import Study, add_options, parsed
from smidgen.distillation.students.fresh import FreshPlan, fresh_student
from smidgen.formats.checkpoint import Checkpoint
from smidgen.formats.opening import open_checkpoint
from smidgen.formats.parts import load_decoder
from smidgen.progress import say


def run_all(options: argparse.Namespace, original: Checkpoint, pruned: Checkpoint) -> dict[str, Any]:
    """All students, as the object that is saved."""
    study = Study(options, original)
    plan = FreshPlan(pruned.config, tuple(range(len(pruned.config.layers))))
    before, after = study.measure(load_decoder(original)), study.measure(load_decoder(pruned))
    say(f"bits per byte: original {before['bits_per_byte']:.3f}, pruned {after['bits_per_byte']:.3f}")
    rates, from_scratch = options.rates, options.scratch_rates
    ways = {
        "taught": (lambda: load_decoder(pruned), 0.0, rates),
        "taught, half text": (lambda: load_decoder(pruned), 0.5, rates),
        "text alone": (lambda: load_decoder(pruned), 1.0, rates),
        "from scratch, text": (lambda: fresh_student(pruned, plan, "random", options.seed), 1.0, from_scratch),
    }
    students: dict[str, Any] = {}
    for name, (begin, hard, tried) in ways.items():
        students[name] = study.best(begin, hard, tried)
        for point in students[name]["points"]:
            point |= _won_back(point, before, after)
        say(f"{name}: {students[name]['best']:.3f} bits per byte")
    return {
        **record.facts(), "original": {"file": options.original.name, "sha256": original.sha256(), **before},
        "pruned": {"sha256": pruned.sha256(), "parameters": pruned.parameters, "layers": len(pruned.config.layers),
                   "ffn": pruned.config.layers[0].ffn_width, **after},
        **study.described(), "students": students,
    }  # fmt: skip


def _won_back(point: dict[str, float], before: dict[str, float], after: dict[str, float]) -> dict[str, float]:
    """The share of what pruning cost, on each text."""
    return {
        name.replace("bits_per_byte", "won_back"): (after[name] - point[name]) / (after[name] - before[name])
        for name in point
        if name.endswith("bits_per_byte")
    }


def show(result: dict[str, Any]) -> str:
    """The table that goes into README.md: bits per byte, and the share won back, over tokens."""
    students = result["students"]
    kinds = [""] + ["elsewhere_"] * (result["elsewhere"] is not None)
    rows = [
        [f"{points[0]['tokens']:,}", *(_shown(point, kind) for kind in kinds for point in points)]
        for points in zip(*(student["points"] for student in students.values()), strict=True)
    ]
    heads = [name + ", elsewhere" * bool(kind) for kind in kinds for name in students]
    return record.table(("tokens", *heads), rows)


def _shown(point: dict[str, float], kind: str) -> str:
    return f"{point[f'{kind}bits_per_byte']:.3f} ({point[f'{kind}won_back']:.0%})"


def main(arguments: Sequence[str] | None = None) -> None:
    """The command."""
    parser = shared.parser_of(__doc__, "pruned_recovery.json")
    parser.add_argument("original", type=Path)
    parser.add_argument("pruned", type=Path)
    add_options(parser, rates="1e-4")
    parser.add_argument("--scratch-rates", default="1e-3", help="the same for the student that begins at random")
    options = parsed(parser.parse_args(arguments))
    options.scratch_rates = [float(rate) for rate in options.scratch_rates.split(",")]
    with open_checkpoint(options.original) as original, open_checkpoint(options.pruned) as pruned:
        result = run_all(options, original, pruned)
    shared.finish(options.output, result, show(result))


if __name__ == "__main__":
    main()
