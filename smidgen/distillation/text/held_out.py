"""What no step learns from: one policy for every training.

- Documents that belong together stay on one side: pieces of one conversation, equal ones, and nearly equal ones
  (`data.alike`). What was learned from measures nothing.
- Held-out ones lie all over what was given, so that each source and language among them has its share.
- They are two sets. One chooses which state of the training is kept; the best of many on one set looks better there
  than it is, so another set, which chooses nothing, says how good it is.
- Too few tokens choose by chance. Then nothing is chosen: the last state is kept, and all that is held out reports.
"""

import random
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from smidgen.data.alike import groups_of_alike
from smidgen.distillation.text.batch import Batch
from smidgen.distillation.text.packing import Document, PackedBatches

#: Tokens that count, below which no state is chosen.
FEWEST_TO_CHOOSE = 2000

_MOST_OF_ALL = 4  # times its share that a group of documents may have to be held out


@dataclass(frozen=True)
class HeldOut:
    """Batches of one row each, of both sets."""

    choose: list[Batch] = field(default_factory=list)
    report: list[Batch] = field(default_factory=list)

    @property
    def rows(self) -> list[Batch]:
        """All of them."""
        return [*self.choose, *self.report]

    def changed(self, change: Callable[[Batch], Batch]) -> "HeldOut":
        """Each row changed."""
        return HeldOut([change(row) for row in self.choose], [change(row) for row in self.report])

    @property
    def can_choose(self) -> bool:
        """Whether the first set is large enough to say which of two states is better."""
        return sum(float((batch.weights > 0).sum()) for batch in self.choose) >= FEWEST_TO_CHOOSE


@dataclass(frozen=True)
class Split:
    """Documents on their sides.  learned: from.  choose, report: see above."""

    learned: list[Document]
    choose: list[Document]
    report: list[Document]

    @classmethod
    def of(cls, documents: Sequence[Document], wanted: float, seed: int, fewest: int = 1) -> "Split":
        """Hold a share of some documents out, half of it to choose and half to report.

        wanted: the share, 0 to 1.  fewest: so many groups at least, where there are more. Where all documents belong
        together, nothing can be held out.
        """
        if not wanted:
            return cls([*documents], [], [])
        together = _together(documents)
        groups = len(set(together))
        count = min(max(fewest, round(wanted * groups)), groups - 1)
        return cls._on_sides(documents, together, _spread(_eligible(documents, together, wanted), count, seed))

    @classmethod
    def apart(cls, documents: Sequence[Document], seed: int) -> "Split":
        """All of some documents held out, half of them to choose."""
        together = _together(documents)
        groups = list(dict.fromkeys(together))
        random.Random(seed).shuffle(groups)
        return cls._on_sides(documents, together, groups)

    @classmethod
    def _on_sides(cls, documents: Sequence[Document], together: Sequence[int], chosen: Sequence[int]) -> "Split":
        """Every second of the chosen groups reports, from the first on."""
        side = {group: ("report", "choose")[place % 2] for place, group in enumerate(chosen)}
        found: dict[str, list[Document]] = {"learned": [], "choose": [], "report": []}
        for document, group in zip(documents, together, strict=True):
            found[side.get(group, "learned")].append(document)
        return cls(**found)

    def rows(self, context: int, seed: int) -> HeldOut:
        """What is held out in rows of `context` tokens."""
        return HeldOut(_rows(self.choose, context, seed), _rows(self.report, context, seed))

    def notes(self, what: str) -> list[str]:
        """For people. what: documents, examples."""
        if self.report:
            return []
        return [f"Nothing is held out, the {what} are too few or too much alike: what was learned is not measured."]


def is_in(documents: Sequence[Document], learned: Sequence[Document]) -> list[bool]:
    """Whether each of some documents is among those that are learned from, or nearly."""
    groups = groups_of_alike([document.ids for document in [*learned, *documents]])
    return [groups.first(len(learned) + place) < len(learned) for place in range(len(documents))]


def _together(documents: Sequence[Document]) -> list[int]:
    """For each document the first place of those that it belongs to: alike, or of one conversation."""
    groups, named = groups_of_alike([document.ids for document in documents]), dict[str, int]()
    for place, document in enumerate(documents):
        groups.join(named.setdefault(document.name, place), place)
    return [groups.first(place) for place in range(len(documents))]


def _eligible(documents: Sequence[Document], together: Sequence[int], wanted: float) -> list[int]:
    """Groups that can be held out and not much more is than is wanted; in the order of their beginnings."""
    most = max(1.0, _MOST_OF_ALL * wanted * len(together))
    empty = {group for document, group in zip(documents, together, strict=True) if not _can_be_measured(document)}
    return [group for group, size in Counter(together).items() if size <= most and group not in empty]


def _can_be_measured(document: Document) -> bool:
    """Whether it has a token that can be predicted, and counts."""
    return len(document.ids) > 1 and (document.weights is None or any(document.weights[1:]))


def _spread(groups: Sequence[int], count: int, seed: int) -> list[int]:
    """Some groups, one from each of as many stretches of equal length."""
    count, chance = min(count, len(groups)), random.Random(seed)
    bounds = [stretch * len(groups) // count for stretch in range(count + 1)] if count > 0 else []
    return [groups[chance.randrange(*pair)] for pair in zip(bounds, bounds[1:], strict=False)]


def _rows(documents: Sequence[Document], context: int, seed: int) -> list[Batch]:
    if not documents:
        return []
    packed = PackedBatches(documents, None, 1, context, seed)
    return [packed.rows([row]) for row in range(len(packed))]
