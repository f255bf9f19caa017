"""Quantizing a whole model, block by block, so that each matrix is fitted to what really reaches it.

The hidden states walk through the blocks as they are *after* quantization, and inside a block from matrix to matrix:
the inputs from which second moments are taken carry the errors of everything before them (`calibration.sequence`).

Every finished part is on disk before the next begins, so that a killed cut goes on where it stopped. Resuming repeats
exactly the operations that were interrupted, on the same numbers, so the result is the same to the bit.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import chain
from math import prod

import torch
from torch import Tensor

from smidgen.calibration.moments import linear_of
from smidgen.calibration.outputs import OutputMoment
from smidgen.calibration.sequence import Inputs, advance_replacing
from smidgen.calibration.walk import States, Walk
from smidgen.formats.checkpoint import Checkpoint
from smidgen.formats.parts import embed, load_block
from smidgen.model.decoder import Beside, Block
from smidgen.model.parameters import block_linears, block_shapes
from smidgen.numerics.block_types import BlockType
from smidgen.numerics.decode import decode
from smidgen.progress import Task, track
from smidgen.quantization.encode import Encoded, Metric, encode, encode_runs
from smidgen.quantization.survey import Survey
from smidgen.quantization.workspace import QuantWorkspace
from smidgen.shapes import Float, Int

_VALUES_AT_ONCE = 2**25  # of a matrix outside of the blocks
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
    outside = {name: _runs(checkpoint, name) for name in surveyed.ends if name in kinds}
    inside = [_costs(checkpoint, index) for index in range(len(checkpoint.config.layers))]
    with track("Quantizing", [*_costs_outside(checkpoint, outside), *chain.from_iterable(inside)]) as task:
        for name, runs in outside.items():
            done = sum(workspace.has_run(name, number) for number in range(len(runs)))
            task.skip(done)
            metrics = [Metric(sample) for sample in surveyed.ends[name]] if done < len(runs) else []
            for number, rows in enumerate(_rows(checkpoint, name, runs[done:], task), done):
                workspace.save_run(name, number, encode_runs(rows, kinds[name], metrics))
        done, kept = workspace.load_states()
        walk = Walk(checkpoint, windows, _embed(checkpoint, workspace, windows, "embedding.weight" in kinds))
        if kept:
            walk.take_up(kept)
        task.skip(sum(map(len, inside[:done])))
        for index in range(done, len(inside)):
            known = _Known(surveyed.token_weights, partial(workspace.outputs, index))
            workspace.save(f"block-{index}", _quantize_block(checkpoint, index, kinds, known, walk, task))
            workspace.save_states(index + 1, walk.kept())
            workspace.drop_outputs(index)


def _costs(checkpoint: Checkpoint, index: int) -> list[int]:
    """What each matrix of a block takes, in weights of the embedding."""
    layer = checkpoint.config.layers[index]
    shapes = block_shapes(layer, checkpoint.config.hidden)
    return [_BOTH_WAYS * prod(shapes[f"{name}.weight"]) for name in block_linears(layer)]


def _costs_outside(checkpoint: Checkpoint, outside: Mapping[str, Sequence[range]]) -> list[int]:
    """The same of each run of rows."""
    return [len(run) * checkpoint.shape(name)[1] for name, runs in outside.items() for run in runs]


def _runs(checkpoint: Checkpoint, name: str) -> list[range]:
    """The rows that are decoded at once."""
    total, width = checkpoint.shape(name)
    at_once = max(1, _VALUES_AT_ONCE // width)
    return [range(start, min(start + at_once, total)) for start in range(0, total, at_once)]


def _rows(checkpoint: Checkpoint, name: str, runs: Sequence[range], task: Task) -> Iterator[Float[Tensor, "_rows in"]]:
    """A matrix in runs of rows; a run is done when the next one is asked for."""
    for run in runs:
        rows = checkpoint.rows(name, run.start, run.stop)
        checkpoint.release()
        yield rows
        task.advance()


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
    checkpoint: Checkpoint, index: int, kinds: Mapping[str, BlockType], known: _Known, walk: Walk, task: Task
) -> dict[str, Encoded]:
    """Encode one block's matrices; the states advance through the quantized block, `task` with each matrix."""
    fit = _BlockFit(load_block(checkpoint, index), index, kinds, known, task)
    checkpoint.release()
    fit.advance(walk.states, walk.besides(index))
    return fit.encoded


class _BlockFit:
    """One block on its way from its own matrices to encoded ones.

    encoded: what is done, by canonical name.
    """

    def __init__(self, block: Block, index: int, kinds: Mapping[str, BlockType], known: _Known, task: Task) -> None:
        self._block, self._index, self._kinds, self._known = block, index, kinds, known
        self._task = task
        self.encoded: dict[str, Encoded] = {}

    @torch.no_grad()
    def advance(self, states: States, besides: Sequence[Beside]) -> None:
        """Encode the matrices in the order in which data meets them; the states pass through each as it was encoded."""
        advance_replacing(self._block, states, besides, self._encode)

    def _encode(self, names: tuple[str, ...], inputs: Inputs) -> None:
        """Encode layers, and put the result in their place. Experts that hardly a token chose are only rounded."""
        for name in names:
            full_name = f"blocks.{self._index}.{name}.weight"
            if full_name in self._kinds:
                kind, sample = self._kinds[full_name], inputs.sample(self._known.token_weights[full_name])
                weight = linear_of(self._block, name).weight.detach()
                metric = Metric(sample, self._known.outputs(full_name), compensating=inputs.ample)
                self.encoded[full_name] = encode([weight], kind, metric)
                weight.copy_(decode(self.encoded[full_name].packed, kind))
            self._task.advance()
