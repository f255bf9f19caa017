"""The Gemma 2 report's experiment in small: one student, the same tokens, from scratch against distilled.

    python -m benchmarks.small_student gemma-3-270m --text wikitext2-valid.txt --evaluation wikitext2-valid.txt@0.8

The report (arXiv:2408.00118, table 6) trains a student of 2 billion weights on 500 billion tokens: 60.3 points from
scratch (cross-entropy with the text), 67.7 distilled from a teacher (forward KL). Here the teacher is a real small
model with its vocabulary trimmed (`smidgen cut --vocab`), so that most of a student's weights and time are not in its
embedding. Both students begin with the same random weights and read the same rows in the same order; each has the
better of the learning rates tried. A third learns half from the teacher and half from the text, a fourth begins with
slices of the teacher. Measured: bits per byte, and KL from the teacher in nats per token, at several points, on text
that none has seen.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks import options as shared
from benchmarks import record, texts
from benchmarks.students import Study, add_options, parsed
from smidgen.distillation.students.fresh import Beginning, FreshShape, fresh_student, plan_fresh
from smidgen.formats.checkpoint import Checkpoint
from smidgen.formats.opening import open_model
from smidgen.formats.parts import load_decoder
from smidgen.model.tokenizer import Tokenizer
from smidgen.progress import say

#: Name in the results → how it begins, and the share of its loss that comes from the text and not from the teacher.
_WAYS: dict[str, tuple[Beginning, float]] = {
    "from scratch": ("random", 1.0),
    "distilled": ("random", 0.0),
    "distilled, half text": ("random", 0.5),
    "distilled, begun with slices": ("slices", 0.0),
}


def trimmed(options: argparse.Namespace, folder: Path) -> Path:
    """The teacher with those of its tokens that the text to learn from needs most."""
    with open_model(options.teacher) as original:
        tokenizer = Tokenizer.from_gguf(original.tokenizer_metadata)
        learned = texts.take(options.text, options.tokens, tokenizer).write(folder / "text.txt")
    trim = ["--vocab", str(options.vocab), "--steps", "vocabulary", "--no-measure", "--text", str(learned)]
    record.run(record.smidgen("cut", options.teacher, *trim, "-o", folder / "teacher"), folder / "cut.log")
    return folder / "teacher" / "model.gguf"


def run_all(options: argparse.Namespace, teacher: Checkpoint) -> dict[str, Any]:
    """All students, as the object that is saved."""
    study = Study(options, teacher)
    shape = FreshShape(options.layers, options.width, options.ffn)
    plan = plan_fresh(teacher.config, teacher.family, shape)
    own = study.measure(load_decoder(teacher))["bits_per_byte"]
    parameters = sum(value.numel() for value in fresh_student(teacher, plan, "random", 0).parameters())
    say(f"{parameters / 1e6:.1f} million weights, {study.steps} steps; the teacher has {own:.3f} bits per byte")
    students: dict[str, Any] = {}
    for name, (beginning, hard) in _WAYS.items():
        students[name] = study.best(
            lambda start=beginning: fresh_student(teacher, plan, start, options.seed), hard, options.rates
        )
        best = students[name]
        say(f"{name}: {best['best']:.3f} bits per byte with learning rate {best['learning_rate']}")
    return {
        **record.facts(), "teacher": {"name": Path(options.teacher).name, "sha256": teacher.sha256(),
                                      "bits_per_byte": own, "vocabulary": teacher.config.vocabulary},
        "student": {"parameters": parameters, "layers": len(plan.config.layers),
                    "hidden": plan.config.hidden, "ffn": plan.config.layers[0].ffn_width},
        **study.described(), "students": students,
    }  # fmt: skip


def show(result: dict[str, Any]) -> str:
    """The table that goes into README.md: bits per byte over tokens."""
    students = result["students"]
    rows = [
        [f"{points[0]['tokens'] / 1000:.0f} thousand", *(f"{point['bits_per_byte']:.3f}" for point in points)]
        for points in zip(*(student["points"] for student in students.values()), strict=True)
    ]
    return record.table(("tokens", *students), rows)


def main(arguments: Sequence[str] | None = None) -> None:
    """The command."""
    parser = shared.parser_of(__doc__, "small_student.json")
    parser.add_argument("teacher")
    add_options(parser, rates="1e-3")
    parser.add_argument("--vocab", type=int, default=16384, help="tokens of the teacher that stay; 0 for all")
    parser.add_argument("--layers", type=int, default=6)
    parser.add_argument("--width", type=int, default=320)
    parser.add_argument("--ffn", type=int, default=1024)
    shared.add_work(parser, "folder for files in between")
    options = parsed(parser.parse_args(arguments))
    with shared.work_folder("small-student", options.work) as folder:
        path = options.teacher
        if options.vocab:
            path = str(trimmed(options, folder))
        with open_model(path) as teacher:
            result = run_all(options, teacher)
    shared.finish(options.output, result, show(result))


if __name__ == "__main__":
    main()
