"""How much the prediction depends on each output of each linear layer, token by token: g = ∂(−log p)/∂y.

Expanded to second order around the original weights, the KL divergence that a small change ΔW of one layer causes is
½ vec(ΔW)ᵀ F vec(ΔW) with the Fisher information F = E[vec(g xᵀ) vec(g xᵀ)ᵀ]. Errors of different rows are taken as
independent, and how gᵣ² varies over tokens as alike for all rows (w, see `calibration.moments`):

    KL ≈ ½ Σᵣ E[gᵣ²] (ΔW H ΔWᵀ)ᵣᵣ    nats per token,    H = E[w x xᵀ] / E[w]

With H = E[x xᵀ] instead this would be K-FAC (Martens & Grosse 2015, arXiv:1503.05671), which overrates by far the
layers whose largest inputs come where their outputs matter least.

The labels of the log-likelihood are the tokens of the calibration text itself. For text that the model wrote
these are samples of its own distribution, which makes this the true Fisher information; for other text it is the
"empirical" one.

The backward pass goes block by block: the input of every block waits on disk from the forward pass on, and each block
is computed again when its gradient is due.
"""

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from smidgen.calibration.moments import SecondMoment, linear_of
from smidgen.calibration.walk import States, StateShelf, advance, in_batches
from smidgen.formats.checkpoint import Checkpoint
from smidgen.formats.parts import embed, head_name, load_block, load_final_norm
from smidgen.model.attention import soft_cap
from smidgen.model.config import LayerConfig
from smidgen.model.decoder import Block
from smidgen.model.feed_forward import Experts
from smidgen.model.parameters import block_linears
from smidgen.numerics.precision import fast_product_dtype, quick_layers
from smidgen.progress import Task
from smidgen.shapes import Float, Int

_HEAD_ROWS = 4096
_POSITIONS = 4096
_WIDEST = 4096  # inputs whose second moments are taken whole


