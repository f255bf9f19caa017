"""Quantizing a whole model, block by block, so that each matrix is fitted to what really reaches it.

The hidden states walk through the blocks as they are *after* quantization, and inside a block from matrix to matrix:
the inputs from which second moments are taken carry the errors of everything before them (`calibration.sequence`).

Every finished part is on disk before the next begins, so that a killed cut goes on where it stopped. Resuming repeats
exactly the operations that were interrupted, on the same numbers, so the result is the same to the bit.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from math import prod

import torch
from torch import Tensor

from smidgen.calibration.moments import linear_of
from smidgen.calibration.outputs import OutputMoment
from smidgen.calibration.sequence import Inputs, advance_replacing
from smidgen.calibration.walk import States
from smidgen.formats.checkpoint import Checkpoint
from smidgen.formats.parts import embed, load_block
from smidgen.model.decoder import Block
from smidgen.model.parameters import block_linears, block_shapes
from smidgen.numerics.block_types import BlockType
from smidgen.numerics.decode import decode
from smidgen.progress import track
from smidgen.quantization.encode import Encoded, Metric, encode
from smidgen.quantization.survey import Survey
from smidgen.quantization.workspace import QuantWorkspace
from smidgen.shapes import Int

_EMBEDDING_ROWS = 16_384
_BOTH_WAYS = 4  # weights of embedding or head that take as long as one of a block, with all that belongs to it


@dataclass(frozen=True)
class _Known:
    """What the survey says of the matrices of a block, by canonical name.

    token_weights: of every token.  outputs: gives how errors of the outputs add up, or None.
    """

    token_weights: Mapping[str, Tensor]
    outputs: Callable[[str], OutputMoment | None]


def quantize(
    checkpoint: Checkpoint,
    kinds: Mapping[str, BlockType],
    surveyed: Survey,
    windows: Int[Tensor, "windows position"],
    workspace: QuantWorkspace,
) -> None:
    """Encode every matrix of `kinds` and leave the bytes in `workspace`, each part as soon as it is done.

    kinds: canonical name → type; matrices not named stay as they are.
    surveyed: token weights, and the metrics of the matrices outside the blocks.  windows: the calibration text.
    Memory: one block (float32), the hidden states of all windows and what enters the last matrix of the block for all
    of them, one second moment, its factor and as much again while it is made.
    """
    layers = len(checkpoint.config.layers)
    outside = [name for name in surveyed.ends if name in kinds]
    sizes = [prod(checkpoint.shape(name)) for name in outside]
    costs = [*sizes, *(_BOTH_WAYS * _size(checkpoint, index) for index in range(layers))]
    with track("Quantizing", costs) as task:
        for name in outside:
            if workspace.has(name):
                task.skip(1)
                continue
            metric = Metric(surveyed.ends[name])
            workspace.save(name, {name: _encode_rows(checkpoint, name, kinds[name], metric)})
            task.advance()
        done, states = workspace.load_states()
        if states is None:
            states = _embed(checkpoint, workspace, windows, "embedding.weight" in kinds)
        task.skip(done)
        for index in range(done, layers):
            known = _Known(surveyed.token_weights, partial(workspace.outputs, index))
            workspace.save(f"block-{index}", _quantize_block(checkpoint, index, kinds, known, states))
            workspace.save_states(index + 1, states)
            workspace.drop_outputs(index)
            task.advance()


def _size(checkpoint: Checkpoint, index: int) -> int:
    """Weights of a block."""
    layer = checkpoint.config.layers[index]
    shapes = block_shapes(layer, checkpoint.config.hidden)
    return sum(prod(shapes[f"{name}.weight"]) for name in block_linears(layer))


def _encode_rows(checkpoint: Checkpoint, name: str, kind: BlockType, metric: Metric) -> Encoded:
    def chunks() -> Iterator[Tensor]:
        total = checkpoint.shape(name)[0]
        for start in range(0, total, _EMBEDDING_ROWS):
            rows = checkpoint.rows(name, start, min(start + _EMBEDDING_ROWS, total))
            checkpoint.release()
            yield rows

    return encode(chunks(), kind, metric)


def _embed(
    checkpoint: Checkpoint, workspace: QuantWorkspace, windows: Int[Tensor, "windows position"], encoded: bool
) -> States:
    """What enters the first block, from the quantized embedding where it was encoded."""
    if not encoded:
        return embed(checkpoint, windows)
    kind, packed = workspace.packed("embedding.weight")
    distinct, places = windows.unique(return_inverse=True)
    return decode(packed[distinct], kind)[places] * checkpoint.config.embedding_scale


def _quantize_block(
    checkpoint: Checkpoint, index: int, kinds: Mapping[str, BlockType], known: _Known, states: States
) -> dict[str, Encoded]:
    """Encode one block's matrices; `states` advance through the quantized block."""
    fit = _BlockFit(load_block(checkpoint, index), index, kinds, known)
    checkpoint.release()
    fit.advance(states)
    return fit.encoded


class _BlockFit:
    """One block on its way from its own matrices to encoded ones.

    encoded: what is done, by canonical name.
    """

    def __init__(self, block: Block, index: int, kinds: Mapping[str, BlockType], known: _Known) -> None:
        self._block, self._prefix, self._kinds, self._known = block, f"blocks.{index}.", kinds, known
        self.encoded: dict[str, Encoded] = {}

    @torch.no_grad()
    def advance(self, states: States) -> None:
        """Encode the matrices in the order in which data meets them; `states` pass through each as it was encoded."""
        advance_replacing(self._block, states, self._encode)

    def _encode(self, names: tuple[str, ...], inputs: Inputs) -> None:
        """Encode layers, and put the result in their place. Experts that hardly a token chose are only rounded."""
        for name in names:
            full_name = f"{self._prefix}{name}.weight"
            if full_name in self._kinds:
                kind, sample = self._kinds[full_name], inputs.sample(self._known.token_weights[full_name])
                weight = linear_of(self._block, name).weight.detach()
                metric = Metric(sample, self._known.outputs(full_name), compensating=inputs.ample)
                self.encoded[full_name] = encode([weight], kind, metric)
                weight.copy_(decode(self.encoded[full_name].packed, kind))
