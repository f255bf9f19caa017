"""How likely a model finds given continuations of given beginnings: what multiple-choice tasks ask, in bulk.

Questions of one subject share their examples, and the choices of one question share the question. So texts are grouped
by the beginning that they share, each group's beginning goes through a block once, and the rests follow against its
keys and values. Groups go through one block before the next is decoded, as in torch.py: memory is the hidden states of
some thousand tokens, one block, and the keys and values of one layer, however many texts there are.
"""

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from smidgen.engines.base import Ids, Score
from smidgen.engines.torch import KeptByLenders, TorchEngine, tokens_at_once
from smidgen.formats.parts import Passage, embed, load_exit
from smidgen.model.decoder import Block
from smidgen.numerics.divergence import StreamedSoftmax, soft_cap_
from smidgen.numerics.products import product
from smidgen.progress import Task
from smidgen.shapes import Float, Int

_TOKENS_IN_MEMORY = 1 << 14  # of hidden states, between two decodings of all blocks; progress is seen as often
_KEYS_AT_ONCE = 4096  # positions with keys and values in one layer
_ROWS_AT_ONCE = 512  # positions whose logits are asked for
_HEAD_ROWS = 4096  # decoded at once


@dataclass
class Group:
    """Texts that begin alike. shared: how many tokens are the same.  members: places in the list of all texts."""

    shared: int
    members: list[int] = field(default_factory=list)


@dataclass
class States:
    """Hidden states of a group: of what its texts share, and of the rests, padded on the right.

    passage: what blocks read beside them, of parts of what is shared and then of the rests.
    kept: keys and values of what is shared (part 0) and of the rests (from 1 on).
    """

    shared: Float[Tensor, "1 shared *streams hidden"]
    rests: list[Float[Tensor, "batch rest *streams hidden"]]
    passage: Passage
    kept: KeptByLenders


@torch.no_grad()
def score_continuations(
    engine: TorchEngine, pairs: Sequence[tuple[Ids, Ids]], progress: Task | None = None
) -> list[Score]:
    """The score of each pair of a beginning and its continuation, both token ids and neither of them empty.

    progress: advanced once for each pair.
    """
    texts = sorted({(*begin, *rest[:-1]) for begin, rest in pairs})  # the last token is predicted, never read
    places = {text: place for place, text in enumerate(texts)}
    asked: list[list[int]] = [[] for _ in texts]
    for number, (begin, rest) in enumerate(pairs):
        asked[places[*begin, *rest[:-1]]].append(number)
    wanted = [min(len(pairs[number][0]) - 1 for number in numbers) for numbers in asked]
    scores: dict[int, Score] = {}
    for groups in _batches(_grouped(texts), texts):
        found = _hidden_states(engine, texts, groups, wanted)
        numbers = [number for group in groups for member in group.members for number in asked[member]]
        rows, targets = [], []
        for number in numbers:
            begin, rest = pairs[number]
            place = places[*begin, *rest[:-1]]
            rows.append(found[place][len(begin) - 1 - wanted[place] :])
            targets.append(torch.tensor(rest))
        for number, score in zip(numbers, _scores(engine, rows, targets), strict=True):
            scores[number] = score
        if progress is not None:
            progress.advance(len(numbers))  # at once, as they were computed
    return [scores[number] for number in range(len(pairs))]


def read_in_groups(engine: TorchEngine, texts: Sequence[Ids]) -> Iterator[tuple[list[Group], list[States]]]:
    """Sorted texts, none of them twice, through all blocks: groups, and their states before the final norm."""
    for groups in _batches(_grouped(texts), texts):
        yield groups, _group_states(engine, texts, groups)


def _grouped(texts: Sequence[Ids]) -> list[Group]:
    """Sorted texts, each put to those before it where that saves tokens and the text behind it is no better company.

    A group saves its shared tokens for all but one of its texts.
    """
    groups: list[Group] = []
    for place, text in enumerate(texts):
        if groups:
            last = groups[-1]
            shared = min(_common(texts[last.members[0]], text), last.shared, len(text) - 1)
            behind = _common(text, texts[place + 1]) if place + 1 < len(texts) else 0
            saved = len(last.members) * shared - (len(last.members) - 1) * last.shared
            if saved > 0 and 2 * shared >= behind:
                last.shared = shared
                last.members.append(place)
                continue
        groups.append(Group(len(text) - 1, [place]))
    return groups


def _common(one: Ids, other: Ids) -> int:
    """How many tokens at the beginning are the same."""
    return next(
        (place for place, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other))
    )


def _batches(groups: Sequence[Group], texts: Sequence[Ids]) -> Iterator[list[Group]]:
    """Groups whose hidden states are in memory together."""
    batch: list[Group] = []
    size = 0
    for group in itertools.chain.from_iterable(_parts(group, texts) for group in groups):
        tokens = group.shared + sum(len(texts[member]) - group.shared for member in group.members)
        if batch and size + tokens > _TOKENS_IN_MEMORY:
            yield batch
            batch, size = [], 0
        batch.append(group)
        size += tokens
    if batch:
        yield batch


