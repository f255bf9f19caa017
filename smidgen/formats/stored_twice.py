"""A head that is the embedding, stored a second time: how that is found out, and the model with it stored once.

Many published GGUF files hold one matrix of the original twice, as `token_embd` and as `output`, rounded to two types.
Then the two differ by rounding only (Qwen2.5-Coder 1.5B in Q4_K and Q6_K: by 7%), while a head that was trained apart
differs by what it has learned. Told apart by what rounding can explain:

- Every stored number has a cell, in which lay what was rounded to it (`numerics.cells`). If both came of one matrix,
  the two cells of nearly every number overlap, in each row; a quantizer's odd choices are some thousandths.
- Rounding does not change how long the matrix is, but for what it adds to it itself: with W what was rounded and
  e the error, ⟨e, W⟩ is between 0 and −‖e‖² for every quantizer that rounds well. A head that is the embedding times a
  factor is not the embedding.

A head that differs by less than its own rounding passes: nothing in the file tells it from the embedding. So does a
row in which only a few numbers differ. A type without known cells (codebooks) is never taken for another matrix.
Cost: decodes both matrices once, about a hundred million weights in ten seconds on one core; a sample of rows refuses
most heads that are others at once.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from smidgen.formats.checkpoint import Checkpoint
from smidgen.formats.gguf.checkpoint import GGUFCheckpoint
from smidgen.formats.gguf.writer import STRING_TYPES
from smidgen.formats.history import HISTORY, with_step
from smidgen.numerics.block_types import BlockType
from smidgen.numerics.cells import cells, has_cells
from smidgen.numerics.decode import decode
from smidgen.progress import track
from smidgen.shapes import Float

EMBEDDING, HEAD = "embedding.weight", "head.weight"
_SAMPLE = 256  # rows
_AT_ONCE = 2**21  # weights of each matrix
_APART = 0.002  # share of all numbers whose cells do not meet
_APART_IN_A_ROW = 0.1
_LONGER = (0.002, 1.5)  # |⟨e, W⟩| / ‖W‖² at most: so much, and so many times ‖e‖² / ‖W‖²


@dataclass(frozen=True)
class Twice:
    """One matrix that a file holds twice.

    kept: canonical name of the finer of the two.  kinds: of embedding and head.  nbytes: of the one to leave out.
    """

    kept: str
    kinds: tuple[BlockType, BlockType]
    nbytes: int


def stored_twice(checkpoint: Checkpoint, *, sample: bool = False) -> Twice | None:
    """What a GGUF file holds twice, where its head is its embedding; None where it is not, or where that is not known.

    sample: look at some rows only. A folder's equal matrices are one already when it is opened.
    """
    if not isinstance(checkpoint, GGUFCheckpoint) or checkpoint.config.tied_head:
        return None
    kinds = checkpoint.kind(EMBEDDING), checkpoint.kind(HEAD)
    if not all(map(has_cells, kinds)):
        return None
    count, step = checkpoint.config.vocabulary, max(1, _AT_ONCE // checkpoint.config.hidden)
    if not _is_one(checkpoint, [np.unique(np.linspace(0, count - 1, _SAMPLE).astype(int))]):
        return None
    if not sample and not _is_one(checkpoint, _all_rows(count, step)):
        return None
    # Of equals the head's: an error there is felt more.
    finer = EMBEDDING if kinds[0].bits_per_weight > kinds[1].bits_per_weight else HEAD
    other = checkpoint.gguf_name(HEAD if finer == EMBEDDING else EMBEDDING)
    return Twice(finer, kinds, checkpoint.file.tensors[other].nbytes)


def stored_once(checkpoint: Checkpoint, twice: Twice) -> Checkpoint:
    """The same model, its head tied to the finer of the two matrices. A view: nothing is written, and it is of use
    as long as `checkpoint` is open. Its history says so."""
    assert isinstance(checkpoint, GGUFCheckpoint)
    file = checkpoint.file
    embedding, head = checkpoint.gguf_name(EMBEDDING), checkpoint.gguf_name(HEAD)
    finer = replace(file.tensors[checkpoint.gguf_name(twice.kept)], name=embedding)
    tensors = {name: finer if name == embedding else info for name, info in file.tensors.items() if name != head}
    step = {"step": "tie", "parameters": {"kept": finer.kind.name, "bytes": twice.nbytes}, "summary": _said(twice)}
    metadata = {**file.metadata, HISTORY: with_step(file.metadata, step)}
    metadata_types = {**file.metadata_types, HISTORY: STRING_TYPES}
    once = replace(file, tensors=tensors, metadata=metadata, metadata_types=metadata_types)
    found = GGUFCheckpoint(once, checkpoint.family, replace(checkpoint.config, tied_head=True))
    found.origin = checkpoint.origin
    return found


def _all_rows(count: int, step: int) -> Iterator[np.ndarray]:
    parts = range(0, count, step)
    with track("Comparing head and embedding", len(parts)) as task:
        for start in parts:
            yield np.arange(start, min(start + step, count))
            task.advance()


def _is_one(checkpoint: Checkpoint, parts: Iterable[np.ndarray]) -> bool:
    """Whether rounding explains how two matrices differ in some rows, which come in parts."""
    numbers = apart = along = error = length = 0.0
    for rows in parts:
        embedding, head = (_Rows.of(checkpoint, name, rows) for name in (EMBEDDING, HEAD))
        checkpoint.release()
        outside = (embedding.low > head.high) | (head.low > embedding.high)
        if float(outside.float().mean(1).max()) > _APART_IN_A_ROW:
            return False
        difference = embedding.values - head.values
        apart, numbers = apart + int(outside.sum()), numbers + outside.numel()
        along += float((difference * head.values).double().sum())
        error += float(difference.square().double().sum())
        length += float(head.values.square().double().sum())
    absolute, relative = _LONGER
    return apart <= _APART * numbers and abs(along) <= absolute * length + relative * error


@dataclass(frozen=True)
class _Rows:
    """Some rows of a matrix: what is stored, and its cells."""

    values: Float[Tensor, "rows cols"]
    low: Float[Tensor, "rows cols"]
    high: Float[Tensor, "rows cols"]

    @classmethod
    def of(cls, checkpoint: Checkpoint, name: str, rows: np.ndarray) -> "_Rows":
        packed, kind = torch.from_numpy(checkpoint.packed(name)[rows]), checkpoint.kind(name)
        return cls(decode(packed, kind), *cells(packed, kind))


def _said(twice: Twice) -> str:
    embedding, head = (kind.name for kind in twice.kinds)
    kept = embedding if twice.kept == EMBEDDING else head
    as_types = f"as {embedding}" if embedding == head else f"as {embedding} and {head}"
    return f"Head: it is the embedding, stored twice ({as_types}); written once, from the {kept}."
