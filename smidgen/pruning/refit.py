"""Least-squares compensation: what remains of a pruned model is refitted to what the original does.

Original and pruned model read the same text side by side. All that a block does, it does by adding to the residual
stream, through two matrices: attention.output and feed_forward.down. Each is refitted in closed form so that the
pruned stream x' meets the original's x again behind it. With a' what enters the matrix in the pruned model, and the
target t = x − x', both after everything before has been pruned and refitted,

    W' = argmin  E[w ‖V a' − t‖²] + λ ‖V − W‖²  =  W + E[w (t − W a') a'ᵀ] (A + λI)⁻¹,    A = E[w a' a'ᵀ]
          V

Where only channels inside of the layer are removed, t = W_all a, and λ → 0, this is the Optimal Brain Surgeon's update
for all these channels at once, W' = W_all H[:, kept] H[kept, kept]⁻¹ (Hassibi & Stork 1992; for groups of columns,
Kurtic et al. 2023, ZipLM, arXiv:2302.04089). It differs in that t also makes good what earlier layers lost (GPTQ's
sequence, arXiv:2210.17323), and the layers taken out between this one and the next that stays.

Layers with norms after them (Gemma 2 and 3) add g ⊙ W a' / s with s = rms(W a'). With s as it is now for each token,
E[w ‖g ⊙ (V a'/s) − t‖²] falls into rows that are again least squares, of inputs a', targets s t/g and weights w/s²:
gᵣ only scales its row. Then the gain, channel by channel, with n = W' a'/rms(W' a'):  g'ᵣ = E[w nᵣ tᵣ] / E[w nᵣ²].
Both are done twice, since s moves with W'.

Weights: what follows reads x through a norm, so errors count relative to the size of the original's state,
w = 1/mean(x²). Otherwise a few tokens with enormous states would rule (see `calibration.moments`).

λ, and whether to change a matrix at all, is settled on tokens that were kept aside (a fifth): a refit that does not
lower the error there is not made.

Cost: one second moment of each matrix's input, and a Cholesky factor for each λ tried. Memory: two blocks, the states
of all windows twice, A and its factor, and the inputs of the tokens kept aside. Biases and experts stay as they are.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from smidgen.calibration.sample import kept_aside
from smidgen.calibration.walk import States, advance, in_batches
from smidgen.formats.checkpoint import Checkpoint
from smidgen.formats.derived import Changed
from smidgen.formats.parts import embed, load_block
from smidgen.formats.workspace import Workspace
from smidgen.model.decoder import Block
from smidgen.model.norms import RMSNorm
from smidgen.numerics.precision import quick_layers
from smidgen.progress import Task
from smidgen.pruning.least_squares import Tokens, fit, fit_normed
from smidgen.shapes import Bool, Float, Int

Narrow = Callable[[int, Block], Block]

_KEPT_ASIDE = 5  # every so many-th window, or such a part of each window


def refit(
    checkpoint: Checkpoint,
    kept: Sequence[int],
    narrow: Narrow | None,
    windows: Int[Tensor, "windows position"],
    workspace: Workspace,
    task: Task,
    channels: Int[Tensor, " kept"] | None = None,
) -> dict[str, Changed]:
    """New values of what writes to the residual stream, under canonical names in the new model.

    kept: the original's layers that stay, ascending.  narrow: an original layer and its block → the pruned block, by
    plain removal; None where blocks stay whole.  channels: of the residual stream that stay; None for all.
    windows: calibration text.  task: advanced once for each kept layer.
    A matrix that no refit makes better is absent. Each block's result stays in `workspace`, which must be that of this
    step alone, and is not computed again.
    """
    original = embed(checkpoint, windows)
    pruned = original.clone() if channels is None else original[..., channels]
    aside = kept_aside(len(windows), windows.shape[1], _KEPT_ASIDE)
    changed: dict[str, Changed] = {}
    for layer in range(kept[0]):
        advance(load_block(checkpoint, layer), original)
    for new, (layer, following) in enumerate(zip(kept, [*kept[1:], len(checkpoint.config.layers)], strict=True)):
        block = load_block(checkpoint, layer)
        smaller = _alike(checkpoint, layer, block) if narrow is None else narrow(layer, block)
        part, same = f"refit-{layer}", narrow is None and layer == new  # so far, the streams are one
        done = workspace.load_tensors(part) if workspace.has(part) else None
        if done is not None:
            smaller.load_state_dict(done, strict=False, assign=True)
        written: dict[str, Tensor] = {}
        with torch.no_grad():
            _each(block.attend, original)
            if done is None and not same:
                written |= _refit_half(_attention(smaller), original, pruned, channels, aside)
            _each(smaller.attend, pruned)
            _each(block.feed, original)
            for removed in range(layer + 1, following):
                advance(load_block(checkpoint, removed), original)
            if done is None and smaller.feed_forward is not None and not (same and following == layer + 1):
                written |= _refit_half(_feed_forward(smaller), original, pruned, channels, aside)
            _each(smaller.feed, pruned)
        checkpoint.release()
        if done is None:
            workspace.save_tensors(part, written)
        for name in written if done is None else done:
            changed[f"blocks.{new}.{name}"] = Changed(partial(workspace.load_tensor, part, name))
        task.advance()
    return changed


def _alike(checkpoint: Checkpoint, layer: int, block: Block) -> Block:
    """The same block again, in the same memory: what is refitted is replaced in one and not in the other."""
    config = checkpoint.config
    again = Block(config.layers[layer], config.hidden, config.norm_epsilon)
    again.load_state_dict(block.state_dict(), assign=True)
    return again


def _each(half: Callable[[Tensor], Tensor], states: States) -> None:
    """Send all windows through half a block, in place."""
    for part in in_batches(states):
        with quick_layers():
            part.copy_(half(part))


@dataclass(frozen=True)
class _Half:
    """Half a block, as a matrix that writes to the residual stream and what comes before and after it.

    name, norm_name: within the block.  inputs: states → what enters the matrix.
    """

    name: str
    linear: nn.Linear
    norm_name: str
    norm: RMSNorm | None
    inputs: Callable[[Tensor], Tensor]


def _attention(block: Block) -> _Half:
    attention = block.attention
    return _Half(
        "attention.output",
        attention.output,
        "attention_post_norm",
        block.attention_post_norm,
        lambda x: attention.heads(block.attention_norm(x)),
    )


def _feed_forward(block: Block) -> _Half:
    network = block.feed_forward
    assert network is not None
    return _Half(
        "feed_forward.down",
        network.down,
        "feed_forward_post_norm",
        block.feed_forward_post_norm,
        lambda x: network.gated(block.feed_forward_norm(x)),
    )


def _refit_half(
    half: _Half,
    original: States,
    pruned: Float[Tensor, "windows position _narrow"],
    channels: Int[Tensor, " kept"] | None,
    aside: Bool[Tensor, "windows position"],
) -> dict[str, Float[Tensor, "..."]]:
    """Refit one matrix (and the norm after it) in place. Returns what changed, by name within the block.

    original: its states behind this half.  pruned: the pruned model's before it.
    """

    def batches() -> Iterator[tuple[Tokens, Tensor]]:
        start = 0
        for x, wanted in zip(in_batches(pruned), in_batches(original), strict=True):
            with quick_layers():
                inputs = half.inputs(x).flatten(0, 1).float()
            weights = 1 / wanted.square().mean(-1).clamp_min(1e-20).flatten()
            targets = (wanted if channels is None else wanted[..., channels]) - x
            if half.linear.bias is not None:
                targets -= half.linear.bias
            yield Tokens(inputs, targets.flatten(0, 1), weights), aside[start : start + len(x)].flatten()
            start += len(x)

    if half.norm is None:
        weight = fit(half.linear.weight, batches)
        return {} if weight is None else _put(half.linear, f"{half.name}.weight", weight)
    fitted = fit_normed(half.linear.weight, half.norm.weight, half.norm.epsilon, batches)
    if fitted is None:
        return {}
    weight, gain = fitted
    return _put(half.linear, f"{half.name}.weight", weight) | _put(half.norm, f"{half.norm_name}.weight", gain)


def _put(module: nn.Linear | RMSNorm, name: str, values: Tensor) -> dict[str, Float[Tensor, "..."]]:
    """Set a module's weight, which is `name` within the block."""
    module.weight = nn.Parameter(values, requires_grad=False)
    return {name: values}
