"""What the processes of a test of tuning together run."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from unittest.mock import patch

import torch

from smidgen.distillation.students.lora import LoraOptions
from smidgen.training.tune import TuneOptions, TuneResult, tune

#: Three rows a step, which two processes cannot share evenly.
OPTIONS = TuneOptions(steps=4, learning_rate=0.02, batch=3, context=48, lora=LoraOptions(rank=4), held_out=0.2)


@contextmanager
def in_float32() -> Iterator[None]:
    """No products in bfloat16: their rounding depends on which rows are summed together."""
    with ExitStack() as stack:
        for module in ("tune", "merging"):
            stack.enter_context(patch(f"smidgen.training.{module}.is_quick", lambda device: False))
        stack.enter_context(patch("smidgen.distillation.teachers.live.fast_product_dtype", lambda: torch.float32))
        yield


def tune_in_all_ways(model: Path, quantized: Path, data: Path, folder: Path, resume: bool) -> list[TuneResult]:
    """An adapter, trained into a quantized model too; all weights, also through a lattice."""
    with in_float32():
        return [
            tune(str(file), [data], folder / name, options, resume=resume)
            for name, file, options in (
                ("merged", quantized, replace(OPTIONS, merge=True)),
                ("whole", model, replace(OPTIONS, full=True, learning_rate=3e-3)),
                ("lattice", quantized, replace(OPTIONS, full=True)),
            )
        ]
