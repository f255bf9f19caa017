"""Drawing tokens from logits with a seeded generator."""

from collections.abc import Collection

import torch
from torch import Tensor
from torch.nn import functional

from smidgen.shapes import Float, Int

_RUN = 512  # tokens whose probabilities are summed before one of them is looked for


def draw(
    logits: Float[Tensor, "batch vocab"],
    temperature: float,
    generator: torch.Generator,
    *,
    banned: Collection[int] = (),
    top_k: int | None = None,
) -> Int[Tensor, " batch"]:
    """One token for each row, from softmax(logits / temperature). Overwrites `logits`.

    temperature: 0 takes the likeliest token.  banned: tokens never drawn.  top_k: only the likeliest k, None for all.
    """
    if banned:
        logits[:, list(banned)] = float("-inf")
    if temperature == 0:
        return logits.argmax(dim=-1)
    if top_k is not None and top_k < logits.shape[1]:
        best, ids = logits.topk(top_k, dim=-1)
        return ids.gather(1, draw(best, temperature, generator)[:, None])[:, 0]
    weights = logits.sub_(logits.amax(dim=-1, keepdim=True)).div_(temperature).exp_()
    return _draw_in_proportion(weights, generator)


def _draw_in_proportion(weights: Float[Tensor, "batch vocab"], generator: torch.Generator) -> Int[Tensor, " batch"]:
    """Inverts the cumulative sum at one uniform number a row: first over runs of tokens, then inside the chosen run.

    torch.multinomial draws a random number for every token of the vocabulary, which takes longer than all the rest.
    Cumulative sums are in float64, so that no token is too rare to be drawn.
    """
    if padding := -weights.shape[1] % _RUN:
        weights = functional.pad(weights, (0, padding))
    runs = weights.unflatten(1, (-1, _RUN))
    ends = runs.sum(dim=2).double().cumsum(dim=1)
    targets = ends[:, -1:] * torch.rand(len(weights), 1, dtype=torch.float64, generator=generator)
    run = _first_beyond(targets, ends)
    before = torch.where(run > 0, ends.gather(1, (run - 1).clamp(min=0)), 0.0)
    within = runs.gather(1, run[:, :, None].expand(-1, 1, _RUN))[:, 0].double().cumsum(dim=1)
    return (run * _RUN + _first_beyond(targets - before, within))[:, 0]


def _first_beyond(targets: Float[Tensor, "batch 1"], sums: Float[Tensor, "batch places"]) -> Int[Tensor, "batch 1"]:
    """First place whose cumulative sum exceeds the target; by rounding none may, then the last that adds anything."""
    last = (sums < sums[:, -1:]).sum(dim=1, keepdim=True)
    return torch.minimum(torch.searchsorted(sums, targets, right=True), last)
