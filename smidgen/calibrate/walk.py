"""Walking through a model block by block: memory is one block's weights and the hidden states of all windows.

States are [windows, positions, hidden] and are overwritten as they advance.
"""

import torch
from torch import Tensor

from smidgen.model.decoder import Block
from smidgen.shapes import Float

_TOKENS_AT_ONCE = 4096  # through one block; bounds attention and feed-forward activations

States = Float[Tensor, "windows position hidden"]


def in_batches(states: States) -> tuple[States, ...]:
    """Views of a few windows each, small enough to go through a block at once."""
    return states.split(max(1, _TOKENS_AT_ONCE // states.shape[1]))


@torch.no_grad()
def advance(block: Block, states: States) -> None:
    """Send all windows through a block, in place."""
    for part in in_batches(states):
        part.copy_(block(part))


@torch.no_grad()
def run(block: Block, states: States) -> None:
    """Send all windows through a block for what watchers see of it; the states stay."""
    for part in in_batches(states):
        block(part)
