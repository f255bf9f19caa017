"""Which tokens make up which row of training: a pure function of the row's number, with no table to keep.

The corpus is one long stream of tokens, each document beginning with BOS where the model wants one. Rows are cut from
it end to end, so that each token is predicted exactly once an epoch; a document that is longer than a row goes on in
the next one, there behind a BOS of its own, since models such as Gemma are lost without it. Where a row ends within a
document, its last position still knows the token that follows. No prediction crosses from one document into another.

Rows are shuffled by a permutation that differs in each epoch: a Feistel network over the smallest even number of bits
that holds their number (Luby & Rackoff 1988), applied again where it leaves the range (Black & Rogaway 2002). It needs
no memory and is the same on every machine, which numpy does not promise for its own.
"""

from dataclasses import dataclass

import numpy as np

from smidgen.data.corpus.shards import Corpus
from smidgen.shapes import Bool, Int

_ROUNDS = 6
_MASK = (1 << 64) - 1


@dataclass(frozen=True)
class Row:
    """One row. targets: the token after each position, where the same document has one (`known`).  documents: their
    numbers in the row, from 0; padding counts as one more."""

    ids: Int[np.ndarray, " position"]
    targets: Int[np.ndarray, " position"]
    known: Bool[np.ndarray, " position"]
    documents: Int[np.ndarray, " position"]


class Rows:
    """All rows of a corpus, `context` tokens each."""

    def __init__(self, corpus: Corpus, context: int) -> None:
        self._corpus, self._context, self._bos = corpus, context, corpus.index.bos
        self._room = context if self._bos is None else context - 1

    def __len__(self) -> int:
        return -(-self._corpus.tokens // self._room)

    def row(self, number: int) -> Row:
        """Row `number` of the stream, in the corpus's own order."""
        start = number * self._room
        read, begins = self._corpus.read(start, start + self._room + 1)
        taken = min(len(read), self._room)
        first = np.zeros(len(read), bool)
        first[begins] = True
        follows = np.append(~first[1:], False)[:taken]  # whether the next token belongs to the same document
        ids, targets = read[:taken], np.append(read[1:], 0)[:taken]
        documents = first[:taken].cumsum() - int(first[0])
        if self._bos is not None and not first[0]:  # goes on with a document: behind a BOS that predicts nothing
            ids, targets = np.append(self._bos, ids), np.append(ids[0], targets)
            follows, documents = np.append(False, follows), np.append(0, documents)
        return self._padded(ids, targets, follows, documents)

    def beside(self, number: int) -> range:
        """Row `number`, and those around it that hold a part of one of its documents."""
        first, last = number * self._room, min((number + 1) * self._room, self._corpus.tokens) - 1
        start, _ = self._corpus.document_at(first)
        _, stop = self._corpus.document_at(last)
        return range(start // self._room, (stop - 1) // self._room + 1)

    def _padded(self, ids: np.ndarray, targets: np.ndarray, known: np.ndarray, documents: np.ndarray) -> Row:
        missing = self._context - len(ids)
        after = int(documents[-1]) + 1
        ids, targets, known = (np.pad(field, (0, missing)) for field in (ids, targets, known))
        return Row(ids, targets, known, np.pad(documents, (0, missing), constant_values=after))


def shuffled(place: int, count: int, key: int) -> int:
    """Where a permutation of 0 … count − 1 puts `place`; another key is another permutation."""
    half = max(1, ((count - 1).bit_length() + 1) // 2)
    mask = (1 << half) - 1
    while True:
        left, right = place >> half, place & mask
        for turn in range(_ROUNDS):
            left, right = right, left ^ (_mixed(right, key, turn) & mask)
        place = left << half | right
        if place < count:
            return place


def _mixed(value: int, key: int, turn: int) -> int:
    """64 well mixed bits: the finalizer of SplitMix64 (Steele et al. 2014), twice."""
    mixed = (key * 0x9E3779B97F4A7C15 + turn) & _MASK
    for word in (0, value):
        mixed = (mixed + word + 0x9E3779B97F4A7C15) & _MASK
        mixed = ((mixed ^ mixed >> 30) * 0xBF58476D1CE4E5B9) & _MASK
        mixed = ((mixed ^ mixed >> 27) * 0x94D049BB133111EB) & _MASK
        mixed ^= mixed >> 31
    return mixed
