"""One block, matrix by matrix, in the order in which data meets them: what enters each, then what it is replaced by.

For whoever changes the matrices of a model one after the other and wants each fitted to what really reaches it: the
inputs carry the errors of everything that was replaced before, in the blocks before and in this one. (GPTQ,
arXiv:2210.17323, section 4, does so from block to block.)
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from math import sqrt

import torch
from torch import Tensor

from smidgen.calibration.sample import Gathering, Sample, judging
from smidgen.calibration.walk import TOKENS_AT_ONCE, States, in_batches
from smidgen.model.decoder import Beside, Block
from smidgen.model.feed_forward import Experts, FeedForward
from smidgen.model.streams import AlternatingUpdates
from smidgen.numerics.precision import quick_layers
from smidgen.shapes import Bool, Float, Int

_FEWEST_TOKENS = 128  # from which an expert can be fitted to its own tokens


@dataclass(frozen=True)
class Inputs:
    """What enters some linear layers of a block, all that there is of it.

    batches: the tokens, in runs.  judging: which of all tokens of the text only judge (`calibration.sample`).
    routed: the tokens' numbers, where an expert was given only some.  ample: False where they are not the layers' own:
    an expert that hardly a token chose gets all tokens instead, to see sizes by.
    """

    batches: Sequence[Float[Tensor, "*_batch in"]]
    judging: Bool[Tensor, " all_tokens"]
    routed: Int[Tensor, " tokens"] | None = None
    ample: bool = True

    def sample(self, weights: Float[Tensor, " all_tokens"]) -> Sample:
        """Tokens to fit to and tokens to judge by.  weights: w of every token of the model's text, in order."""
        gathering = Gathering(self.batches[0].shape[-1])
        for x, share, judges in self._weighted(weights):
            gathering.add(x, share, judges)
        return gathering.sample()

    def energy(self, weights: Float[Tensor, " all_tokens"]) -> Float[Tensor, " in"]:
        """E[w x²] / E[w] of each input, of all tokens."""
        total, weight = torch.zeros(self.batches[0].shape[-1]), 0.0
        for x, share, _ in self._weighted(weights):
            total += share @ x.square()
            weight += float(share.double().sum())
        return total / max(weight, 1e-30)

    def _weighted(self, weights: Float[Tensor, " all_tokens"]) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """The inputs, the weight of each, and whether it judges."""
        judges = self.judging
        if self.routed is not None:
            weights, judges = weights[self.routed], judges[self.routed]
        start = 0
        for part in self.batches:
            x = part.flatten(0, -2).float()
            here = slice(start, start + len(x))
            yield x, weights[here], judges[here]
            start += len(x)


#: Called with the names (`model.parameters.block_linears`) of layers that read the same inputs; changes their weights.
Replace = Callable[[tuple[str, ...], Inputs], None]


@torch.no_grad()
def advance_replacing(block: Block, states: States, besides: Sequence[Beside], replace: Replace) -> None:
    """Send all windows through a block, in place, each matrix replaced just before the data goes through it.

    besides: what the block reads beside each part of the states (`walk.in_batches`).
    Memory: what enters the last matrix of the block for all tokens, beside the states.
    """
    judges = judging(*states.shape[:2]).flatten()
    if block.streams is None:
        _compute(block, states, besides, judges, replace)
        if block.layer_input is not None:
            states += _look_up(block, states, besides, judges, replace)
    else:
        _on_streams(block, block.streams, states, besides, judges, replace)
    if block.output_scale is not None:
        states *= block.output_scale.weight


def _compute(
    block: Block, states: Float[Tensor, "windows position hidden"], besides: Sequence[Beside],
    judges: Bool[Tensor, " tokens"], replace: Replace,
) -> None:  # fmt: skip
    """Attention and feed-forward network on one stream, in place."""
    _attend(block, states, besides, judges, replace)
    fed = _fed(block, states.flatten(0, 1), judges, replace)
    if block.feed_forward_post_norm is not None:
        fed = block.feed_forward_post_norm(fed)
    states += fed.view(states.shape)


def _fed(
    block: Block, x: Float[Tensor, "tokens hidden"], judges: Bool[Tensor, " tokens"], replace: Replace
) -> Float[Tensor, "tokens hidden"]:
    """What the feed-forward network, or the experts, or both make of the tokens."""
    normed = block.feed_forward_norm(x)
    if block.feed_forward is None:
        assert block.experts is not None
        return _mix(block.experts, normed, normed, judges, replace)
    fed = _feed("feed_forward", block.feed_forward, Inputs(normed.split(TOKENS_AT_ONCE), judges), replace)
    if block.experts is None:
        return fed
    assert block.feed_forward_own_norm and block.experts_norm and block.experts_post_norm
    mixed = _mix(block.experts, block.experts_norm(x), x, judges, replace)
    return block.feed_forward_own_norm(fed) + block.experts_post_norm(mixed)


