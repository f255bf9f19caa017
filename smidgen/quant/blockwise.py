"""Quantizing a whole model, block by block, so that each block is fitted to what really reaches it.

The hidden states walk through the blocks as they are *after* quantization: the inputs from which a block's second
moments are taken already carry the errors of all blocks before it (as in GPTQ, arXiv:2210.17323, section 4).

Every finished part is on disk before the next begins, so that a killed cut goes on where it stopped. Resuming repeats
exactly the operations that were interrupted, on the same numbers, so the result is the same to the bit.
"""

from collections.abc import Mapping

from torch import Tensor

from smidgen.calibrate.moments import LINEARS, linear_of, watch_inputs
from smidgen.calibrate.walk import States, advance, run
from smidgen.formats.checkpoint import Checkpoint
from smidgen.formats.parts import embed, load_block
from smidgen.numerics.block_types import BlockType
from smidgen.numerics.decode import decode
from smidgen.progress import track
from smidgen.quant.encode import Encoded, Metric, encode
from smidgen.quant.survey import Survey
from smidgen.quant.workspace import Workspace
from smidgen.shapes import Int

_EMBEDDING_ROWS = 8192


def quantize(
    checkpoint: Checkpoint,
    kinds: Mapping[str, BlockType],
    surveyed: Survey,
    windows: Int[Tensor, "windows position"],
    workspace: Workspace,
) -> None:
    """Encode every matrix of `kinds` and leave the bytes in `workspace`, each part as soon as it is done.

    kinds: canonical name → type; matrices not named stay as they are.
    surveyed: token weights, and the metrics of the matrices outside the blocks.  windows: the calibration text.
    Memory: one block twice (float32), the hidden states of all windows, second moments of one block's inputs.
    """
    layers = len(checkpoint.config.layers)
    outside = [name for name in surveyed.ends if name in kinds]
    with track("Quantizing", layers + len(outside)) as task:
        for name in outside:
            if not workspace.has(name):
                metric = Metric.of(surveyed.ends[name])
                workspace.save(name, {name: _encode_rows(checkpoint, name, kinds[name], metric)})
            task.advance()
        done, states = workspace.load_states()
        if states is None:
            states = _embed(checkpoint, workspace, windows, "embedding.weight" in kinds)
        task.advance(done)
        for index in range(done, layers):
            workspace.save(f"block-{index}", _quantize_block(checkpoint, index, kinds, surveyed, states))
            workspace.save_states(index + 1, states)
            task.advance()


def _encode_rows(checkpoint: Checkpoint, name: str, kind: BlockType, metric: Metric) -> Encoded:
    total = checkpoint.shape(name)[0]
    starts = range(0, total, _EMBEDDING_ROWS)
    return encode((checkpoint.rows(name, at, min(at + _EMBEDDING_ROWS, total)) for at in starts), kind, metric)


def _embed(
    checkpoint: Checkpoint, workspace: Workspace, windows: Int[Tensor, "windows position"], encoded: bool
) -> States:
    """What enters the first block, from the quantized embedding where it was encoded."""
    if not encoded:
        return embed(checkpoint, windows)
    kind, packed = workspace.packed("embedding.weight")
    distinct, places = windows.unique(return_inverse=True)
    return decode(packed[distinct], kind)[places] * checkpoint.config.embedding_scale


def _quantize_block(
    checkpoint: Checkpoint, index: int, kinds: Mapping[str, BlockType], surveyed: Survey, states: States
) -> dict[str, Encoded]:
    """Encode one block's matrices; `states` advance through the quantized block."""
    block = load_block(checkpoint, index)
    full_names = {name: f"blocks.{index}.{name}.weight" for name in LINEARS}
    with watch_inputs(block, {name: surveyed.token_weights[full] for name, full in full_names.items()}) as moments:
        run(block, states)
    encoded: dict[str, Encoded] = {}
    for name, full_name in full_names.items():
        if full_name in kinds:
            weight, kind = linear_of(block, name).weight.detach(), kinds[full_name]
            encoded[full_name] = encode([weight], kind, Metric.of(moments.pop(name).mean()))
            weight.copy_(decode(encoded[full_name].packed, kind))
    advance(block, states)
    return encoded
