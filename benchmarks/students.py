"""Students trained side by side: the same rows in the same order, measured on the way on text that none has seen."""

import argparse
import math
import time
from collections.abc import Callable, Sequence
from typing import Any

import torch

from benchmarks import options as shared
from benchmarks import texts
from smidgen.data.sources import TextSource
from smidgen.data.text import cut_into_windows
from smidgen.distillation.loop.trainer import Trainer, TrainingOptions
from smidgen.distillation.loop.watch import Losses, Watch
from smidgen.distillation.objectives.losses import DistillObjective, Divergence, LanguageObjective
from smidgen.distillation.students.trainee import Objective, Plain
from smidgen.distillation.teachers.remembering import RememberingTeacher
from smidgen.distillation.text.batch import Batch
from smidgen.distillation.text.packing import text_batches
from smidgen.formats.checkpoint import Checkpoint
from smidgen.model.decoder import Decoder
from smidgen.model.tokenizer import Tokenizer
from smidgen.numerics.precision import fast_product_dtype


class Study:
    """One teacher, one text to learn from and one or two to measure on. options: see `add_options`."""

    def __init__(self, options: argparse.Namespace, teacher: Checkpoint) -> None:
        self.options = options
        self._tokenizer = tokenizer = Tokenizer.from_gguf(teacher.tokenizer_metadata)
        self.learned = texts.take(options.text, options.tokens, tokenizer)
        source = TextSource.of("text", self.learned.text)
        self.batches = text_batches([source], tokenizer, options.batch, options.context, options.seed)
        self.steps = math.ceil(options.epochs * len(self.batches) / options.batch)
        self._unseen = self._kept_apart(options.evaluation)
        self._elsewhere = self._kept_apart(options.elsewhere) if options.elsewhere else None
        self._quick = fast_product_dtype() is torch.bfloat16
        self._teacher = RememberingTeacher(teacher)
        self._asked = DistillObjective(self._teacher, bf16=self._quick)

    def best(self, begin: Callable[[], Decoder], hard: float, rates: Sequence[float]) -> dict[str, Any]:
        """The best of all learning rates that are tried.

        begin: makes the untrained student.  hard: share of cross-entropy with the text in the loss, 1 to learn without
        the teacher.
        """
        tried = [self._train(begin(), hard, rate) for rate in rates]
        best = min(tried, key=lambda one: one["best"])
        return {**best, "tried": {str(one["learning_rate"]): one["best"] for one in tried}}

    def measure(self, decoder: Decoder) -> dict[str, float]:
        """Of the unseen text, and as `elsewhere_…` of text of another kind: bits per byte, cross-entropy per token,
        and KL from the teacher, in nats per token."""
        found = self._unseen.measure(decoder, self._asked)
        if self._elsewhere is not None:
            elsewhere = self._elsewhere.measure(decoder, self._asked)
            found |= {f"elsewhere_{name}": value for name, value in elsewhere.items()}
        return found

    def _kept_apart(self, arguments: Sequence[str]) -> "_Unseen":
        piece = texts.take(arguments, self.options.evaluation_tokens, self._tokenizer)
        texts.refuse_overlap(self.learned, piece)
        return _Unseen(piece, self._tokenizer, self.options.context)

    def _train(self, student: Decoder, hard: float, rate: float) -> dict[str, Any]:
        """One student."""
        objective: Objective = LanguageObjective(self._quick)
        if hard < 1:
            objective = DistillObjective(self._teacher, Divergence(hard=hard), self._quick)
        points: list[dict[str, float]] = []

        def evaluate() -> Losses:
            points.append(self.measure(student))
            return Losses((points[-1]["bits_per_byte"],), (1.0,))

        training = TrainingOptions(
            self.steps, learning_rate=rate, weight_decay=0.1, rows_at_once=self.options.rows_at_once,
            seed=self.options.seed,
        )  # fmt: skip
        every, started = max(1, self.steps // self.options.points), time.perf_counter()
        trainer = Trainer(Plain(student), objective, self.batches, training, watch=Watch(evaluate, every))
        result = trainer.run()
        for point, (step, _) in zip(points, result.evaluations, strict=True):
            point["tokens"] = step * self.options.batch * self.options.context
        return {
            "learning_rate": rate, "hard": hard, "points": points, "seconds": time.perf_counter() - started,
            "tokens": result.tokens, "best": min(point["bits_per_byte"] for point in points),
        }  # fmt: skip

    def described(self) -> dict[str, Any]:
        """For results."""
        options, elsewhere = self.options, self._elsewhere
        return {
            "text": self.learned.description, "evaluation": self._unseen.description,
            "elsewhere": None if elsewhere is None else elsewhere.description, "steps": self.steps,
            "batch": options.batch, "context": options.context, "epochs": options.epochs, "seed": options.seed,
            "threads": options.threads,
        }  # fmt: skip


class _Unseen:
    """A text that no student learns from, ready to be measured on."""

    def __init__(self, piece: texts.Piece, tokenizer: Tokenizer, context: int) -> None:
        self.description = piece.description
        self._bytes = int(cut_into_windows(piece.text, tokenizer, context).text_bytes.sum())
        rows = text_batches([TextSource.of("unseen", piece.text)], tokenizer, 1, context, 0)
        self._rows: list[Batch] = [rows.rows([row]) for row in range(len(rows))]

    @torch.no_grad()
    def measure(self, decoder: Decoder, asked: Objective) -> dict[str, float]:
        """asked: gives cross-entropy and KL."""
        sums = [asked(decoder, row)[1] for row in self._rows]
        tokens = sum(row.weight() for row in self._rows)
        cross_entropy = sum(one["cross_entropy"] for one in sums)
        return {
            "bits_per_byte": cross_entropy / math.log(2) / self._bytes,
            "cross_entropy": cross_entropy / tokens,
            "kl": sum(one["kl"] for one in sums) / tokens,
        }


def add_options(parser: argparse.ArgumentParser, rates: str) -> None:
    """What a study is told. rates: learning rates that are tried unless others are given."""
    parser.add_argument("--text", nargs="+", required=True, metavar="FILE[@START]")
    shared.add_evaluation(parser, 4096)
    parser.add_argument("--elsewhere", nargs="+", metavar="FILE[@START]", help="text of another kind to measure on")
    shared.add_tokens(parser, 160_000, "of text to learn from")
    parser.add_argument("--epochs", type=float, default=1.0)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--context", type=int, default=256)
    parser.add_argument("--rows-at-once", type=int, default=8)
    parser.add_argument("--rates", default=rates, help="learning rates to try, with commas")
    parser.add_argument("--points", type=int, default=5, help="evaluations on the way")
    shared.add_seed(parser)


def parsed(options: argparse.Namespace) -> argparse.Namespace:
    """The same with numbers for the learning rates."""
    options.rates = [float(rate) for rate in options.rates.split(",")]
    torch.set_num_threads(options.threads)
    return options
