"""Documents laid side by side in rows of one length, without attention from one to another.

Rows without padding learn from every position they compute, and a mask keeps each document to itself (Llama 3, Dubey
et al. 2024, arXiv:2407.21783, section 3.2). A document that is longer than a row is cut into windows first, each of
which begins anew. Windows go, the longest first, into the fullest row that has room for them (best-fit-decreasing
packing, Ding et al. 2024, arXiv:2404.10830, section 3), so that none is cut where it need not be. What is left of a
row is padding that counts nothing.

Every epoch takes the rows in another order. Which rows a step gets depends on the seed and the step's number alone.
For texts that fit in memory; `data.corpus` is for those that do not.
"""

import hashlib
from bisect import bisect_left, insort
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch

from smidgen.data.corpus.order import shuffled
from smidgen.data.sources import TextSource
from smidgen.data.text import TextTokenizer, cut_into_windows
from smidgen.distillation.text.batch import NO_TARGET, Batch
from smidgen.errors import SmidgenError, printable


@dataclass(frozen=True)
class Document:
    """Tokens of one document, without BOS.  name: what it is called in errors.

    weights: how much it counts to predict each of the tokens; None for all alike.
    """

    ids: Sequence[int]
    name: str
    weights: Sequence[float] | None = None


class PackedBatches:
    """Batches of `rows` rows of `context` tokens.

    bos: begins each document, and each window of a long one; None for none.
    Raises SmidgenError where no document has anything to predict.
    """

    def __init__(self, documents: Sequence[Document], bos: int | None, rows: int, context: int, seed: int) -> None:
        if context < 2:
            raise SmidgenError(f"A context of {context} token has nothing to predict. Take at least 2.")
        pieces = [piece for document in documents for piece in _windows(document, bos, context)]
        if not pieces:
            raise SmidgenError("There is nothing to learn from: no document has two tokens. Give more text.")
        self._packed = _pack(pieces, context)
        self._rows, self._context, self._seed = rows, context, seed

    def __len__(self) -> int:
        """Rows of an epoch."""
        return len(self._packed)

    @property
    def tokens(self) -> int:
        """Of an epoch; padding is not counted."""
        return sum(len(piece.ids) for row in self._packed for piece in row)

    def batch(self, step: int) -> Batch:
        """That of a step."""
        places = range(step * self._rows, (step + 1) * self._rows)
        return self.rows([self._at(place) for place in places])

    def rows(self, numbers: Sequence[int]) -> Batch:
        """The rows with these numbers, from 0 to the length."""
        shape = (len(numbers), self._context)
        ids, targets = torch.zeros(shape, dtype=torch.long), torch.full(shape, NO_TARGET)
        documents, weights, names = torch.full(shape, -1), torch.zeros(shape), dict[str, None]()
        for row, number in enumerate(numbers):
            start = 0
            for place, piece in enumerate(self._packed[number]):
                stop = start + len(piece.ids)
                ids[row, start:stop] = torch.tensor(piece.ids)
                targets[row, start : stop - 1] = ids[row, start + 1 : stop]
                documents[row, start:stop] = place
                weights[row, start : stop - 1] = 1.0 if piece.weights is None else torch.tensor(piece.weights[1:])
                names[piece.name] = None
                start = stop
        return Batch(ids, targets, weights, documents, ", ".join(names))

    def _at(self, place: int) -> int:
        """Which row comes at a place in the endless run of epochs."""
        epoch, within = divmod(place, len(self._packed))
        return shuffled(within, len(self._packed), (self._seed << 32) + epoch)


def documents_sha256(documents: Sequence[Document]) -> str:
    """Of all that is learned from them."""
    digest = hashlib.sha256()
    for document in documents:
        digest.update(repr((list(document.ids), document.weights)).encode())
    return digest.hexdigest()


def text_documents(sources: Sequence[TextSource], tokenizer: TextTokenizer, context: int) -> list[Document]:
    """Plain texts, cut into windows end to end between whole characters, each behind a BOS if the model's texts are."""
    return [
        Document(window, f"{printable(source.name)}, window {number}")
        for source in sources
        for number, window in enumerate(cut_into_windows(source.text, tokenizer, context).rows(), 1)
    ]


def text_batches(
    sources: Sequence[TextSource], tokenizer: TextTokenizer, rows: int, context: int, seed: int
) -> PackedBatches:
    """Batches of these."""
    return PackedBatches(text_documents(sources, tokenizer, context), None, rows, context, seed)


def _windows(document: Document, bos: int | None, context: int) -> Iterator[Document]:
    """Pieces that fit a row, of those in which there is something to predict."""
    first = [] if bos is None else [bos]
    room = context - len(first)
    for start in range(0, len(document.ids), room):
        ids = [*first, *document.ids[start : start + room]]
        weights = document.weights
        if weights is not None:
            weights = [0.0] * len(first) + list(weights[start : start + room])
        if len(ids) > 1 and (weights is None or any(weights[1:])):
            yield Document(ids, document.name, weights)


def _pack(pieces: Sequence[Document], context: int) -> list[list[Document]]:
    """Rows of pieces. Equal pieces keep their order, so that the same documents always make the same rows."""
    rows: list[list[Document]] = []
    rooms: list[tuple[int, int]] = []  # what is left of each row that is not full, and its number, in order
    for piece in sorted(pieces, key=lambda piece: -len(piece.ids)):
        length = len(piece.ids)
        place = bisect_left(rooms, (length, 0))
        if place < len(rooms):
            room, number = rooms.pop(place)
        else:
            room, number = context, len(rows)
            rows.append([])
        rows[number].append(piece)
        if room > length:
            insort(rooms, (room - length, number))
    return rows