class LinearSurvey:
    """What the two passes saw of one linear layer.

    moments: H, weighted, for runs of `span` columns. Of a wide input the survey leaves out what connects the runs,
    which is most of the work. Compensation within runs gains less, so what such a matrix costs is overrated, by about
    half where it was compared (LOG.md); the cut itself uses all of H.
    importance: E[gᵣ²] per output.
    """

    def __init__(self, linear: nn.Linear) -> None:
        self.span = _span(linear.in_features)
        self.moments = [SecondMoment(self.span) for _ in range(linear.in_features // self.span)]
        self.importance: Float[Tensor, " out"] = torch.zeros(linear.out_features)
        self._weights: list[Float[Tensor, " tokens"]] = []

    def begin(self, tokens: int) -> None:
        """A batch of so many tokens comes next."""
        self._weights.append(torch.full((tokens,), torch.nan))

    def add(
        self, x: Float[Tensor, "seen in"], gradient: Float[Tensor, "seen out"], seen: Int[Tensor, " seen"] | slice
    ) -> None:
        """Take in those tokens of the batch that the layer has seen."""
        squares = gradient.float().square()
        weights = squares.mean(1)
        self.importance += squares.sum(0)
        for moment, columns in zip(self.moments, x.float().split(self.span, 1), strict=True):
            moment.add(columns, weights)
        self._weights[-1][seen] = weights

    def token_weights(self) -> Float[Tensor, " tokens"]:
        """w of every token, in order; for those that an expert did not see, the mean."""
        weights = torch.cat(self._weights)
        mean = float(weights.nanmean().nan_to_num(0.0))
        return weights.nan_to_num(mean if mean > 0 else 1.0)


def _span(width: int) -> int:
    """The longest equal run of columns up to `_WIDEST` that holds whole blocks of every type that the width holds."""
    block = math.gcd(width, 256)
    spans = (width // runs for runs in range(1, width // block + 1) if width % (runs * block) == 0)
    return next((span for span in spans if span <= _WIDEST), width)


@dataclass(frozen=True)
class BlockSurvey:
    """One block, with its weights, and what was seen of each of its `block_linears`."""

    index: int
    block: Block
    linears: dict[str, LinearSurvey]


@dataclass(frozen=True)
class EndSurvey:
    """What they saw of the two ends of the model.

    embedded: E[g gᵀ] at what enters the first block.
    head_input: E[x xᵀ] at what enters the output head, each position weighted by 1 − Σ p², the curvature that its
    distribution leaves (a position that is certain of its token is hurt by nothing).
    """

    embedded: Float[Tensor, "hidden hidden"]
    head_input: Float[Tensor, "hidden hidden"]


def survey_blocks(
    checkpoint: Checkpoint,
    windows: Int[Tensor, "windows position"],
    visit: Callable[[BlockSurvey], None],
    shelf: StateShelf,
    task: Task,
) -> EndSurvey:
    """Forward, then backward through the model; `visit` sees each block, last to first, while its weights are loaded.

    shelf: where the states wait.  task: advanced twice for each block and once for each part of the head's work,
    `steps(checkpoint, windows)` in all.
    Memory: one block, the head in chunks of rows, and the states of `windows` three times.
    """
    layers = checkpoint.config.layers
    states = embed(checkpoint, windows)
    for index in range(len(layers)):
        shelf.put(states)
        advance(load_block(checkpoint, index), states)
        checkpoint.release()
        task.advance()
    gradient, head_input = _head_gradient(checkpoint, states, windows, task)
    for index in reversed(range(len(layers))):
        visit(_backward(index, load_block(checkpoint, index), layers[index], shelf.take(), gradient))
        checkpoint.release()
        task.advance()
    g = gradient.flatten(0, 1)
    return EndSurvey(g.T @ g / len(g), head_input)


def steps(checkpoint: Checkpoint, windows: Int[Tensor, "windows position"]) -> int:
    """How often `survey_blocks` advances its task."""
    return 2 * len(checkpoint.config.layers) + -(-windows[:, 1:].numel() // _POSITIONS)


def _backward(index: int, block: Block, layer: LayerConfig, inputs: States, gradient: States) -> BlockSurvey:
    """Turn `gradient`, in place, from the block's output to its input, watching the linear layers."""
    for parameter in block.parameters():
        parameter.requires_grad_(False)
    linears = {name: LinearSurvey(linear_of(block, name)) for name in block_linears(layer)}
    for x, g in zip(in_batches(inputs), in_batches(gradient), strict=True):
        x = x.detach().requires_grad_()
        for seen in linears.values():
            seen.begin(x.shape[0] * x.shape[1])
        with _watch(block, linears), quick_layers():
            (at_input,) = torch.autograd.grad(block(x), x, g)
        g.copy_(at_input)
    for seen in linears.values():
        seen.importance /= inputs.shape[0] * inputs.shape[1]
    return BlockSurvey(index, block, linears)


@contextmanager
def _watch(block: Block, linears: Mapping[str, LinearSurvey]) -> Iterator[None]:
    """While the context is open, a forward and a backward pass add to the surveys."""
    handles: list[RemovableHandle] = []
    routed: dict[str, Int[Tensor, " seen"]] = {}

    def routing(experts: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        assert isinstance(experts, Experts)
        _, chosen = experts.route(inputs[0].detach().flatten(0, -2))
        for number in range(len(experts.networks)):
            routed[f"experts.{number}"] = (chosen == number).nonzero(as_tuple=True)[0]

    def watch(name: str, survey: LinearSurvey) -> None:
        def forward(_: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
            x, seen = inputs[0].detach().flatten(0, -2), routed.get(name.rpartition(".")[0], slice(None))
            output.register_hook(lambda gradient: survey.add(x, gradient.flatten(0, -2), seen))

        handles.append(linear_of(block, name).register_forward_hook(forward))

    if block.experts is not None:
        handles.append(block.experts.register_forward_pre_hook(routing))
    for name, survey in linears.items():
        watch(name, survey)
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _head_gradient(
    checkpoint: Checkpoint, states: States, windows: Int[Tensor, "windows position"], task: Task
) -> tuple[States, Float[Tensor, "hidden hidden"]]:
    """Gradient of −log p(next token) at the last block's output (per token), and the head's weighted input moment.

    Positions without a next token (the last of each window) have gradient 0.
    """
    norm = load_final_norm(checkpoint)
    gradient = torch.zeros_like(states)
    moment = SecondMoment(states.shape[-1])
    flat, flat_gradient = states[:, :-1].flatten(0, 1), []
    targets = windows[:, 1:].flatten()
    for x, target in zip(flat.split(_POSITIONS), targets.split(_POSITIONS), strict=True):
        x = x.detach().requires_grad_()
        hidden = norm(x)
        at_hidden, curvature = _softmax_gradient(checkpoint, hidden.detach(), target)
        flat_gradient.append(torch.autograd.grad(hidden, x, at_hidden)[0])
        moment.add(hidden.detach(), curvature)
        task.advance()
    gradient[:, :-1] = torch.cat(flat_gradient).unflatten(0, (len(states), -1))
    share = moment.weight / len(targets)
    return gradient, moment.mean().mul_(share)


@torch.no_grad()
def _softmax_gradient(
    checkpoint: Checkpoint, hidden: Float[Tensor, "position hidden"], targets: Int[Tensor, " position"]
) -> tuple[Float[Tensor, "position hidden"], Float[Tensor, " position"]]:
    """∂(−log p(target))/∂hidden = Σᵥ (pᵥ − [v = target]) capᵥ' Eᵥ, and 1 − Σ p², in one stream over the vocabulary.

    Sums are kept relative to the running maximum (online softmax, arXiv:1805.02867), so no more than a chunk of logits
    exists at a time. Products are in bfloat16 where the processor has it: a weight of importance needs no more.
    """
    config, name, dtype = checkpoint.config, head_name(checkpoint.config), fast_product_dtype()
    maximum, quick_hidden = torch.full((len(hidden), 1), -torch.inf), hidden.to(dtype)
    total, squares = torch.zeros(len(hidden), 1), torch.zeros(len(hidden), 1)
    pulled = torch.zeros_like(hidden)
    for start in range(0, config.vocabulary, _HEAD_ROWS):
        rows = checkpoint.rows(name, start, min(start + _HEAD_ROWS, config.vocabulary)).to(dtype)
        checkpoint.release()
        logits = soft_cap((quick_hidden @ rows.T).float(), config.logit_cap)
        higher = torch.maximum(maximum, logits.amax(1, keepdim=True))
        rescale = (maximum - higher).exp()
        weights = (logits - higher).exp_()  # of probability, relative to the maximum
        total = total * rescale + weights.sum(1, keepdim=True)
        squares = squares * rescale.square() + weights.square().sum(1, keepdim=True)
        pulled.mul_(rescale).add_((weights.mul_(_cap_slope(logits, config.logit_cap))).to(dtype) @ rows)
        maximum = higher
    target_rows = checkpoint.gather(name, targets)
    target_logits = soft_cap((hidden * target_rows).sum(1, keepdim=True), config.logit_cap)
    gradient = pulled / total - target_rows * _cap_slope(target_logits, config.logit_cap)
    return gradient, 1 - (squares / total.square())[:, 0]


def _cap_slope(capped: Tensor, cap: float | None) -> Tensor | float:
    """Derivative of cap·tanh(x/cap), from its value."""
    return 1.0 if cap is None else 1 - (capped / cap).square()
