"""The Gemma 2 report's experiment in small: one student, the same tokens, from scratch against distilled.

    python -m benchmarks.small_student gemma-3-270m --text wikitext2-valid.txt --evaluation wikitext2-valid.txt@0.8

The report (arXiv:2408.00118, table 6) trains a student of 2 billion weights on 500 billion tokens: 60.3 points from
scratch (cross-entropy with the text), 67.7 distilled from a teacher (forward KL). Here the teacher is a real small
model with its vocabulary trimmed (`smidgen cut --vocab`), so that most of a student's weights and time are not in its
embedding. Both students begin with the same random weights and read the same rows in the same order; each has the
better of the learning rates tried. A third begins with slices of the teacher. Measured: bits per byte, and KL from the
teacher in nats per token, at several points, on text that none has seen.
"""

import argparse
import math
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from benchmarks import record, texts
from smidgen.data.sources import TextSource
from smidgen.data.text import cut_into_windows
from smidgen.distill.batch import Batch
from smidgen.distill.fresh import Beginning, FreshShape, fresh_student, plan_fresh
from smidgen.distill.losses import DistillObjective, LanguageObjective
from smidgen.distill.packing import text_batches
from smidgen.distill.remembering import RememberingTeacher
from smidgen.distill.trainee import Objective, Plain
from smidgen.distill.trainer import Trainer, TrainingOptions
from smidgen.formats.checkpoint import Checkpoint, load
from smidgen.model.tokenizer import Tokenizer
from smidgen.numerics.precision import fast_product_dtype
from smidgen.progress import say

#: Name in the results → how it begins, and whether a teacher is asked.
_WAYS: dict[str, tuple[Beginning, bool]] = {
    "from scratch": ("random", False),
    "distilled": ("random", True),
    "distilled, begun with slices": ("slices", True),
}


