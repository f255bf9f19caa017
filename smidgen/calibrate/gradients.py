"""How much the prediction depends on each output of each linear layer, token by token: g = ∂(−log p)/∂y.

Expanded to second order around the original weights, the KL divergence that a small change ΔW of one layer causes is
½ vec(ΔW)ᵀ F vec(ΔW) with the Fisher information F = E[vec(g xᵀ) vec(g xᵀ)ᵀ]. Errors of different rows are taken as
independent, and how gᵣ² varies over tokens as alike for all rows (w, see `calibrate.moments`):

    KL ≈ ½ Σᵣ E[gᵣ²] (ΔW H ΔWᵀ)ᵣᵣ    nats per token,    H = E[w x xᵀ] / E[w]

With H = E[x xᵀ] instead this would be K-FAC (Martens & Grosse 2015, arXiv:1503.05671), which overrates by far the
layers whose largest inputs come where their outputs matter least.

The labels of the log-likelihood are the tokens of the calibration text itself. For text that the model wrote
these are samples of its own distribution, which makes this the true Fisher information; for other text it is the
"empirical" one.

The backward pass goes block by block: the input of every block waits on disk from the forward pass on, and each block
is computed again when its gradient is due.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from smidgen.calibrate.moments import LINEARS, SecondMoment, linear_of
from smidgen.calibrate.walk import States, StateShelf, advance, in_batches
from smidgen.formats.checkpoint import Checkpoint
from smidgen.formats.parts import embed, head_name, load_block, load_final_norm
from smidgen.model.attention import soft_cap
from smidgen.model.decoder import Block
from smidgen.numerics.precision import fast_product_dtype
from smidgen.progress import Task
from smidgen.shapes import Float, Int

_HEAD_ROWS = 8192
_POSITIONS = 1024


@dataclass
class LinearSurvey:
    """What the two passes saw of one linear layer.

    moment: H, weighted.  importance: E[gᵣ²] per output.  token_weights: w of every token, in order.
    """

    moment: SecondMoment
    importance: Float[Tensor, " out"]
    token_weights: list[Float[Tensor, " tokens"]] = field(default_factory=list)


@dataclass(frozen=True)
class BlockSurvey:
    """One block, with its weights, and what was seen of each of `LINEARS`."""

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
    states = embed(checkpoint, windows)
    for index in range(len(checkpoint.config.layers)):
        shelf.put(states)
        advance(load_block(checkpoint, index), states)
        task.advance()
    gradient, head_input = _head_gradient(checkpoint, states, windows, task)
    for index in reversed(range(len(checkpoint.config.layers))):
        visit(_backward(index, load_block(checkpoint, index), shelf.take(), gradient))
        task.advance()
    g = gradient.flatten(0, 1)
    return EndSurvey(g.T @ g / len(g), head_input)


def steps(checkpoint: Checkpoint, windows: Int[Tensor, "windows position"]) -> int:
    """How often `survey_blocks` advances its task."""
    return 2 * len(checkpoint.config.layers) + -(-windows[:, 1:].numel() // _POSITIONS)


def _backward(index: int, block: Block, inputs: States, gradient: States) -> BlockSurvey:
    """Turn `gradient`, in place, from the block's output to its input, watching the linear layers."""
    for parameter in block.parameters():
        parameter.requires_grad_(False)
    with _watch(block) as linears:
        for x, g in zip(in_batches(inputs), in_batches(gradient), strict=True):
            x = x.detach().requires_grad_()
            (at_input,) = torch.autograd.grad(block(x), x, g)
            g.copy_(at_input)
    tokens = inputs.shape[0] * inputs.shape[1]
    for seen in linears.values():
        seen.importance /= tokens
    return BlockSurvey(index, block, linears)


