"""One block, matrix by matrix, in the order in which data meets them: what enters each, then what it is replaced by.

For whoever changes the matrices of a model one after the other and wants each fitted to what really reaches it: the
inputs carry the errors of everything that was replaced before, in the blocks before and in this one. (GPTQ,
arXiv:2210.17323, section 4, does so from block to block.)
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from smidgen.calibration.sample import Gathering, Sample, judging
from smidgen.calibration.walk import TOKENS_AT_ONCE, States, in_batches
from smidgen.model.decoder import Block
from smidgen.model.feed_forward import Experts, FeedForward
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
def advance_replacing(block: Block, states: States, replace: Replace) -> None:
    """Send all windows through a block, in place, each matrix replaced just before the data goes through it.

    Memory: what enters the last matrix of the block for all tokens, beside the states.
    """
    judges = judging(*states.shape[:2]).flatten()
    _attend(block, states, judges, replace)
    x = block.feed_forward_norm(states).flatten(0, 1)
    if block.experts is None:
        assert block.feed_forward is not None
        fed = _feed("feed_forward", block.feed_forward, Inputs(x.split(TOKENS_AT_ONCE), judges), replace)
    else:
        fed = _mix(block.experts, x, judges, replace)
    if block.feed_forward_post_norm is not None:
        fed = block.feed_forward_post_norm(fed)
    states += fed.view(states.shape)


def _attend(block: Block, states: States, judges: Bool[Tensor, " tokens"], replace: Replace) -> None:
    """The attention and its residual sum."""
    parts = in_batches(states)
    normed = [block.attention_norm(part) for part in parts]
    replace(("attention.query", "attention.key", "attention.value"), Inputs(normed, judges))
    with quick_layers():
        heads = [block.attention.heads(part) for part in normed]
    del normed
    replace(("attention.output",), Inputs(heads, judges))
    for part, mixed in zip(parts, heads, strict=True):
        with quick_layers():
            attended = block.attention.output(mixed).float()
        part += attended if block.attention_post_norm is None else block.attention_post_norm(attended)


def _feed(name: str, network: FeedForward, inputs: Inputs, replace: Replace) -> Float[Tensor, "tokens hidden"]:
    """What a feed-forward network makes of its tokens."""
    replace((f"{name}.gate", f"{name}.up"), inputs)
    with quick_layers():
        gated = [network.gated(part) for part in inputs.batches]
    replace((f"{name}.down",), Inputs(gated, inputs.judging, inputs.routed, inputs.ample))
    with quick_layers():
        return torch.cat([network.down(part) for part in gated]).float()


def _mix(
    experts: Experts, x: Float[Tensor, "tokens hidden"], judges: Bool[Tensor, " tokens"], replace: Replace
) -> Float[Tensor, "tokens hidden"]:
    """What a mixture of experts makes of the tokens, each expert fitted to those that it is given."""
    with quick_layers():
        shares, chosen = experts.route(x)
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
