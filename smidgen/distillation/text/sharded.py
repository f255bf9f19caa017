"""Batches out of a tokenized corpus (`data.corpus`), each a pure function of its step.

Every epoch goes through all rows once, in an order of its own; which rows make up a step depends on the seed alone, not
on how far a training came before it was interrupted, nor on how many processes made the corpus.

What is held out are rows spread over the corpus. Documents go on from row to row, so the rows around these that hold a
part of the same documents are left out, too, as long as that costs little.
"""

from pathlib import Path

import numpy as np
import torch

from smidgen.data.corpus.order import Rows, shuffled
from smidgen.data.corpus.shards import Corpus
from smidgen.distillation.text.batch import NO_TARGET, Batch
from smidgen.errors import SmidgenError, printable

_MOST_LEFT_OUT = 5  # one row in so many, to keep documents on one side


class ShardedBatches:
    """Batches of `rows` rows of `context` tokens.

    tokenizer: `tokenizer_hash` of the model that is trained.  held_out: so many rows to measure on.
    divided: whether parts of documents that are measured on may be learned from, since they are too long to leave out.
    Raises as `Corpus.open`, and SmidgenError where nothing is left to train on.
    """

    def __init__(
        self, folder: Path, rows: int, context: int, seed: int, *, tokenizer: str | None = None, held_out: int = 0
    ) -> None:
        self._folder, self._seed, self._per_step = folder, seed, rows
        self.corpus = Corpus.open(folder, tokenizer)
        if context < 2:
            raise SmidgenError(f"a context of {context} token has nothing to predict; take at least 2.")
        self._rows = Rows(self.corpus, context)
        self._aside = [(2 * place + 1) * len(self._rows) // (2 * held_out) for place in range(held_out)]
        whole = sorted({row for aside in self._aside for row in self._rows.beside(aside)})
        self.divided = len(whole) > max(held_out, len(self._rows) // _MOST_LEFT_OUT)
        self._left_out = self._aside if self.divided else whole
        self.count = len(self._rows) - len(self._left_out)
        if self.count < 1:
            raise SmidgenError(
                f"the corpus {printable(folder)} has {len(self._rows)} rows of {context} tokens, {held_out} of them "
                "held out; take more text or a shorter context."
            )

    @property
    def steps_per_epoch(self) -> float:
        """Steps in which every row is seen once."""
        return self.count / self._per_step

    def batch(self, step: int) -> Batch:
        """That of a step. Raises BadFile for a damaged shard."""
        places = range(step * self._per_step, (step + 1) * self._per_step)
        return self._of([self._at(place) for place in places])

    def held_out(self) -> Batch:
        """The rows to measure on, which no step sees, as one batch."""
        return self._of(self._aside)

    def _at(self, place: int) -> int:
        """The row that comes at a place in the endless run of epochs."""
        epoch, within = divmod(place, self.count)
        row = shuffled(within, self.count, (self._seed << 32) + epoch)
        for aside in self._left_out:  # from first to last: each of them before it moves it on by one
            row += row >= aside
        return row

    def _of(self, numbers: list[int]) -> Batch:
        rows = [self._rows.row(number) for number in numbers]
        known = torch.from_numpy(np.stack([row.known for row in rows]))
        targets = torch.from_numpy(np.stack([row.targets for row in rows]))
        return Batch(
            torch.from_numpy(np.stack([row.ids for row in rows])),
            targets.masked_fill(~known, NO_TARGET),
            known.float(),
            torch.from_numpy(np.stack([row.documents for row in rows])),
            f"{printable(self._folder)}, rows {', '.join(map(str, numbers))}",
        )
