"""What one model expects at the places of a group of windows, a chunk of its vocabulary at a time.

Our own decoder gives hidden states, of all places at once; logits are made of them and of some rows of the head. A
program that gives logits alone gives whole rows of them, 262,144 numbers for a place of Gemma, so that only some places
can be there at a time. A model's places therefore come in portions, one for all where hidden states are there, and the
vocabulary passes once for each portion. The original's head is decoded as often, at about the cost of its product.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from smidgen.data.text import Windows
from smidgen.engines.base import LogitScorer, Scorer
from smidgen.numerics.divergence import soft_cap_
from smidgen.numerics.products import product
from smidgen.progress import Task
from smidgen.shapes import Bool, Float, Int


class Places(NamedTuple):
    """Places of a group of windows: those with a partner in the other model by row and column, in order, and others."""

    rows: Int[Tensor, " position"]
    columns: Int[Tensor, " position"]
    alone: Bool[Tensor, "batch place"]


class Chunk(Protocol):
    """The logits of some entries of the vocabulary, float32, new each time: whoever asks may overwrite them."""

    def paired(self, where: slice) -> Float[Tensor, "position ids"]:
        """At these of the places with a partner."""
        ...

    def alone(self, where: slice) -> Float[Tensor, "position ids"]:
        """At these of the others."""
        ...


@dataclass(frozen=True)
class Portion:
    """Places that can be asked now.

    paired: which of those with a partner.  alone: which of the others.  chunk: logits of ascending ids of the
    vocabulary there.
    """

    paired: slice
    alone: slice
    chunk: Callable[[Int[Tensor, " ids"]], Chunk]


class Side(Protocol):
    """One of the two models, in a group of windows."""

    def portions(self) -> Iterator[Portion]:
        """All its places, in order."""
        ...


def side_of(model: Scorer | LogitScorer, windows: Windows, places: Places, task: Task) -> Side:
    """A model that is about to be asked at these places; `task` advances as it goes through the windows."""
    kind = LogitSide if isinstance(model, LogitScorer) else HeadSide
    return kind(model, windows, places, task)  # pyright: ignore[reportArgumentType]


@dataclass(frozen=True)
class _HeadChunk:
    """Some rows of the head, which make logits of the hidden states."""

    _rows: Float[Tensor, "rows hidden"]
    _paired: Float[Tensor, "position hidden"]
    _alone: Float[Tensor, "_position hidden"]
    _cap: float | None

    def only(self, places: Int[Tensor, " places"]) -> "_HeadChunk":
        """Only these of the rows, ascending."""
        return self if len(places) == len(self._rows) else replace(self, _rows=self._rows[places])

    def paired(self, where: slice) -> Float[Tensor, "position ids"]:
        return soft_cap_(product(self._paired[where], self._rows), self._cap)

    def alone(self, where: slice) -> Float[Tensor, "position ids"]:
        return soft_cap_(product(self._alone[where], self._rows), self._cap)


class HeadSide:
    """A model whose hidden states are all there."""

    def __init__(self, model: Scorer, windows: Windows, places: Places, task: Task) -> None:
        hidden = model.hidden_states(windows.ids, task)
        self._model = model
        self._paired, self._alone = hidden[places.rows, places.columns], hidden[places.alone]

    def portions(self) -> Iterator[Portion]:
        yield Portion(slice(0, len(self._paired)), slice(0, len(self._alone)), self.chunk)

    def chunk(self, ids: Int[Tensor, " ids"]) -> _HeadChunk:
        """Ids are ascending and mostly side by side."""
        first, last = int(ids[0]), int(ids[-1])
        rows = self._model.head_rows(first, last + 1)
        rows = rows if len(rows) == len(ids) else rows[ids - first]
        return _HeadChunk(rows, self._paired, self._alone, self._model.config.logit_cap)


@dataclass(frozen=True)
class _LogitChunk:
    """Logits that are there already.  paired_rows, alone_rows: where each place of the group is among them."""

    _logits: Float[Tensor, "position vocab"]
    _ids: Int[Tensor, " ids"]
    _paired_rows: Int[Tensor, " _position"]
    _alone_rows: Int[Tensor, " _position"]

    def paired(self, where: slice) -> Float[Tensor, "position ids"]:
        return self._at(self._paired_rows[where])

    def alone(self, where: slice) -> Float[Tensor, "position ids"]:
        return self._at(self._alone_rows[where])

    def _at(self, rows: Int[Tensor, " position"]) -> Float[Tensor, "position ids"]:
        first, last = int(self._ids[0]), int(self._ids[-1])
        if last - first + 1 == len(self._ids):
            return self._logits[:, first : last + 1][rows]
        return self._logits[rows[:, None], self._ids]


class LogitSide:
    """A model that gives the logits of some places at a time."""

    def __init__(self, model: LogitScorer, windows: Windows, places: Places, task: Task) -> None:
        self._model, self._windows, self._task = model, windows, task
        self._width = windows.ids.shape[1]
        self._paired = places.rows * self._width + places.columns
        self._alone = places.alone.flatten().nonzero()[:, 0]

    def portions(self) -> Iterator[Portion]:
        rows, row, column = self._windows.rows(), 0, 0
        for logits in self._model.logits(rows):
            start = row * self._width + column
            self._task.advance()
            yield self._portion(start, logits)
            column += len(logits)
            if column == len(rows[row]):
                row, column = row + 1, 0

    def _portion(self, start: int, logits: Float[Tensor, "position vocab"]) -> Portion:
        """Of the places of the group from `start` on."""
        ends = torch.tensor([start, start + len(logits)])
        paired, alone = (slice(*torch.searchsorted(places, ends).tolist()) for places in (self._paired, self._alone))

        def chunk(ids: Int[Tensor, " ids"]) -> _LogitChunk:
            return _LogitChunk(logits, ids, self._paired - start, self._alone - start)

        return Portion(paired, alone, chunk)
