"""Which predictions of two models may be compared where the cut has only some of the original's tokens.

A window is the original's window. The cut reads the same characters in its own tokenization: mostly the same pieces,
but a token that it lacks becomes several, so that its window may be longer. Wherever both have a token that ends at
one byte of the text, both have read the same and predict what follows the same: these places are partners. The end of
each window is always one; a place inside a character counts only if both stop at the same byte of it.

Rows that no text becomes (padding of the embedding) are no tokens: two models may have any number of them.

Both texts are tokenized as a whole and then cut at the windows' borders, so that no token is other than it would be
without windows. A token of the cut that lies across a border, as the original's never do, is spelled in shorter ones.
Cost: the cut's tokenizer runs over the text once.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from smidgen.data.text import TextTokenizer, Windows, padded
from smidgen.errors import SmidgenError, Unsupported, printable
from smidgen.shapes import Int

NO_PARTNER = -1


class PieceTokenizer(TextTokenizer, Protocol):
    """What is needed here of `model.tokenizer.Tokenizer`. piece: the bytes that a token stands for."""

    def __len__(self) -> int: ...

    def piece(self, token: int) -> bytes: ...


@dataclass(frozen=True)
class Kept:
    """The tokens that two models share, as ids of each, ascending; and the rows of each that no text becomes."""

    original: Int[Tensor, " kept"]
    cut: Int[Tensor, " kept"]
    padding: Int[Tensor, " padding"]
    cut_padding: Int[Tensor, " cut_padding"]

    @classmethod
    def of(cls, original: Int[Tensor, " kept"]) -> "Kept":
        """These tokens of the original, which are all rows of the cut; neither has padding."""
        none = torch.zeros(0, dtype=torch.long)
        return cls(original, torch.arange(len(original)), none, none)


@dataclass(frozen=True)
class PairedWindows:
    """The same characters, as the original reads them and as the cut does.

    partner: for each place of the original's windows the place of the cut's where both have read the same text, or
        NO_PARTNER; BOS is BOS's partner.
    unscored: bytes at the start of each window that bits per byte leave out: without BOS, up to its first partner.
    kept: the tokens that both models have.
    """

    original: Windows
    cut: Windows
    partner: Int[Tensor, "batch position"]
    unscored: Int[Tensor, " batch"]
    kept: Kept

    @classmethod
    def same(cls, windows: Windows, vocabulary: int) -> "PairedWindows":
        """Two models of one vocabulary of so many rows: each place is its own partner."""
        places = torch.arange(windows.ids.shape[1]).expand_as(windows.ids)
        partner = torch.where(windows.real(), places, NO_PARTNER)
        unscored = torch.zeros_like(windows.first_bytes) if windows.has_bos else windows.first_bytes
        return cls(windows, windows, partner, unscored, Kept.of(torch.arange(vocabulary)))

    def __len__(self) -> int:
        return len(self.original)

    def take(self, indices: Sequence[int]) -> "PairedWindows":
        """Only these windows, in this order, without columns that are padding in all of them."""
        chosen = torch.tensor(list(indices), dtype=torch.long)
        original = self.original.take(indices).trimmed()
        partner = self.partner[chosen, : original.ids.shape[1]]
        return replace(
            self, original=original, cut=self.cut.take(indices).trimmed(), partner=partner,
            unscored=self.unscored[chosen],
        )  # fmt: skip


def kept_tokens(original: Sequence[str | None], cut: Sequence[str | None], names: tuple[str, str]) -> Kept:
    """The tokens of `cut`, which must be a part of those of `original` in the same order.

    original, cut: the texts of all tokens by id, None for rows that no text becomes.  names: of the two models, for the
    error. Raises Unsupported with the first token that stands in the way.
    """
    place, found = 0, []
    for token, text in enumerate(cut):
        if text is None:
            continue
        start = place
        while place < len(original) and original[place] != text:
            place += 1
        if place == len(original):
            raise Unsupported(_refusal(token, text, text in original[:start], names))
        found.append(place)
        place += 1
    padding, cut_padding = ([row for row, text in enumerate(texts) if text is None] for texts in (original, cut))
    own = [row for row, text in enumerate(cut) if text is not None]
    return Kept(*(torch.tensor(ids, dtype=torch.long) for ids in (found, own, padding, cut_padding)))


def _refusal(token: int, text: str, elsewhere: bool, names: tuple[str, str]) -> str:
    before, after = (printable(name) for name in names)
    found = f"token {token} of {after}, {printable(repr(text), 60)}, " + (
        f"stands at another place in {before}" if elsewhere else f"is not in {before}"
    )
    return (
        f"{before} and {after} have different vocabularies: {found}. "
        "Measure a model against the one that it was made of."
    )


def shared_ends(first: Sequence[int], second: Sequence[int]) -> Iterator[tuple[int, int]]:
    """The places of two ascending lists at which the same numbers stand, each number once."""
    _, here, there = np.intersect1d(first, second, return_indices=True)
    yield from zip(here.tolist(), there.tolist(), strict=True)


def pair_windows(
    windows: Windows, text: str, original: PieceTokenizer, cut: PieceTokenizer, kept: Kept
) -> PairedWindows:
    """Pair windows of `text`, as the original's tokenizer made them, with the cut's.

    kept: as from `kept_tokens`.  Raises Unsupported where one model begins texts with BOS and the other does not,
    SmidgenError where the two tokenizers do not spell the same characters.
    """
    if original.adds_bos != cut.adds_bos:
        raise Unsupported("One of the models begins a text with BOS, the other does not: they cannot be compared.")
    bos = [cut.bos_id] if windows.has_bos and cut.bos_id is not None else []
    reader = _Reader(text, cut)
    rows, unscored = [], []
    partner = torch.full_like(windows.ids, NO_PARTNER)
    for row, (ids, start, size) in enumerate(
        zip(windows.rows(), windows.text_starts.tolist(), windows.text_bytes.tolist(), strict=True)
    ):
        before = [original.piece(token) for token in ids[len(bos) :]]
        spelled = reader.tokens(start, start + size)
        after = [cut.piece(token) for token in spelled]
        if b"".join(before) != b"".join(after):
            raise SmidgenError(
                f"The two tokenizers do not spell the same characters after byte {start} of the text, so the models "
                "cannot be compared there. Remove unusual characters, or measure on another text."
            )
        ends = np.cumsum([len(piece) for piece in before])
        pairs = list(shared_ends(ends.tolist(), np.cumsum([len(piece) for piece in after]).tolist()))
        here, there = zip(*pairs, strict=True)
        partner[row, [place + len(bos) for place in here]] = torch.tensor(there) + len(bos)
        if bos:
            partner[row, 0] = 0
        invented = max(int(ends[-1]) - size, 0)  # the space that some tokenizers put before a text
        unscored.append(0 if bos else int(ends[here[0]]) - invented)
        rows.append(bos + spelled)
    ids, lengths = padded(rows, max(map(len, rows), default=0))
    other = Windows(ids, lengths, windows.text_bytes, windows.first_bytes, windows.text_starts, windows.has_bos)
    return PairedWindows(windows, other, partner, torch.tensor(unscored, dtype=torch.long), kept)


class _Reader:
    """A text in the cut's tokens, to be had between any two of its bytes."""

    def __init__(self, text: str, tokenizer: PieceTokenizer) -> None:
        self._tokenizer, self._size = tokenizer, len(text.encode("utf-8"))
        self._ids = tokenizer.encode(text)
        self._pieces = [tokenizer.piece(token) for token in self._ids]
        self._ends = np.cumsum([len(piece) for piece in self._pieces])
        self._by_piece: dict[bytes, int] = {}

    def tokens(self, start: int, stop: int) -> list[int]:
        """The tokens of the bytes start … stop-1 of the text; those across an end are spelled in shorter ones."""
        written = int(self._ends[-1])
        invented = written - self._size  # belongs to the text's beginning
        begin, end = start + invented if start else 0, written if stop == self._size else stop + invented
        first = int(np.searchsorted(self._ends, begin, "right"))
        last = int(np.searchsorted(self._ends, end, "left"))
        tokens: list[int] = []
        for place in range(first, last + 1):
            piece, at = self._pieces[place], int(self._ends[place]) - len(self._pieces[place])
            inside = piece[max(begin - at, 0) : max(end - at, 0)]
            tokens += [self._ids[place]] if inside == piece else self._spell(inside)
        return tokens

    def _spell(self, data: bytes) -> list[int]:
        """Tokens for a part of a token: the longest that fits, again and again. Every byte is a token of its own."""
        if not self._by_piece:  # of two tokens for one byte the later is the plain one, the earlier <0xNN>
            self._by_piece = {self._tokenizer.piece(token): token for token in range(len(self._tokenizer))}
        tokens, at = [], 0
        while at < len(data):
            stop = next((stop for stop in range(len(data), at, -1) if data[at:stop] in self._by_piece), None)
            if stop is None:
                raise SmidgenError(f"The cut model has no token for the byte 0x{data[at]:02x}. Make it anew.")
            tokens.append(self._by_piece[data[at:stop]])
            at = stop
        return tokens
