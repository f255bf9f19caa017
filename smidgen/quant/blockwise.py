"""Quantizing a whole model, block by block, so that each matrix is fitted to what really reaches it.

The hidden states walk through the blocks as they are *after* quantization, and inside a block from matrix to matrix:
the inputs from which second moments are taken carry the errors of everything before them (GPTQ, arXiv:2210.17323,
section 4, does so from block to block).

Every finished part is on disk before the next begins, so that a killed cut goes on where it stopped. Resuming repeats
exactly the operations that were interrupted, on the same numbers, so the result is the same to the bit.
"""

from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import Tensor

from smidgen.calibrate.moments import SecondMoment, linear_of
from smidgen.calibrate.walk import TOKENS_AT_ONCE, States, in_batches
from smidgen.formats.checkpoint import Checkpoint
from smidgen.formats.parts import embed, load_block
from smidgen.model.decoder import Block
from smidgen.model.feed_forward import Experts, FeedForward
from smidgen.numerics.block_types import BlockType
from smidgen.numerics.decode import decode
from smidgen.numerics.precision import quick_layers
from smidgen.progress import track
from smidgen.quant.encode import Encoded, Metric, encode
from smidgen.quant.survey import Survey
from smidgen.quant.workspace import QuantWorkspace
from smidgen.shapes import Float, Int

_EMBEDDING_ROWS = 16_384
_FEWEST_TOKENS = 128  # from which an expert can be fitted to its own tokens


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
    checkpoint: Checkpoint, index: int, kinds: Mapping[str, BlockType], surveyed: Survey, states: States
) -> dict[str, Encoded]:
    """Encode one block's matrices; `states` advance through the quantized block."""
    fit = _BlockFit(load_block(checkpoint, index), index, kinds, surveyed.token_weights)
    checkpoint.release()
    fit.advance(states)
    return fit.encoded


class _BlockFit:
    """One block on its way from its own matrices to encoded ones.

    encoded: what is done, by canonical name.
    """

    def __init__(
        self, block: Block, index: int, kinds: Mapping[str, BlockType], token_weights: Mapping[str, Tensor]
    ) -> None:
        self._block, self._prefix, self._kinds, self._weights = block, f"blocks.{index}.", kinds, token_weights
        self.encoded: dict[str, Encoded] = {}

    @torch.no_grad()
    def advance(self, states: States) -> None:
        """Encode the matrices in the order in which data meets them; `states` pass through each as it was encoded."""
        block = self._block
        self._attend(states)
        x = block.feed_forward_norm(states).flatten(0, 1)
        if block.experts is None:
            assert block.feed_forward is not None
            fed = self._feed("feed_forward", block.feed_forward, x)
        else:
            fed = self._mix(block.experts, x)
        if block.feed_forward_post_norm is not None:
            fed = block.feed_forward_post_norm(fed)
        states += fed.view(states.shape)

    def _attend(self, states: States) -> None:
        """The attention and its residual sum."""
        block, parts = self._block, in_batches(states)
        normed = [block.attention_norm(part) for part in parts]
        self._encode(("attention.query", "attention.key", "attention.value"), normed)
        with quick_layers():
            heads = [block.attention.heads(part) for part in normed]
        del normed
        self._encode(("attention.output",), heads)
        for part, mixed in zip(parts, heads, strict=True):
            with quick_layers():
                attended = block.attention.output(mixed).float()
            part += attended if block.attention_post_norm is None else block.attention_post_norm(attended)

    def _feed(
        self,
        name: str,
        network: FeedForward,
        x: Float[Tensor, "tokens hidden"],
        routed: Int[Tensor, " tokens"] | None = None,
        *,
        compensating: bool = True,
    ) -> Float[Tensor, "tokens hidden"]:
        """What a feed-forward network makes of its tokens. routed: their numbers, where they are not all."""
        self._encode((f"{name}.gate", f"{name}.up"), x.split(TOKENS_AT_ONCE), routed, compensating=compensating)
        with quick_layers():
            gated = [network.gated(part) for part in x.split(TOKENS_AT_ONCE)]
        self._encode((f"{name}.down",), gated, routed, compensating=compensating)
        with quick_layers():
            return torch.cat([network.down(part) for part in gated]).float()

    def _mix(self, experts: Experts, x: Float[Tensor, "tokens hidden"]) -> Float[Tensor, "tokens hidden"]:
        """What a mixture of experts makes of the tokens, each expert fitted to those that it is given.

        One that hardly a token chose is fitted to all of them, and only rounded.
        """
        with quick_layers():
            shares, chosen = experts.route(x)
        mixed = torch.zeros_like(x)
        for number, network in enumerate(experts.networks):
            tokens, place = (chosen == number).nonzero(as_tuple=True)
            if len(tokens) >= _FEWEST_TOKENS:
                fed = self._feed(f"experts.{number}", network, x[tokens], tokens)
            else:
                fed = self._feed(f"experts.{number}", network, x, compensating=False)[tokens]
            mixed.index_add_(0, tokens, fed * shares[tokens, place, None])
        return mixed

    def _encode(
        self,
        names: tuple[str, ...],
        inputs: Sequence[Tensor],
        routed: Int[Tensor, " tokens"] | None = None,
        *,
        compensating: bool = True,
    ) -> None:
        """Encode the layers that read `inputs` (all tokens in batches), and put the result in their place."""
        for name in names:
            full_name = f"{self._prefix}{name}.weight"
            if full_name in self._kinds:
                weights, kind = self._weights[full_name], self._kinds[full_name]
                moment = _moment(inputs, weights if routed is None else weights[routed])
                weight = linear_of(self._block, name).weight.detach()
                self.encoded[full_name] = encode([weight], kind, Metric.of(moment, compensating=compensating))
                weight.copy_(decode(self.encoded[full_name].packed, kind))


def _moment(inputs: Sequence[Float[Tensor, "*_batch in"]], weights: Float[Tensor, " tokens"]) -> Tensor:
    """E[w x xᵀ] / E[w] of all tokens."""
    moment, start = SecondMoment(inputs[0].shape[-1]), 0
    for part in inputs:
        x = part.flatten(0, -2).float()
        moment.add(x, weights[start : start + len(x)])
        start += len(x)
    return moment.mean()
