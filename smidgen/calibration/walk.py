"""Walking through a model block by block: memory is one block's weights and the hidden states of all windows.

States are [windows, positions, hidden] in float32 and are overwritten as they advance; a model with several residual
streams has them between positions and hidden.
"""

from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import load_file, save
from torch import Tensor

from smidgen.atomic import replacing
from smidgen.formats.checkpoint import Checkpoint
from smidgen.formats.parts import Passage, embed
from smidgen.model.decoder import Beside, Block
from smidgen.numerics.precision import quick_layers
from smidgen.shapes import Float, Int, Shaped

_STATES, _LENT = "states", ("keys", "values")  # names of tensors
TOKENS_AT_ONCE = 4096  # through one block; bounds attention and feed-forward activations

States = Float[Tensor, "windows position *streams hidden"]


def in_batches(
    windows: Shaped[Tensor, "windows position *rest"],
) -> tuple[Shaped[Tensor, "_batch position *rest"], ...]:
    """Views of a few windows each, small enough to go through a block at once."""
    return windows.split(max(1, TOKENS_AT_ONCE // windows.shape[1]))


class Walk:
    """Windows on their way through a model: their states, and what blocks read beside these.

    states: what enters the next block.  They go through the blocks in order, since later ones may read keys and values
    of earlier ones, of which a copy stays in memory.
    """

    def __init__(
        self, checkpoint: Checkpoint, windows: Int[Tensor, "windows position"], states: States | None = None
    ) -> None:
        self.states = embed(checkpoint, windows) if states is None else states
        self.passage = Passage(checkpoint, in_batches(windows))

    def kept(self) -> dict[str, Tensor]:
        """All that another walk needs to go on from here."""
        lent = {
            f"{part}.{layer}.{which}": one
            for part, layers in enumerate(self.passage.lent)
            for layer, pair in layers.items()
            for which, one in zip(_LENT, pair, strict=True)
        }
        return {_STATES: self.states, **lent}

    def take_up(self, kept: Mapping[str, Tensor]) -> None:
        """Go on from where another was."""
        self.states = kept[_STATES]
        for name in kept:
            if name.endswith(_LENT[0]):
                part, layer, _ = name.split(".")
                keys, values = (kept[f"{part}.{layer}.{which}"] for which in _LENT)
                self.passage.lent[int(part)][int(layer)] = keys, values

    def besides(self, index: int) -> list[Beside]:
        """What a block reads beside each part of the states (`in_batches`)."""
        return [self.passage.beside(index, number) for number in range(len(self.passage.lent))]

    @torch.no_grad()
    def advance(self, block: Block, index: int) -> None:
        """Send all windows through a block, in place."""
        for number, part in enumerate(in_batches(self.states)):
            with quick_layers():
                part.copy_(block(part, beside=self.passage.beside(index, number)))


@torch.no_grad()
def advance(block: Block, states: States) -> None:
    """Send all windows through a block, in place."""
    for part in in_batches(states):
        with quick_layers():
            part.copy_(block(part))


class StateShelf:
    """States laid aside on disk until a backward pass comes for them: a pile, last in first out.

    folder: must exist; files are removed as they are taken.
    dtype: on disk; bfloat16 is enough to weigh what matters.
    """

    def __init__(self, folder: Path, dtype: torch.dtype = torch.bfloat16) -> None:
        self._folder, self._dtype, self._height = folder, dtype, 0

    def put(self, states: States) -> None:
        """Lay a copy on top."""
        data = save({"states": states.to(self._dtype)})
        with replacing(self._path(self._height), len(data)) as file:
            file.write(data)
        self._height += 1

    def take(self) -> States:
        """The topmost states, in float32 again."""
        self._height -= 1
        path = self._path(self._height)
        states = load_file(path)["states"].float()
        path.unlink()
        return states

    def _path(self, place: int) -> Path:
        return self._folder / f"before-block-{place}.safetensors"
