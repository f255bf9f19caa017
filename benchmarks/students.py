"""Students trained side by side: the same rows in the same order, measured on the way on text that none has seen."""

import argparse
import math
import time
from collections.abc import Callable, Sequence
from typing import Any

import torch

from benchmarks import texts
from smidgen.data.sources import TextSource
from smidgen.data.text import cut_into_windows
from smidgen.distill.batch import Batch
from smidgen.distill.losses import DistillObjective, LanguageObjective
from smidgen.distill.packing import text_batches
from smidgen.distill.remembering import RememberingTeacher
from smidgen.distill.trainee import Objective, Plain
from smidgen.distill.trainer import Trainer, TrainingOptions
from smidgen.formats.checkpoint import Checkpoint
from smidgen.model.decoder import Decoder
from smidgen.model.tokenizer import Tokenizer
from smidgen.numerics.precision import fast_product_dtype


class Study:
    """One teacher, one text to learn from and one to measure on. options: see `add_options`."""

    def __init__(self, options: argparse.Namespace, teacher: Checkpoint) -> None:
        self.options = options
        tokenizer = Tokenizer.from_gguf(teacher.file.metadata)
        self.learned = texts.take(options.text, options.tokens, tokenizer)
        self.evaluation = texts.take(options.evaluation, options.evaluation_tokens, tokenizer)
        texts.refuse_overlap(self.learned, self.evaluation)
        source = TextSource.of("text", self.learned.text)
        self.batches = text_batches([source], tokenizer, options.batch, options.context, options.seed)
        self.steps = math.ceil(options.epochs * len(self.batches) / options.batch)
        self._bytes = int(cut_into_windows(self.evaluation.text, tokenizer, options.context).text_bytes.sum())
        unseen = TextSource.of("unseen", self.evaluation.text)
        measured = text_batches([unseen], tokenizer, 1, options.context, options.seed)
        self._unseen: list[Batch] = [measured.rows([row]) for row in range(len(measured))]
        self._quick = fast_product_dtype() is torch.bfloat16
        self._asked = DistillObjective(RememberingTeacher(teacher), bf16=self._quick)

    def best(self, begin: Callable[[], Decoder], taught: bool, rates: Sequence[float]) -> dict[str, Any]:
        """The best of all learning rates that are tried. begin: makes the untrained student."""
        tried = [self._train(begin(), taught, rate) for rate in rates]
        best = min(tried, key=lambda one: one["best"])
        return {**best, "tried": {str(one["learning_rate"]): one["best"] for one in tried}}

    @torch.no_grad()
    def measure(self, decoder: Decoder) -> dict[str, float]:
        """Bits per byte of the unseen text, cross-entropy per token, and KL from the teacher, in nats per token."""
        sums = [self._asked(decoder, batch)[1] for batch in self._unseen]
        tokens = sum(batch.weight() for batch in self._unseen)
        cross_entropy = sum(one["cross_entropy"] for one in sums)
        return {
            "bits_per_byte": cross_entropy / math.log(2) / self._bytes,
            "cross_entropy": cross_entropy / tokens,
            "kl": sum(one["kl"] for one in sums) / tokens,
        }

    def _train(self, student: Decoder, taught: bool, rate: float) -> dict[str, Any]:
        """One student."""
        objective: Objective = self._asked if taught else LanguageObjective(self._quick)
        points: list[dict[str, float]] = []

        def evaluate() -> float:
            points.append(self.measure(student))
            return points[-1]["bits_per_byte"]

        training = TrainingOptions(
            self.steps, learning_rate=rate, weight_decay=0.1, rows_at_once=self.options.rows_at_once,
            seed=self.options.seed,
        )  # fmt: skip
        every, started = max(1, self.steps // self.options.points), time.perf_counter()
        trainer = Trainer(
            Plain(student), objective, self.batches, training, evaluate=evaluate, evaluate_every=every, label="Training"
        )
        result = trainer.run()
        for point, (step, _) in zip(points, result.evaluations, strict=True):
            point["tokens"] = step * self.options.batch * self.options.context
        return {
            "learning_rate": rate, "points": points, "seconds": time.perf_counter() - started, "tokens": result.tokens,
            "best": min(point["bits_per_byte"] for point in points),
        }  # fmt: skip

    def described(self) -> dict[str, Any]:
        """For results."""
        options = self.options
        return {
            "text": self.learned.description, "evaluation": self.evaluation.description, "steps": self.steps,
            "batch": options.batch, "context": options.context, "epochs": options.epochs, "seed": options.seed,
            "threads": options.threads,
        }  # fmt: skip


def add_options(parser: argparse.ArgumentParser, rates: str) -> None:
    """What a study is told. rates: learning rates that are tried unless others are given."""
    parser.add_argument("--text", nargs="+", required=True, metavar="FILE[@START]")
    parser.add_argument("--evaluation", nargs="+", required=True, metavar="FILE[@START]")
    parser.add_argument("--tokens", type=int, default=160_000, help="of text to learn from")
    parser.add_argument("--epochs", type=float, default=1.0)
    parser.add_argument("--evaluation-tokens", type=int, default=4096)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--context", type=int, default=256)
    parser.add_argument("--rows-at-once", type=int, default=8)
    parser.add_argument("--rates", default=rates, help="learning rates to try, with commas")
    parser.add_argument("--points", type=int, default=5, help="evaluations on the way")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=2)


def parsed(options: argparse.Namespace) -> argparse.Namespace:
    """The same with numbers for the learning rates."""
    options.rates = [float(rate) for rate in options.rates.split(",")]
    torch.set_num_threads(options.threads)
    return options