def _parts(group: Group, texts: Sequence[Ids]) -> Iterator[Group]:
    """A group in parts that fit into memory; each part reads again what is shared."""
    part = Group(group.shared)
    size = group.shared
    for member in group.members:
        rest = len(texts[member]) - group.shared
        if part.members and size + rest > _TOKENS_IN_MEMORY:
            yield part
            part, size = Group(group.shared), group.shared
        part.members.append(member)
        size += rest
    yield part


def _hidden_states(
    engine: TorchEngine, texts: Sequence[Ids], groups: Sequence[Group], wanted: Sequence[int]
) -> dict[int, Float[Tensor, "position hidden"]]:
    """What the head reads in each text of these groups, from the position in `wanted` on."""
    inputs = _group_states(engine, texts, groups)
    leaving = load_exit(engine.checkpoint)
    found = {}
    for group, states in zip(groups, inputs, strict=True):
        rows = [row for rest in states.rests for row in rest]
        for member, row in zip(group.members, rows, strict=True):
            own = row[max(0, wanted[member] - group.shared) : len(texts[member]) - group.shared]
            found[member] = leaving(torch.cat([states.shared[0, wanted[member] :], own]))
    return found


def _group_states(engine: TorchEngine, texts: Sequence[Ids], groups: Sequence[Group]) -> list[States]:
    inputs = [_embedded(engine, texts, group) for group in groups]
    at_once = tokens_at_once(engine.config)
    for index in range(len(engine.config.layers)):
        block = engine.block(index)
        for group, states in zip(groups, inputs, strict=True):
            _through(block, index, group.shared, states, at_once)
        del block  # before the next is decoded beside it
    return inputs


def _embedded(engine: TorchEngine, texts: Sequence[Ids], group: Group) -> States:
    rests = [texts[member][group.shared :] for member in group.members]
    longest = max(map(len, rests))
    padded = torch.tensor([[*rest, *[0] * (longest - len(rest))] for rest in rests])  # nothing before sees the padding
    at_once = max(1, min(tokens_at_once(engine.config) // longest, _KEYS_AT_ONCE // (longest + group.shared)))
    shared = torch.tensor([texts[group.members[0]][: group.shared]], dtype=torch.long)
    rests_apart = padded.split(at_once)
    states = [embed(engine.checkpoint, part) for part in rests_apart]
    return States(
        embed(engine.checkpoint, shared) if group.shared else states[0].new_empty(1, 0, *states[0].shape[2:]),
        states,
        Passage(engine.checkpoint, [*_pieces(shared, tokens_at_once(engine.config)), *rests_apart]),
        KeptByLenders(engine),
    )


def _through(block: Block, index: int, shared: int, states: States, at_once: int) -> None:
    """One block: what is shared first, then the rests against its keys and values."""
    first = states.kept.cache(index, 0, 1, shared)
    parts = _pieces(states.shared, at_once)
    for number, part in enumerate(parts):
        part.copy_(block(part, number * at_once, first, beside=states.passage.beside(index, number)))
    for number, rest in enumerate(states.rests):
        cache = states.kept.cache(index, number + 1, len(rest), shared + rest.shape[1])
        if block.attention.layer.borrows is None:  # else the lender has done it
            cache.keys[:, :, :shared], cache.values[:, :, :shared] = first.keys, first.values
        rest.copy_(block(rest, shared, cache, beside=states.passage.beside(index, len(parts) + number)))


def _pieces(x: Tensor, at_once: int) -> Sequence[Tensor]:
    """So many positions at a time; nothing of nothing."""
    return x.split(at_once, dim=1) if x.shape[1] else ()


def _scores(
    engine: TorchEngine, rows: Sequence[Float[Tensor, "position hidden"]], targets: Sequence[Int[Tensor, " position"]]
) -> Iterator[Score]:
    """The score of each continuation; `rows` are the states that predict its tokens."""
    states, wanted = torch.cat(list(rows)), torch.cat(list(targets))
    stream = StreamedSoftmax(wanted)
    for first in range(0, engine.config.vocabulary, _HEAD_ROWS):
        head = engine.head_rows(first, min(first + _HEAD_ROWS, engine.config.vocabulary))
        for at in range(0, len(states), _ROWS_AT_ONCE):
            where = slice(at, at + _ROWS_AT_ONCE)
            stream.add(where, first, soft_cap_(product(states[where], head), engine.config.logit_cap))
    log_probabilities, greedy = stream.log_likelihood(), stream.top == wanted
    start = 0
    for target in targets:
        end = start + len(target)
        yield Score(float(log_probabilities[start:end].sum()), bool(greedy[start:end].all()))
        start = end
