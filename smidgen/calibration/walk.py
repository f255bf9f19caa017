"""Walking through a model block by block: memory is one block's weights and the hidden states of all windows.

States are [windows, positions, hidden] in float32 and are overwritten as they advance.
"""

from pathlib import Path

import torch
from safetensors.torch import load_file, save
from torch import Tensor

from smidgen.atomic import replacing
from smidgen.model.decoder import Block
from smidgen.numerics.precision import quick_layers
from smidgen.shapes import Float

TOKENS_AT_ONCE = 4096  # through one block; bounds attention and feed-forward activations

States = Float[Tensor, "windows position hidden"]


def in_batches(states: States) -> tuple[Float[Tensor, "_batch position hidden"], ...]:
    """Views of a few windows each, small enough to go through a block at once."""
    return states.split(max(1, TOKENS_AT_ONCE // states.shape[1]))


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
