"""How much each output of each linear layer matters to the model's prediction: E[g²], g = ∂(−log p)/∂y.

Expanded to second order around the original weights, the KL divergence that a small change ΔW of one layer causes is
½ vec(ΔW)ᵀ F vec(ΔW) with the Fisher information F. With F ≈ E[g gᵀ] ⊗ E[x xᵀ] (K-FAC: Martens & Grosse 2015,
arXiv:1503.05671) and errors of different rows taken as independent,

    KL ≈ ½ Σᵣ E[gᵣ²] (ΔW H ΔWᵀ)ᵣᵣ    nats per token.

The labels of the log-likelihood are the tokens of the calibration text itself. For text that the model wrote
these are samples of its own distribution, which makes this the true Fisher information; for other text it is the
"empirical" one.

The backward pass goes block by block: the input of every block is kept from the forward pass, and each block is
computed again when its gradient is due.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor

from smidgen.calibrate.moments import INPUT_OF, SecondMoment, linear_of, watch_inputs
from smidgen.calibrate.walk import States, advance, in_batches
from smidgen.formats.checkpoint import Checkpoint
from smidgen.formats.parts import embed, head_name, load_block, load_final_norm
from smidgen.model.attention import soft_cap
from smidgen.model.decoder import Block
from smidgen.progress import Task
from smidgen.shapes import Float, Int

_HEAD_ROWS = 8192
_POSITIONS = 1024


@dataclass(frozen=True)
class BlockSurvey:
    """What the two passes saw of one block.

    moments: H per distinct input.  importance: E[gᵣ²] per linear layer and output.
    """

    index: int
    block: Block
    moments: dict[str, SecondMoment]
    importance: dict[str, Float[Tensor, " out"]]


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
    checkpoint: Checkpoint, windows: Int[Tensor, "windows position"], visit: Callable[[BlockSurvey], None], task: Task
) -> EndSurvey:
    """Forward, then backward through the model; `visit` sees each block, last to first, while its weights are loaded.

    task: advanced twice for each block and once for the head.
    Memory: one block, the head in chunks of rows, and the states of `windows` before every block.
    """
    inputs = _forward(checkpoint, windows, task)
    gradient, head_input = _head_gradient(checkpoint, inputs.pop(), windows)
    task.advance()
    for index in reversed(range(len(checkpoint.config.layers))):
        visit(_backward(index, load_block(checkpoint, index), inputs.pop(), gradient))
        task.advance()
    at_entry = SecondMoment(checkpoint.config.hidden)
    at_entry.add(gradient)
    return EndSurvey(at_entry.mean(), head_input)


def _forward(checkpoint: Checkpoint, windows: Int[Tensor, "windows position"], task: Task) -> list[States]:
    """States before each block, and after the last."""
    states = [embed(checkpoint, windows)]
    for index in range(len(checkpoint.config.layers)):
        states.append(states[-1].clone())
        advance(load_block(checkpoint, index), states[-1])
        task.advance()
    return states


def _backward(index: int, block: Block, inputs: States, gradient: States) -> BlockSurvey:
    """Turn `gradient`, in place, from the block's output to its input, watching the linear layers."""
    with watch_inputs(block) as moments, _watch_gradients(block) as squares:
        for x, g in zip(in_batches(inputs), in_batches(gradient), strict=True):
            x = x.detach().requires_grad_()
            (at_input,) = torch.autograd.grad(block(x), x, g)
            g.copy_(at_input)
    tokens = inputs.shape[0] * inputs.shape[1]
    return BlockSurvey(index, block, moments, {name: total / tokens for name, total in squares.items()})


@contextmanager
def _watch_gradients(block: Block) -> Iterator[dict[str, Float[Tensor, " out"]]]:
    """Sums of squared gradients at the output of each linear layer, over all backward passes in the context."""
    squares: dict[str, Tensor] = {}
    handles = []

    def watch(name: str) -> None:
        linear = linear_of(block, name)
        squares[name] = torch.zeros(linear.out_features)

        def seen(gradient: Tensor) -> None:
            squares[name] += gradient.flatten(0, -2).square().sum(0)

        handles.append(linear.register_forward_hook(lambda _, __, output: output.register_hook(seen) and None))

    for parameter in block.parameters():
        parameter.requires_grad_(False)
    for name in INPUT_OF:
        watch(name)
    try:
        yield squares
    finally:
        for handle in handles:
            handle.remove()


def _head_gradient(
    checkpoint: Checkpoint, states: States, windows: Int[Tensor, "windows position"]
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
    gradient[:, :-1] = torch.cat(flat_gradient).unflatten(0, (len(states), -1))
    return gradient, moment / len(targets)


@torch.no_grad()
def _softmax_gradient(
    checkpoint: Checkpoint, hidden: Float[Tensor, "position hidden"], targets: Int[Tensor, " position"]
) -> tuple[Float[Tensor, "position hidden"], Float[Tensor, " position"]]:
    """∂(−log p(target))/∂hidden = Σᵥ (pᵥ − [v = target]) capᵥ' Eᵥ, and 1 − Σ p², in one stream over the vocabulary.

    Sums are kept relative to the running maximum (online softmax, arXiv:1805.02867), so no more than a chunk of logits
    exists at a time.
    """
    config, name = checkpoint.config, head_name(checkpoint.config)
    maximum = torch.full((len(hidden), 1), -torch.inf)
    total, squares = torch.zeros(len(hidden), 1), torch.zeros(len(hidden), 1)
    pulled = torch.zeros_like(hidden)
    for start in range(0, config.vocabulary, _HEAD_ROWS):
        rows = checkpoint.rows(name, start, min(start + _HEAD_ROWS, config.vocabulary))
        logits = soft_cap(hidden @ rows.T, config.logit_cap)
        higher = torch.maximum(maximum, logits.amax(1, keepdim=True))
        rescale = (maximum - higher).exp()
        weights = (logits - higher).exp_()
        total = total * rescale + weights.sum(1, keepdim=True)
        squares = squares * rescale.square() + weights.square().sum(1, keepdim=True)
        pulled.mul_(rescale).addmm_(weights * _cap_slope(logits, config.logit_cap), rows)
        maximum = higher
    target_rows = checkpoint.gather(name, targets)
    target_logits = soft_cap((hidden * target_rows).sum(1, keepdim=True), config.logit_cap)
    gradient = pulled / total - target_rows * _cap_slope(target_logits, config.logit_cap)
    return gradient, 1 - (squares / total.square())[:, 0]


def _cap_slope(capped: Tensor, cap: float | None) -> Tensor | float:
    """Derivative of cap·tanh(x/cap), from its value."""
    return 1.0 if cap is None else 1 - (capped / cap).square()
