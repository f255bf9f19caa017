"""A narrower residual stream: which of its channels stay, and what has to follow.

Importance is Minitron's (Muralidharan et al. 2024, arXiv:2407.14679, section 2.2): the size of a channel behind every
norm that reads the stream, E|norm(x)|, added up over the model. The stream's channels are the same everywhere, so the
choice is one for all layers.

Each norm now divides by the root mean square of fewer channels. On average this is made good by its gain,

    g' = g[kept] · E[rms(x[kept]) / rms(x)]

The stream itself keeps its size: where a family multiplies embeddings by √hidden, the ratio of the old factor to the
new goes into the embedding, and out again, for a tied head, in the gain of the final norm.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from smidgen.calibration.walk import advance
from smidgen.formats.checkpoint import Checkpoint
from smidgen.formats.derived import Changed, Part
from smidgen.formats.parts import embed, load_block, load_final_norm
from smidgen.formats.workspace import Workspace
from smidgen.model.config import ModelConfig
from smidgen.model.norms import RMSNorm
from smidgen.shapes import Int

_FINAL = "final_norm.weight"
_READERS = ("attention_norm", "feed_forward_norm", "final_norm")


@dataclass(frozen=True)
class Stream:
    """What stays of the residual stream.  factors: of the gains, by canonical name."""

    channels: Int[Tensor, " kept"]
    factors: Mapping[str, float]


def choose_channels(
    checkpoint: Checkpoint, windows: Int[Tensor, "windows position"], hidden: int, workspace: Workspace
) -> tuple[int, ...]:
    """The most important channels of the residual stream, ascending. Their importance is kept in `workspace`."""
    part = "hidden-importance"
    if not workspace.has(part):
        total = torch.zeros(checkpoint.config.hidden)

        def seen(name: str, norm: RMSNorm, x: Tensor) -> None:
            # `forward`, since a call would come back here through the hook.
            if name.split(".")[-2] in _READERS:
                total.add_(norm.forward(x).abs().flatten(0, -2).mean(0))

        _watch_norms(checkpoint, windows, seen)
        workspace.save_tensors(part, {"importance": total})
    best = workspace.load_tensor(part, "importance").argsort(descending=True)[:hidden]
    return tuple(sorted(best.tolist()))


def norm_factors(
    checkpoint: Checkpoint, windows: Int[Tensor, "windows position"], channels: Sequence[int], workspace: Workspace
) -> dict[str, float]:
    """E[rms(x[kept]) / rms(x)] at every norm as wide as the stream, by the canonical name of its gain."""
    part = "norm-factors"
    if (known := workspace.load_json(part)) is not None:
        return known
    kept, sums, counts = torch.tensor(channels), dict[str, float](), dict[str, int]()

    def seen(name: str, norm: RMSNorm, x: Tensor) -> None:
        squares = x.float().square()
        ratio = (squares[..., kept].mean(-1) + norm.epsilon).sqrt() / (squares.mean(-1) + norm.epsilon).sqrt()
        sums[name] = sums.get(name, 0.0) + float(ratio.sum())
        counts[name] = counts.get(name, 0) + ratio.numel()

    _watch_norms(checkpoint, windows, seen)
    factors = {name: sums[name] / counts[name] for name in sums}
    workspace.save_json(part, factors)
    return factors


def narrow_ends(checkpoint: Checkpoint, config: ModelConfig, stream: Stream) -> dict[str, Part]:
    """Embedding, final norm and head of the narrow model, whose configuration is `config`."""
    ratio = checkpoint.config.embedding_scale / config.embedding_scale
    gain = stream.factors[_FINAL] / (ratio if config.tied_head else 1.0)
    parts: dict[str, Part] = {
        "embedding.weight": Changed(lambda: checkpoint.tensor("embedding.weight")[:, stream.channels] * ratio),
        _FINAL: Changed(lambda: checkpoint.tensor(_FINAL)[stream.channels] * gain),
    }
    if not config.tied_head:
        parts["head.weight"] = Changed(lambda: checkpoint.tensor("head.weight")[:, stream.channels])
    return parts


def _watch_norms(
    checkpoint: Checkpoint, windows: Int[Tensor, "windows position"], seen: Callable[[str, RMSNorm, Tensor], None]
) -> None:
    """Send the text through the model; `seen` gets the name, the norm and the input of each norm of the stream."""
    states = embed(checkpoint, windows)
    for index in range(len(checkpoint.config.layers)):
        block = load_block(checkpoint, index)
        with _watching(block, f"blocks.{index}.", seen):
            advance(block, states)
        checkpoint.release()
    with torch.no_grad():
        seen(_FINAL, load_final_norm(checkpoint), states)


@contextmanager
def _watching(block: nn.Module, prefix: str, seen: Callable[[str, RMSNorm, Tensor], None]) -> Iterator[None]:
    def watch(name: str, norm: RMSNorm) -> RemovableHandle:
        return norm.register_forward_pre_hook(lambda _, inputs: seen(f"{prefix}{name}.weight", norm, inputs[0]))

    # Children of the block itself: the norms inside of its attention are as wide as a head.
    handles = [watch(name, norm) for name, norm in block.named_children() if isinstance(norm, RMSNorm)]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