class Bench:
    """One teacher, one shape of student, one text to learn from and one to measure on."""

    def __init__(self, options: argparse.Namespace, teacher: Checkpoint) -> None:
        self.options, self.checkpoint = options, teacher
        self.tokenizer = Tokenizer.from_gguf(teacher.file.metadata)
        shape = FreshShape(options.layers, options.width, options.ffn)
        self.plan = plan_fresh(teacher.config, teacher.family, shape)
        self.learned = texts.take(options.text, options.tokens, self.tokenizer)
        self.evaluation = texts.take(options.evaluation, options.evaluation_tokens, self.tokenizer)
        texts.refuse_overlap(self.learned, self.evaluation)
        source = TextSource.of("text", self.learned.text)
        self.batches = text_batches([source], self.tokenizer, options.batch, options.context, options.seed)
        self.steps = math.ceil(options.epochs * len(self.batches) / options.batch)
        self.windows = cut_into_windows(self.evaluation.text, self.tokenizer, options.context)
        measured = text_batches(
            [TextSource.of("unseen", self.evaluation.text)], self.tokenizer, 1, options.context, options.seed
        )
        self.unseen: list[Batch] = [measured.rows([row]) for row in range(len(measured))]
        self.quick = fast_product_dtype() is torch.bfloat16
        self.teacher = RememberingTeacher(teacher)

    def train(self, beginning: Beginning, taught: bool, rate: float) -> dict[str, Any]:
        """One student, measured on the way."""
        student = Plain(fresh_student(self.checkpoint, self.plan, beginning, self.options.seed))
        asked = DistillObjective(self.teacher, bf16=self.quick)
        objective: Objective = asked if taught else LanguageObjective(self.quick)
        points: list[dict[str, float]] = []

        def evaluate() -> float:
            points.append(self.measure(student, asked))
            return points[-1]["kl" if taught else "bits_per_byte"]

        training = TrainingOptions(
            self.steps, learning_rate=rate, weight_decay=0.1, rows_at_once=self.options.rows_at_once,
            seed=self.options.seed,
        )  # fmt: skip
        every = max(1, self.steps // self.options.points)
        started = time.perf_counter()
        trainer = Trainer(
            student, objective, self.batches, training, evaluate=evaluate, evaluate_every=every, label="Training"
        )
        result = trainer.run()
        for point, (step, _) in zip(points, result.evaluations, strict=True):
            point["tokens"] = step * self.options.batch * self.options.context
        return {
            "learning_rate": rate, "points": points, "seconds": time.perf_counter() - started, "tokens": result.tokens,
            "best": min(point["bits_per_byte"] for point in points),
        }  # fmt: skip

    def measure(self, student: Plain, asked: DistillObjective) -> dict[str, float]:
        """Bits per byte of the unseen text, and KL from the teacher."""
        sums = [asked(student.decoder, batch)[1] for batch in self.unseen]
        tokens, size = sum(batch.weight() for batch in self.unseen), int(self.windows.text_bytes.sum())
        cross_entropy = sum(one["cross_entropy"] for one in sums)
        return {
            "bits_per_byte": cross_entropy / math.log(2) / size,
            "cross_entropy": cross_entropy / tokens,
            "kl": sum(one["kl"] for one in sums) / tokens,
        }

    def teachers_own(self) -> float:
        """Bits per byte of the teacher, from a student that is its copy."""
        plan = plan_fresh(self.checkpoint.config, self.checkpoint.family, FreshShape())
        copy = Plain(fresh_student(self.checkpoint, plan, "slices", 0))
        with torch.no_grad():
            return self.measure(copy, DistillObjective(self.teacher, bf16=self.quick))["bits_per_byte"]


def trimmed(options: argparse.Namespace, folder: Path) -> Path:
    """The teacher with those of its tokens that the text to learn from needs most."""
    with load(options.teacher) as original:
        tokenizer = Tokenizer.from_gguf(original.file.metadata)
        learned = texts.take(options.text, options.tokens, tokenizer).write(folder / "text.txt")
    trim = ["--vocab", str(options.vocab), "--steps", "vocabulary", "--no-measure", "--text", str(learned)]
    record.run(record.smidgen("cut", options.teacher, *trim, "-o", folder / "teacher"), folder / "cut.log")
    return folder / "teacher" / "model.gguf"


def run_all(options: argparse.Namespace, teacher: Checkpoint) -> dict[str, Any]:
    """All students, as the object that is saved."""
    torch.set_num_threads(options.threads)
    bench = Bench(options, teacher)
    own = bench.teachers_own()
    parameters = sum(value.numel() for value in fresh_student(teacher, bench.plan, "random", 0).parameters())
    say(f"{parameters / 1e6:.1f} million weights, {bench.steps} steps; the teacher has {own:.3f} bits per byte")
    students: dict[str, Any] = {}
    for name, (beginning, taught) in _WAYS.items():
        tried = [bench.train(beginning, taught, rate) for rate in options.rates]
        best = min(tried, key=lambda one: one["best"])
        students[name] = {**best, "tried": {str(one["learning_rate"]): one["best"] for one in tried}}
        say(f"{name}: {best['best']:.3f} bits per byte with learning rate {best['learning_rate']}")
    return {
        **record.facts(), "teacher": {"name": options.teacher, "sha256": teacher.sha256(), "bits_per_byte": own,
                                      "vocabulary": teacher.config.vocabulary},
        "student": {"parameters": parameters, "layers": len(bench.plan.config.layers),
                    "hidden": bench.plan.config.hidden, "ffn": bench.plan.config.layers[0].ffn_width},
        "text": bench.learned.description, "evaluation": bench.evaluation.description, "steps": bench.steps,
        "batch": options.batch, "context": options.context, "epochs": options.epochs, "seed": options.seed,
        "threads": options.threads, "students": students,
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
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("teacher")
    parser.add_argument("--text", nargs="+", required=True, metavar="FILE[@START]")
    parser.add_argument("--evaluation", nargs="+", required=True, metavar="FILE[@START]")
    parser.add_argument("--vocab", type=int, default=16384, help="tokens of the teacher that stay; 0 for all")
    parser.add_argument("--tokens", type=int, default=160_000, help="of text to learn from")
    parser.add_argument("--epochs", type=float, default=1.0)
    parser.add_argument("--evaluation-tokens", type=int, default=4096)
    parser.add_argument("--layers", type=int, default=6)
    parser.add_argument("--width", type=int, default=320)
    parser.add_argument("--ffn", type=int, default=1024)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--context", type=int, default=256)
    parser.add_argument("--rows-at-once", type=int, default=8)
    parser.add_argument("--rates", default="1e-3", help="learning rates to try, with commas")
    parser.add_argument("--points", type=int, default=5, help="evaluations on the way")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--work", type=Path, help="folder for files in between")
    parser.add_argument("--output", type=Path, default=record.RESULTS / "small_student.json")
    options = parser.parse_args(arguments)
    options.rates = [float(rate) for rate in options.rates.split(",")]
    with tempfile.TemporaryDirectory(prefix="small-student-", dir=options.work) as folder:
        path = options.teacher
        if options.vocab:
            path = str(trimmed(options, Path(folder)))
        with load(path) as teacher:
            result = run_all(options, teacher)
    record.save(options.output, result)
    print(show(result))


if __name__ == "__main__":
    main()