def _on_streams(
    block: Block, streams: AlternatingUpdates, states: Float[Tensor, "windows position streams hidden"],
    besides: Sequence[Beside], judges: Bool[Tensor, " tokens"], replace: Replace,
) -> None:  # fmt: skip
    """The block on the active stream; the small matrices that mix streams stay as they are."""
    for part in in_batches(states):
        part.copy_(streams.predicted(part))
    computed = states[:, :, streams.active].clone()
    _compute(block, computed, besides, judges, replace)
    for part, news in zip(in_batches(states), in_batches(computed), strict=True):
        part.copy_(streams.corrected(part, news))
    if block.layer_input is not None:
        first = streams.output_scale(states[:, :, streams.active])
        states[:, :, 1:] += _look_up(block, first, besides, judges, replace)[:, :, None]


def _look_up(
    block: Block, states: Float[Tensor, "windows position hidden"], besides: Sequence[Beside],
    judges: Bool[Tensor, " tokens"], replace: Replace,
) -> Float[Tensor, "windows position hidden"]:  # fmt: skip
    """What the block adds of what it looks up."""
    layer_input, norm = block.layer_input, block.layer_input_norm
    assert layer_input is not None and norm is not None
    parts = in_batches(states)
    replace(("layer_input.gate",), Inputs(parts, judges))
    taken = []
    for part, beside in zip(parts, besides, strict=True):
        assert beside.layer_input is not None
        with quick_layers():
            taken.append(layer_input.taken(part, beside.layer_input))
    replace(("layer_input.output",), Inputs(taken, judges))
    with quick_layers():
        return torch.cat([norm(layer_input.output(part).float()) for part in taken])


def _attend(
    block: Block, states: Float[Tensor, "windows position hidden"], besides: Sequence[Beside],
    judges: Bool[Tensor, " tokens"], replace: Replace,
) -> None:  # fmt: skip
    """The attention and its residual sum."""
    parts = in_batches(states)
    normed = [block.attention_norm(part) for part in parts]
    own = [name for name in ("query", "key", "value") if getattr(block.attention, name) is not None]
    replace(tuple(f"attention.{name}" for name in own), Inputs(normed, judges))
    with quick_layers():
        heads = [block.attention.heads(part, lent=beside.lent) for part, beside in zip(normed, besides, strict=True)]
    replace(("attention.output",), Inputs(heads, judges))
    with quick_layers():
        attended = [block.attention.output(mixed).float() for mixed in heads]
    if block.attention_post_norm is not None:
        attended = [block.attention_post_norm(part) for part in attended]
    if block.low_rank is not None:
        attended = _with_low_rank(block, normed, attended, judges, replace)
    for part, more in zip(parts, attended, strict=True):
        part += more
        if block.low_rank is not None:
            part /= sqrt(2)


def _with_low_rank(
    block: Block, normed: Sequence[Float[Tensor, "_batch position hidden"]],
    attended: Sequence[Float[Tensor, "_batch position hidden"]], judges: Bool[Tensor, " tokens"], replace: Replace,
) -> list[Float[Tensor, "_batch position hidden"]]:  # fmt: skip
    """Attention's output with the low-rank residual beside it."""
    assert block.low_rank is not None and block.low_rank_norm is not None
    replace(("low_rank.left",), Inputs(normed, judges))
    with quick_layers():
        inner = [block.low_rank.left(part) for part in normed]
    replace(("low_rank.right",), Inputs(inner, judges))
    found = []
    for part, own, more in zip(normed, inner, attended, strict=True):
        with quick_layers():
            outer = block.low_rank.right(own).float()
        found.append(more + part + block.low_rank_norm(outer))
    return found


def _feed(name: str, network: FeedForward, inputs: Inputs, replace: Replace) -> Float[Tensor, "tokens hidden"]:
    """What a feed-forward network makes of its tokens."""
    replace((f"{name}.gate", f"{name}.up"), inputs)
    with quick_layers():
        gated = [network.gated(part) for part in inputs.batches]
    replace((f"{name}.down",), Inputs(gated, inputs.judging, inputs.routed, inputs.ample))
    with quick_layers():
        return torch.cat([network.down(part) for part in gated]).float()


def _mix(
    experts: Experts, x: Float[Tensor, "tokens hidden"], routed: Float[Tensor, "tokens hidden"],
    judges: Bool[Tensor, " tokens"], replace: Replace,
) -> Float[Tensor, "tokens hidden"]:  # fmt: skip
    """What a mixture of experts makes of the tokens, each expert fitted to those that it is given.

    routed: what the router reads.
    """
    with quick_layers():
        shares, chosen = experts.route(routed)
    mixed = torch.zeros_like(x)
    for number, network in enumerate(experts.networks):
        tokens, place = (chosen == number).nonzero(as_tuple=True)
        if len(tokens) >= _FEWEST_TOKENS:
            inputs = Inputs(x[tokens].split(TOKENS_AT_ONCE), judges, tokens)
            fed = _feed(f"experts.{number}", network, inputs, replace)
        else:
            inputs = Inputs(x.split(TOKENS_AT_ONCE), judges, ample=False)
            fed = _feed(f"experts.{number}", network, inputs, replace)[tokens]
        mixed.index_add_(0, tokens, fed * shares[tokens, place, None])
    return mixed
