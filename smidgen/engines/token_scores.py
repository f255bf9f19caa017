"""How likely a model finds each token of given texts, and which others it would rather have seen.

Texts that begin alike share their computation (continuations.py), and what they share is scored once. The logits of a
position are never all there at once: vocabulary and positions come in chunks.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from smidgen.engines.base import Ids
from smidgen.engines.continuations import Group, States, read_in_groups
from smidgen.engines.torch import TorchEngine
from smidgen.formats.parts import load_exit
from smidgen.numerics.divergence import NO_TARGET, StreamedSoftmax, soft_cap_
from smidgen.numerics.products import product
from smidgen.shapes import Float, Int

_ROWS_AT_ONCE = 512  # positions whose logits are asked for
_HEAD_ROWS = 4096  # decoded at once


@dataclass(frozen=True)
class TokenScores:
    """Log-probabilities in nats, float64.

    own: of each token of a text but the first.
    top, top_values: the likeliest tokens at each of these places and behind the last token, and theirs.
    """

    own: Float[Tensor, " position"]
    top: Int[Tensor, "place alternative"]
    top_values: Float[Tensor, "place alternative"]


@torch.no_grad()
def score_tokens(engine: TorchEngine, texts: Sequence[Ids], alternatives: int) -> list[TokenScores]:
    """The scores of each text of token ids, none of them empty; `alternatives` of the likeliest tokens, at least 1."""
    unique = sorted({tuple(text) for text in texts})
    found: dict[tuple[int, ...], TokenScores] = {}
    for groups, inputs in read_in_groups(engine, unique):
        stretches = [one for pair in zip(groups, inputs, strict=True) for one in _stretches(unique, *pair)]
        scored = _scored(engine, stretches, alternatives)
        for group in groups:
            shared = next(scored)
            for member in group.members:
                found[unique[member]] = _behind(shared, next(scored))
    return [found[tuple(text)] for text in texts]


@dataclass(frozen=True)
class _Stretch:
    """Positions in a row, and the token that follows each of them; NO_TARGET behind the end."""

    states: Float[Tensor, "position hidden"]
    targets: Int[Tensor, " position"]


def _stretches(texts: Sequence[Ids], group: Group, states: States) -> Iterator[_Stretch]:
    """What all texts of a group share, then the rest of each.

    The last shared position is followed by another token in each of them, so each has it with its rest.
    """
    shared = states.shared[0]
    first = texts[group.members[0]]
    yield _Stretch(shared[:-1], torch.tensor(first[1 : group.shared], dtype=torch.long))
    rows = (row for rest in states.rests for row in rest)
    for member, row in zip(group.members, rows, strict=True):
        text = texts[member]
        own = torch.cat([shared[-1:], row[: len(text) - group.shared]])
        targets = [*text[max(group.shared, 1) :], NO_TARGET]
        yield _Stretch(own, torch.tensor(targets, dtype=torch.long))


def _scored(engine: TorchEngine, stretches: Sequence[_Stretch], alternatives: int) -> Iterator[TokenScores]:
    """The scores of each stretch, place by place; `own` has a NaN for NO_TARGET."""
    states = load_exit(engine.checkpoint)(torch.cat([one.states for one in stretches]))
    targets = torch.cat([one.targets for one in stretches])
    stream = StreamedSoftmax(targets)
    alternatives = min(alternatives, engine.config.vocabulary)
    values = torch.full((len(states), alternatives), -torch.inf)
    tokens = torch.zeros(len(states), alternatives, dtype=torch.long)
    for first in range(0, engine.config.vocabulary, _HEAD_ROWS):
        head = engine.head_rows(first, min(first + _HEAD_ROWS, engine.config.vocabulary))
        for at in range(0, len(states), _ROWS_AT_ONCE):
            where = slice(at, at + _ROWS_AT_ONCE)
            logits = soft_cap_(product(states[where], head), engine.config.logit_cap)
            _keep_likeliest(values[where], tokens[where], logits, first)
            stream.add(where, first, logits)
    own, likeliest = stream.log_likelihood(), values.double() - stream.log_total()[:, None]
    sizes = [len(one.targets) for one in stretches]
    parts = zip(own.split(sizes), tokens.split(sizes), likeliest.split(sizes), strict=True)
    return (TokenScores(*part) for part in parts)


def _keep_likeliest(
    values: Float[Tensor, "position alternative"],
    tokens: Int[Tensor, "position alternative"],
    logits: Float[Tensor, "position vocab"],
    first: int,
) -> None:
    """Take the logits of tokens first, first+1, … in among the highest so far."""
    new_values, new_tokens = logits.topk(min(values.shape[1], logits.shape[1]))
    all_values = torch.cat([values, new_values], dim=1)
    all_tokens = torch.cat([tokens, new_tokens + first], dim=1)
    kept = all_values.topk(values.shape[1])
    values.copy_(kept.values)
    tokens.copy_(all_tokens.gather(1, kept.indices))


def _behind(shared: TokenScores, rest: TokenScores) -> TokenScores:
    """The scores of one whole text."""
    return TokenScores(
        torch.cat([shared.own, rest.own[:-1]]),
        torch.cat([shared.top, rest.top]),
        torch.cat([shared.top_values, rest.top_values]),
    )
