"""A tiny training for tests: random tokens, cross-entropy written out."""

import hashlib
import os
import signal
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from smidgen.distillation.loop.trainer import Trainer, TrainingOptions
from smidgen.distillation.loop.watch import Losses
from smidgen.distillation.students.trainee import Plain, Trainee
from smidgen.distillation.text.batch import Batch
from smidgen.model.config import LayerConfig, ModelConfig, Rotary
from smidgen.model.decoder import Decoder
from tests.tiny_models import random_decoder

CONFIG = ModelConfig(
    "llama", 60, 16, (LayerConfig(2, 1, 8, 24, Rotary(1e4, 8), 0.35, "silu"),) * 2, 1e-5, 512, True
)  # fmt: skip
ROWS, POSITIONS = 4, 12
OPTIONS = TrainingOptions(10, learning_rate=1e-2, weight_decay=0.1, checkpoint_every=5, seed=3)


@dataclass
class RandomBatches:
    """Tokens with a pattern to learn. kill_at: the process dies when this step asks for its batch."""

    kill_at: int | None = None

    def batch(self, step: int) -> Batch:
        if step == self.kill_at:
            os.kill(os.getpid(), signal.SIGKILL)
        generator = torch.Generator().manual_seed(step)
        ids = torch.randint(60, (ROWS, 1), generator=generator) + torch.arange(POSITIONS + 1) * 7
        weights = torch.rand(ROWS, POSITIONS, generator=generator)
        documents = torch.zeros(ROWS, POSITIONS, dtype=torch.long)
        return Batch(ids[:, :-1] % 60, ids[:, 1:] % 60, weights, documents, f"random tokens {step}")


def cross_entropy(decoder: Decoder, batch: Batch) -> tuple[Tensor, dict[str, float]]:
    """An objective, with noise from the global generator so that its state matters."""
    logits = decoder.logits(decoder.hidden_states(batch.ids, documents=batch.apart))
    logits = logits + 0.01 * torch.randn(logits.shape)
    losses = functional.cross_entropy(logits.flatten(0, 1), batch.targets.flatten(), reduction="none")
    loss = (losses * batch.weights.flatten()).sum()
    return loss, {"cross_entropy": float(loss.detach())}


def said(value: float) -> Losses:
    """An evaluation."""
    return Losses((value,), (1.0,))


def plain() -> Plain:
    return Plain(random_decoder(CONFIG))


def trainer(trainee: Trainee, folder: Path | None = None, options: TrainingOptions = OPTIONS, **more: Any) -> Trainer:
    batches = more.pop("batches", RandomBatches())
    return Trainer(trainee, more.pop("objective", cross_entropy), batches, options, folder, **more)


def digest(trainee: Trainee) -> str:
    """Of all bytes that are trained."""
    joined = b"".join(value.detach().numpy().tobytes() for value in trainee.tensors().values())
    return hashlib.sha256(joined).hexdigest()


def train_and_die(folder: str, kill_at: int) -> None:
    """What the test of a killed process runs in another one."""
    trainer(plain(), Path(folder), replace(OPTIONS, checkpoint_every=3), batches=RandomBatches(kill_at)).run()