@contextmanager
def _watch(block: Block) -> Iterator[dict[str, LinearSurvey]]:
    """While the context is open, forward and backward passes add to the survey of each linear layer."""
    linears: dict[str, LinearSurvey] = {}
    handles = []

    def watch(linear: nn.Linear, survey: LinearSurvey) -> None:
        def forward(_: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
            x = inputs[0].detach().flatten(0, -2)

            def backward(gradient: Tensor) -> None:
                squares = gradient.flatten(0, -2).square()
                weights = squares.mean(1)
                survey.importance += squares.sum(0)
                survey.token_weights.append(weights)
                survey.moment.add(x, weights)

            output.register_hook(backward)

        handles.append(linear.register_forward_hook(forward))

    for name in LINEARS:
        linear = linear_of(block, name)
        linears[name] = LinearSurvey(SecondMoment(linear.in_features), torch.zeros(linear.out_features))
        watch(linear, linears[name])
    try:
        yield linears
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
    moment = torch.zeros(states.shape[-1], states.shape[-1])
    flat, flat_gradient = states[:, :-1].flatten(0, 1), []
    targets = windows[:, 1:].flatten()
    for x, target in zip(flat.split(_POSITIONS), targets.split(_POSITIONS), strict=True):
        x = x.detach().requires_grad_()
        hidden = norm(x)
        at_hidden, curvature = _softmax_gradient(checkpoint, hidden.detach(), target)
        flat_gradient.append(torch.autograd.grad(hidden, x, at_hidden)[0])
        weighted = hidden.detach() * curvature[:, None]
        moment.addmm_(weighted.T, hidden.detach())
        task.advance()
    gradient[:, :-1] = torch.cat(flat_gradient).unflatten(0, (len(states), -1))
    return gradient, moment / len(targets)


@torch.no_grad()
def _softmax_gradient(
    checkpoint: Checkpoint, hidden: Float[Tensor, "position hidden"], targets: Int[Tensor, " position"]
) -> tuple[Float[Tensor, "position hidden"], Float[Tensor, " position"]]:
    """∂(−log p(target))/∂hidden = Σᵥ (pᵥ − [v = target]) capᵥ' Eᵥ, and 1 − Σ p², in one stream over the vocabulary.

    Sums are kept relative to the running maximum (online softmax, arXiv:1805.02867), so no more than a chunk of logits
    exists at a time. Products are in bfloat16 where the processor has it: a weight of importance needs no more.
    """
    config, name, dtype = checkpoint.config, head_name(checkpoint.config), fast_product_dtype()
    maximum = torch.full((len(hidden), 1), -torch.inf)
    total, squares = torch.zeros(len(hidden), 1), torch.zeros(len(hidden), 1)
    pulled = torch.zeros_like(hidden)
    for start in range(0, config.vocabulary, _HEAD_ROWS):
        rows = checkpoint.rows(name, start, min(start + _HEAD_ROWS, config.vocabulary)).to(dtype)
        logits = soft_cap((hidden.to(dtype) @ rows.T).float(), config.logit_cap)
        higher = torch.maximum(maximum, logits.amax(1, keepdim=True))
        rescale = (maximum - higher).exp()
        weights = (logits - higher).exp_()
        total = total * rescale + weights.sum(1, keepdim=True)
        squares = squares * rescale.square() + weights.square().sum(1, keepdim=True)
        pulled.mul_(rescale).add_((weights * _cap_slope(logits, config.logit_cap)).to(dtype) @ rows)
        maximum = higher
    target_rows = checkpoint.gather(name, targets)
    target_logits = soft_cap((hidden * target_rows).sum(1, keepdim=True), config.logit_cap)
    gradient = pulled / total - target_rows * _cap_slope(target_logits, config.logit_cap)
    return gradient, 1 - (squares / total.square())[:, 0]


def _cap_slope(capped: Tensor, cap: float | None) -> Tensor | float:
    """Derivative of cap·tanh(x/cap), from its value."""
    return 1.0 if cap is None else 1 - (capped / cap).square()
