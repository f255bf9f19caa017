"""How much the prediction depends on each output of each linear layer, token by token: g = ∂(−log p)/∂y.

Expanded to second order around the original weights, the KL divergence that a small change ΔW of one layer causes is
½ vec(ΔW)ᵀ F vec(ΔW) with the Fisher information F = E[vec(g xᵀ) vec(g xᵀ)ᵀ]. Errors of different rows are taken as
independent, and how gᵣ² varies over tokens as alike for all rows (w, see `calibration.moments`):

    KL ≈ ½ Σᵣ E[gᵣ²] (ΔW H ΔWᵀ)ᵣᵣ    nats per token,    H = E[w x xᵀ] / E[w]

With H = E[x xᵀ] instead this would be K-FAC (Martens & Grosse 2015, arXiv:1503.05671), which overrates by far the
layers whose largest inputs come where their outputs matter least.

The labels of the log-likelihood are drawn from the model's own distribution, one for each position, as the definition
of F wants it. With the next token of the text in their place this would be the "empirical" Fisher information, which
is ruled by what the model did not expect (Kunstner et al. 2019, arXiv:1905.12558).

What a BOS at the beginning of a window gets is left out of the ends' figures: it is one row of the embedding, and what
all attention rests on.

The backward pass goes block by block: the input of every block waits on disk from the forward pass on, and each block
is computed again when its gradient is due.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import TypeAlias

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from smidgen.calibration.moments import linear_of
from smidgen.calibration.outputs import OutputGathering, OutputMoment
from smidgen.calibration.row_gradients import RowGradients
from smidgen.calibration.sample import Gathering, judging
from smidgen.calibration.walk import States, StateShelf, Walk, in_batches
from smidgen.formats.checkpoint import Checkpoint
from smidgen.formats.parts import Passage, embed_once, entering, head_name, load_block, load_exit
from smidgen.model.attention import Lent, soft_cap
from smidgen.model.config import LayerConfig
from smidgen.model.decoder import Beside, Block
from smidgen.model.feed_forward import Experts
from smidgen.model.operations import layer_operations
from smidgen.model.parameters import block_linears
from smidgen.numerics.precision import fast_product_dtype, quick_layers
from smidgen.progress import Task
from smidgen.shapes import Bool, Float, Int

_HEAD_ROWS = 4096
_POSITIONS = 4096
_BACKWARD = 4.0  # forward passes of a block that take as long as its backward pass, and all that is watched
_LOGIT_OPERATIONS = 200  # of a layer, which take as long as what is done with a logit beside computing it
_WIDEST = 4096  # inputs whose second moments are taken whole


class LinearSurvey:
    """What the two passes saw of one linear layer.

    inputs: samples of the inputs, weighted, in runs of `span` columns. Of a wide input the survey leaves out of H what
    connects the runs, which is most of the work; the tokens that judge have all columns, and say what that does.
    importance: E[gᵣ²] per output.
    rows: the gradients of some rows, window by window; None of experts, which see no whole windows.

    shared: whether it is for all tokens; of experts E[g gᵀ] is not taken, since few tokens say little of it.
    """

    def __init__(self, linear: nn.Linear, *, shared: bool = True) -> None:
        self.span = _span(linear.in_features)
        self.inputs = Gathering(linear.in_features, linear.in_features // self.span)
        self.importance: Float[Tensor, " out"] = torch.zeros(linear.out_features)
        self._outputs = OutputGathering(linear.out_features) if shared else None
        self.rows = RowGradients() if shared else None
        self._weights: list[Float[Tensor, " tokens"]] = []
        self._judging, self._length = torch.zeros(0, dtype=torch.bool), 0

    def begin(self, judging: Bool[Tensor, "windows position"]) -> None:
        """A batch of windows comes next, of whose tokens some judge."""
        self._judging, self._length = judging.flatten(), judging.shape[1]
        self._weights.append(torch.full((judging.numel(),), torch.nan))

    def add(
        self, x: Float[Tensor, "seen in"], gradient: Float[Tensor, "seen out"], seen: Int[Tensor, " seen"] | slice
    ) -> None:
        """Take in those tokens of the batch that the layer has seen."""
        squares = gradient.float().square()
        weights = squares.mean(1)
        self.importance += squares.sum(0)
        if self._outputs is not None:
            self._outputs.add(gradient)
        if self.rows is not None:
            self.rows.add(x, gradient, self._length)
        self.inputs.add(x.float(), weights, self._judging[seen])
        self._weights[-1][seen] = weights

    def outputs(self) -> OutputMoment | None:
        """E[g gᵀ]. In the memory of the sums: no more tokens can be added."""
        return None if self._outputs is None else self._outputs.moment()

    def token_weights(self) -> Float[Tensor, " tokens"]:
        """w of every token, in order; for those that an expert did not see, the mean."""
        weights = torch.cat(self._weights)
        # Batch by batch: a sum over many tokens at once would depend on the number of threads.
        total = sum(float(part.nansum(dtype=torch.float64)) for part in self._weights)
        mean = total / max(len(weights) - int(weights.isnan().sum()), 1)
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
    looked_up: "LookedUp | None" = None


@dataclass(frozen=True)
class LookedUp:
    """What a block looks up for each token, by how much the prediction depends on it (BOS is left out).

    table: g at what comes out of the table.  projected: E[gᵣ²] of each number that is projected beside it.
    judging: which rows of `table` only judge.
    """

    table: Float[Tensor, "entered width"]
    projected: Float[Tensor, " width"]
    judging: Bool[Tensor, " entered"]


@dataclass(frozen=True)
class EndSurvey:
    """What they saw of the two ends of the model.

    embedded: g at the scaled embedding, a row for each position but BOS.
    head_input: √c·x for what enters the output head at each position, with c the curvature that its distribution leaves
    (a position that is certain of its token is hurt by nothing): Σ pᵥ(1 − pᵥ) over the vocabulary, each term times the
    square of the slope of the soft cap at that logit.
    judging: which rows of `embedded` and of `head_input` only judge.
    """

    embedded: Float[Tensor, "entered hidden"]
    head_input: Float[Tensor, "predicted hidden"]
    judging: tuple[Bool[Tensor, " entered"], Bool[Tensor, " predicted"]]


def survey_blocks(
    checkpoint: Checkpoint,
    windows: Int[Tensor, "windows position"],
    visit: Callable[[BlockSurvey], None],
    shelf: StateShelf,
    task: Task,
    seed: int = 0,
) -> EndSurvey:
    """Forward, then backward through the model; `visit` sees each block, last to first, while its weights are loaded.

    shelf: where the states wait.  seed: of the labels.
    task: advanced twice for each block and once for each part of the head's work, as `costs` says.
    Memory: one block, the head in chunks of rows, and the states of `windows` three times.
    """
    layers = checkpoint.config.layers
    walk = Walk(checkpoint, windows)
    for index in range(len(layers)):
        shelf.put(walk.states)
        walk.advance(load_block(checkpoint, index), index)
        checkpoint.release()
        task.advance()
    gradient, head_input = _head_gradient(checkpoint, walk.states, torch.Generator().manual_seed(seed), task)
    entered, owed = scored_positions(checkpoint, windows), _Owed()
    for index in reversed(range(len(layers))):
        walk.states = shelf.take()
        visit(_backward(index, load_block(checkpoint, index), layers[index], walk, gradient, entered, owed))
        checkpoint.release()
        task.advance()
    judges, embedded = judging(*windows.shape), _at_embedding(checkpoint, windows, gradient, owed)
    return EndSurvey(embedded[entered], head_input, (judges[entered], judges[:, :-1].flatten()))


def _at_embedding(
    checkpoint: Checkpoint, windows: Int[Tensor, "windows position"], gradient: States, owed: "_Owed"
) -> Float[Tensor, "windows position hidden"]:
    """From the gradient at what enters the first block, and what the blocks look up beside it."""
    if checkpoint.config.streams == 1:
        found = gradient
    else:
        parts = []
        for ids, part in zip(in_batches(windows), in_batches(gradient), strict=True):
            embedded = embed_once(checkpoint, ids).requires_grad_()
            parts.append(torch.autograd.grad(entering(checkpoint, embedded), embedded, part)[0])
        found = torch.cat(parts)
    return found if owed.embedding is None else found + owed.embedding


def scored_positions(
    checkpoint: Checkpoint, windows: Int[Tensor, "windows position"]
) -> Bool[Tensor, "windows position"]:
    """All but a BOS at the beginning of a window, which is the same in every text."""
    bos = checkpoint.tokenizer_metadata.get("tokenizer.ggml.bos_token_id")
    scored = torch.ones(windows.shape, dtype=torch.bool)
    scored[:, 0] = windows[:, 0] != (-1 if bos is None else bos)
    return scored


def costs(checkpoint: Checkpoint, windows: Int[Tensor, "windows position"]) -> list[float]:
    """About what each step of `survey_blocks` takes, in operations of a layer: forward, head, backward."""
    config, length = checkpoint.config, windows.shape[1]
    forward = [windows.numel() * layer_operations(layer, config.hidden, length) for layer in config.layers]
    positions, logit = windows[:, 1:].numel(), 2.0 * config.hidden + _LOGIT_OPERATIONS
    head = [min(_POSITIONS, positions - start) * config.vocabulary * logit for start in range(0, positions, _POSITIONS)]
    return [*forward, *head, *(_BACKWARD * cost for cost in reversed(forward))]


class _Owed:
    """Gradients at keys and values that later blocks have read, until the backward pass comes to their lender.

    embedding: those at the embedding from all that blocks have projected of it; None where they project nothing.
    """

    def __init__(self) -> None:
        self._sums: dict[tuple[int, int], list[Tensor]] = {}
        self.embedding: Float[Tensor, "windows position hidden"] | None = None

    def add_projected(
        self, gradient: Float[Tensor, "windows position width"], projection: Float[Tensor, "width hidden"]
    ) -> None:
        """Of one block, at what it has projected."""
        at_embedding = gradient @ projection
        self.embedding = at_embedding if self.embedding is None else self.embedding.add_(at_embedding)

    def add(self, lender: int, part: int, gradients: Sequence[Tensor]) -> None:
        """Of keys and values."""
        sums = self._sums.setdefault((lender, part), [torch.zeros_like(one) for one in gradients])
        for total, one in zip(sums, gradients, strict=True):
            total += one

    def take(self, lender: int, part: int) -> list[Tensor]:
        """Of keys and values."""
        return self._sums.pop((lender, part))


def _backward(
    index: int, block: Block, layer: LayerConfig, walk: Walk, gradient: States,
    entered: Bool[Tensor, "windows position"], owed: _Owed,
) -> BlockSurvey:  # fmt: skip
    """Turn `gradient`, in place, from the block's output to its input, watching the linear layers.

    walk: its states are what entered the block.  entered: tokens that count for what the block looks up.
    """
    for parameter in block.parameters():
        parameter.requires_grad_(False)
    linears = {
        name: LinearSurvey(linear_of(block, name), shared=not name.startswith("experts."))
        for name in block_linears(layer)
    }
    judges, inputs = judging(*walk.states.shape[:2]), walk.states
    looked: list[tuple[Tensor, ...]] = []
    parts, gradients = in_batches(inputs), in_batches(gradient)
    for number, (x, g, aside) in enumerate(zip(parts, gradients, in_batches(judges), strict=True)):
        leaves = _Leaves(walk.passage, layer, index, number, x)
        for seen in linears.values():
            seen.begin(aside)
        with _watch(block, linears), quick_layers():
            outputs, at_outputs = [block(leaves.x, beside=leaves.beside)], [g]
            if layer.lends is not None:
                outputs += leaves.lent[layer.lends]
                at_outputs += owed.take(index, number)
            found = torch.autograd.grad(outputs, leaves.all, at_outputs)
        g.copy_(found[0])
        if layer.borrows is not None:
            owed.add(layer.borrows, number, found[1:3])
        if layer.layer_input:
            looked.append(found[-2:])
    for seen in linears.values():
        seen.importance /= inputs.shape[0] * inputs.shape[1]
    if not looked:
        return BlockSurvey(index, block, linears)
    table, projected = (torch.cat(parts) for parts in zip(*looked, strict=True))
    owed.add_projected(projected, walk.passage.projection(index))
    importance = projected[entered].square().mean(0)
    return BlockSurvey(index, block, linears, LookedUp(table[entered], importance, judges[entered]))


class _Leaves:
    """What a block reads of one part, each of it with a gradient of its own.

    x, beside: to call the block with.  lent: filled by a block that lends.  all: what gradients are taken of: x, then
    keys and values that are read of an earlier block, then what is looked up, from the table and projected.
    """

    def __init__(self, passage: Passage, layer: LayerConfig, index: int, part: int, x: States) -> None:
        self.x = x.detach().requires_grad_()
        self.all: list[Tensor] = [self.x]
        self.lent: Lent = {}
        if layer.borrows is not None:
            keys, values = (one.detach().requires_grad_() for one in passage.lent[part][layer.borrows])
            self.lent[layer.borrows] = keys, values
            self.all += [keys, values]
        found = None
        if layer.layer_input:
            looked_up, projected = (one.detach().requires_grad_() for one in passage.looked_up(index, part))
            found = passage.combined(looked_up, projected)
            self.all += [looked_up, projected]
        self.beside = Beside(found, self.lent)


#: Tokens that an expert has seen, by its name in the block.
_Routed: TypeAlias = dict[str, Int[Tensor, " seen"]]


@contextmanager
def _watch(block: Block, linears: Mapping[str, LinearSurvey]) -> Iterator[None]:
    """While the context is open, a forward and a backward pass add to the surveys."""
    handles: list[RemovableHandle] = []
    routed: _Routed = {}
    if block.experts is not None:
        handles.append(block.experts.register_forward_pre_hook(partial(_note_routes, routed), with_kwargs=True))
    for name, survey in linears.items():
        note = partial(_note, survey, routed, name.rpartition(".")[0])
        handles.append(linear_of(block, name).register_forward_hook(note))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _note_routes(
    routed: _Routed, experts: nn.Module, inputs: tuple[Tensor, ...], named: Mapping[str, Tensor]
) -> None:  # fmt: skip
    """A hook: which tokens go to which expert."""
    assert isinstance(experts, Experts)
    _, chosen = experts.route(named.get("routed", inputs[0]).detach().flatten(0, -2))
    for number in range(len(experts.networks)):
        routed[f"experts.{number}"] = (chosen == number).nonzero(as_tuple=True)[0]


def _note(
    survey: LinearSurvey, routed: _Routed, part: str, _: nn.Module, inputs: tuple[Tensor, ...], output: Tensor
) -> None:
    """A hook: what enters a matrix, and once it is there the gradient of what comes out.  part: of the block."""
    x, seen = inputs[0].detach().flatten(0, -2), routed.get(part, slice(None))
    output.register_hook(lambda gradient: survey.add(x, gradient.flatten(0, -2), seen))


def _head_gradient(
    checkpoint: Checkpoint, states: States, generator: torch.Generator, task: Task
) -> tuple[States, Float[Tensor, "predicted hidden"]]:
    """Gradient of −log p(label) at the last block's output (per token), and what enters the head times √c.

    The last position of each window predicts nothing that anyone sees, and has gradient 0.
    """
    leaving = load_exit(checkpoint)
    gradient = torch.zeros_like(states)
    flat, flat_gradient, curved = states[:, :-1].flatten(0, 1), [], []
    for x in flat.split(_POSITIONS):
        x = x.detach().requires_grad_()
        hidden = leaving(x)
        at_hidden, curvature = _softmax_gradient(checkpoint, hidden.detach(), generator)
        flat_gradient.append(torch.autograd.grad(hidden, x, at_hidden)[0])
        curved.append(hidden.detach() * curvature.sqrt()[:, None])
        task.advance()
    gradient[:, :-1] = torch.cat(flat_gradient).unflatten(0, (len(states), -1))
    return gradient, torch.cat(curved)


@torch.no_grad()
def _softmax_gradient(
    checkpoint: Checkpoint, hidden: Float[Tensor, "position hidden"], generator: torch.Generator
) -> tuple[Float[Tensor, "position hidden"], Float[Tensor, " position"]]:
    """∂(−log p(label))/∂hidden = Σᵥ (pᵥ − [v = label]) capᵥ' Eᵥ for a label drawn from p, and Σ pᵥ(1 − pᵥ) capᵥ'².

    Sums are kept relative to the running maximum (online softmax, arXiv:1805.02867), so no more than a chunk of logits
    exists at a time. Labels are drawn in the same stream: each chunk takes the place of the label drawn so far with the
    probability that its share of the sum gives it. Products are in bfloat16 where the processor has it: a weight of
    importance needs no more.
    """
    config, name, dtype = checkpoint.config, head_name(checkpoint.config), fast_product_dtype()
    maximum, quick_hidden = torch.full((len(hidden), 1), -torch.inf), hidden.to(dtype)
    total, linear, squares = (torch.zeros(len(hidden), 1) for _ in range(3))
    pulled, labels = torch.zeros_like(hidden), torch.zeros(len(hidden), dtype=torch.long)
    for start in range(0, config.vocabulary, _HEAD_ROWS):
        rows = checkpoint.rows(name, start, min(start + _HEAD_ROWS, config.vocabulary)).to(dtype)
        checkpoint.release()
        logits = soft_cap((quick_hidden @ rows.T).float(), config.logit_cap)
        higher = torch.maximum(maximum, logits.amax(1, keepdim=True))
        rescale = (maximum - higher).exp()
        weights = (logits - higher).exp_()  # of probability, relative to the maximum
        here = weights.sum(1, keepdim=True)
        total = total * rescale + here
        _draw_labels(labels, weights, here / total, start, generator)
        slopes = _cap_slope(logits, config.logit_cap)
        weighted = weights * slopes
        linear = linear * rescale + (weighted * slopes).sum(1, keepdim=True)
        squares = squares * rescale.square() + weighted.square().sum(1, keepdim=True)
        pulled.mul_(rescale).add_(weighted.to(dtype) @ rows)
        maximum = higher
    label_rows = checkpoint.gather(name, labels)
    label_logits = soft_cap((hidden * label_rows).sum(1, keepdim=True), config.logit_cap)
    gradient = pulled / total - label_rows * _cap_slope(label_logits, config.logit_cap)
    return gradient, (linear / total - squares / total.square()).clamp_(min=0)[:, 0]


def _draw_labels(
    labels: Int[Tensor, " position"],
    weights: Float[Tensor, "position rows"],
    share: Float[Tensor, "position 1"],
    start: int,
    generator: torch.Generator,
) -> None:
    """Where this chunk wins the label, with probability `share`, draw it from the chunk.  start: its first token."""
    won = (torch.rand(len(labels), generator=generator) < share[:, 0]).nonzero()[:, 0]
    if len(won):
        sums = weights[won].cumsum(1)
        targets = sums[:, -1:] * torch.rand(len(won), 1, generator=generator)
        labels[won] = start + torch.searchsorted(sums, targets, right=True)[:, 0].clamp_(max=weights.shape[1] - 1)


def _cap_slope(capped: Tensor, cap: float | None) -> Tensor | float:
    """Derivative of cap·tanh(x/cap), from its value."""
    return 1.0 if cap is None else 1 - (capped / cap).square()
