"""What learns when a model is tuned: an adapter beside it, all of its weights, or those of some blocks.

A quantized model keeps its types: with all weights it is trained through its lattice. What does not learn stays as the
file has it where it would be large for this machine (`formats.frozen`).
"""

import math
from dataclasses import replace
from functools import cached_property

from smidgen.distillation.loop.memory import EACH, divided
from smidgen.distillation.loop.plan import Counted
from smidgen.distillation.students.lattice import LatticeStudent, trains_on_lattice
from smidgen.distillation.students.lora import Adapted
from smidgen.distillation.students.trainee import Plain, Trainee
from smidgen.distillation.team.team import Team
from smidgen.errors import SmidgenError
from smidgen.formats.adapters import read_adapter
from smidgen.formats.checkpoint import Checkpoint
from smidgen.formats.frozen import frozen_bytes, load_frozen
from smidgen.model.decoder import Decoder
from smidgen.model.parameters import split_block_name
from smidgen.training.options import TuneOptions


class Learner:
    """For one model and the options of its tuning. team: who trains it."""

    def __init__(self, checkpoint: Checkpoint, options: TuneOptions, team: Team) -> None:
        self._checkpoint, self._options, self._team = checkpoint, options, team
        layers = len(checkpoint.config.layers)
        if options.blocks is not None and options.blocks[1] >= layers:
            raise SmidgenError(f"--blocks ends at {options.blocks[1]}, and the model's are 0 to {layers - 1}.")

    @cached_property
    def counted(self) -> Counted:
        """What the learning rate moves."""
        if not self._options.full:
            return "adapter"
        quantized = any(trains_on_lattice(self._checkpoint.kind(name)) for name in self._learned())
        return "codes" if quantized else "weights"

    def make(self) -> Trainee:
        """As it is before training."""
        checkpoint, options = self._checkpoint, self._options
        if options.full:
            learned = set(self._learned())
            if self.counted == "codes":
                return LatticeStudent(checkpoint, learned.__contains__)
            decoded = True if self._team.size > 1 else self._decoded  # FSDP divides parameters alone
            return Plain(load_frozen(checkpoint, decoded, learned.__contains__), learned.__contains__)
        if options.adapter is not None:
            adapter = read_adapter(options.adapter, checkpoint)
            return Adapted.continued(self.frozen(checkpoint), adapter, options.lora.dropout)
        return Adapted(self.frozen(checkpoint), replace(options.lora, seed=options.seed))

    def frozen(self, checkpoint: Checkpoint) -> Decoder:
        """A model that does not learn."""
        return load_frozen(checkpoint, self._decoded)

    def held(self) -> int:
        """Bytes of memory that the weights take, and all that learns of them; about."""
        checkpoint, options = self._checkpoint, self._options
        if options.full:
            trained = sum(math.prod(checkpoint.shape(name)) for name in self._learned())
            rest = 0 if options.blocks is None else frozen_bytes(checkpoint)
            alone = EACH[self.counted] * trained
            shared = divided(trained, self._team.size) if self.counted == "weights" else alone
            return shared + rest + checkpoint.file.size  # which is written in the end, and read again
        targets = tuple(f"{target}.weight" for target in options.lora.targets)
        adapted = [name for name in checkpoint.names() if name.endswith(targets)]
        trained = sum(options.lora.rank * sum(checkpoint.shape(name)) for name in adapted)
        return EACH["adapter"] * trained + frozen_bytes(checkpoint)

    def _learned(self) -> list[str]:
        """Names of the parameters that learn, when no adapter does."""
        names, blocks = self._checkpoint.names(), self._options.blocks
        if blocks is None:
            return names
        places = ((name, split_block_name(name)) for name in names)
        return [name for name, place in places if place is not None and blocks[0] <= place[0] <= blocks[1]]

    @property
    def _decoded(self) -> bool | None:
        """On an accelerator all weights have to be there."""
        return None if self._team.device.type == "cpu" else True
