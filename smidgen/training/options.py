"""How to tune: what can be asked for, checked as it is given."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import get_args

from smidgen.bounds import MOST, MOST_MEMORY, MOST_THREADS, one_of, within
from smidgen.distillation.loop.watch import Keep
from smidgen.distillation.students.lora import LoraOptions
from smidgen.errors import SmidgenError
from smidgen.shell import path_of


@dataclass(frozen=True)
class TuneOptions:
    """How to tune.

    steps: batches to learn from; None for `epochs` passes over the examples.  learning_rate: None for a usual one; how
    far a step moves a weight of the adapter, with `full` a weight of the model, or of a quantized one its code.
    batch: rows of `context` tokens that a step learns from, each with as many examples as fit; None for 4, fewer where
    there are few examples.  context: None for 1024, or the model's own if that is shorter.
    lora: of new adapters.  adapter: go on from this one (a folder of PEFT, or adapter.gguf).  full: train all weights.
    merge: write model.gguf with the adapter in it.  on_prompts: learn from questions too.  skip_bad: pass over
    malformed lines.  raw: give prompts with completions to the model as they stand, without its chat template.
    blocks: with `full`, the first and the last of the blocks that learn; None for all of the model.
    memory: bytes that it may take; None for what is free.
    held_out: share of the examples that are kept aside to measure on.  keep: the state that is best on some of them, or
    the last.
    """

    steps: int | None = None
    epochs: float = 3.0
    learning_rate: float | None = None
    batch: int | None = None
    context: int | None = None
    lora: LoraOptions = field(default_factory=LoraOptions)
    adapter: Path | None = None
    full: bool = False
    merge: bool = False
    on_prompts: bool = False
    skip_bad: bool = False
    raw: bool = False
    held_out: float = 0.05
    seed: int = 0
    threads: int | None = None
    keep: Keep = "best"
    blocks: tuple[int, int] | None = None
    memory: int | None = None

    def __post_init__(self) -> None:
        """Raises SmidgenError for options that mean nothing."""
        for name, least, most in (
            ("steps", 1, MOST), ("batch", 1, MOST), ("context", 8, MOST), ("seed", 0, MOST),
            ("threads", 1, MOST_THREADS), ("memory", 1, MOST_MEMORY),
        ):  # fmt: skip
            within(name, getattr(self, name), least, most)
        for name, least, most in (("epochs", 0.01, 1e6), ("learning_rate", 1e-9, 1), ("held_out", 0, 0.9)):
            within(name, getattr(self, name), least, most, whole=False)
        if self.blocks is not None and not (len(self.blocks) == 2 and 0 <= self.blocks[0] <= self.blocks[1]):
            raise SmidgenError(f"blocks is {self.blocks!r}; give the first and the last, from 0, such as (20, 25).")
        one_of("keep", self.keep, get_args(Keep))
        if self.adapter is not None:
            object.__setattr__(self, "adapter", path_of(self.adapter))
