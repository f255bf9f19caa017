"""Text cut into windows of tokens, to calibrate on and to measure with.

A window is at most `length` tokens: BOS first if the model's tokenizer adds one, then text tokens. Windows lie end
to end through the text, begin and end between whole characters, and the last may be shorter; so the windows of a
text hold each of its tokens exactly once, and the UTF-8 bytes of the windows add up to those of the text. (A window
is closed up to three tokens early where a character is spread over several tokens. So what needs windows of one length
takes them from `data.drawing`, which does not mind characters, instead of leaving such windows out.)

How long a window is, `window_length` decides, here and for everyone.
"""

import random
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from smidgen.errors import SmidgenError
from smidgen.shapes import Bool, Int

#: Tokens of a window, where the model's context holds so many.
WINDOW = 512

_SHORTEST = 2  # BOS and a token
_LONGEST_SPLIT = 16  # tokens that can share characters: byte tokens of a few characters merged across their border


class TextTokenizer(Protocol):
    """What is needed here of `model.tokenizer.Tokenizer`."""

    @property
    def adds_bos(self) -> bool: ...

    @property
    def bos_id(self) -> int | None: ...

    def encode(self, text: str, *, add_bos: bool = False, parse_special: bool = False) -> list[int]: ...

    def decode(self, ids: Iterable[int]) -> str: ...


@dataclass(frozen=True)
class Windows:
    """Windows of tokens, padded on the right (with token 0), which a causal model cannot see.

    lengths: tokens of each window, BOS included.  text_bytes: UTF-8 bytes of the text of each window.
    first_bytes: those of its first token.  text_starts: UTF-8 bytes of the whole text before each window.
    has_bos: whether position 0 of each window is BOS.
    """

    ids: Int[Tensor, "batch position"]
    lengths: Int[Tensor, " batch"]
    text_bytes: Int[Tensor, " batch"]
    first_bytes: Int[Tensor, " batch"]
    text_starts: Int[Tensor, " batch"]
    has_bos: bool

    def __len__(self) -> int:
        return self.ids.shape[0]

    @property
    def text_tokens(self) -> int:
        """Tokens of text, BOS not counted."""
        return int(self.lengths.sum()) - len(self) * self.has_bos

    def take(self, indices: Sequence[int]) -> "Windows":
        """Only these windows, in this order."""
        chosen = torch.tensor(list(indices), dtype=torch.long)
        ids, lengths = self.ids[chosen], self.lengths[chosen]
        of_text = (self.text_bytes[chosen], self.first_bytes[chosen], self.text_starts[chosen])
        return Windows(ids, lengths, *of_text, self.has_bos)

    def real(self) -> Bool[Tensor, "batch position"]:
        """Which places hold a token and no padding."""
        return torch.arange(self.ids.shape[1]) < self.lengths[:, None]

    def rows(self) -> list[list[int]]:
        """The ids of each window, without padding."""
        return [row[:length] for row, length in zip(self.ids.tolist(), self.lengths.tolist(), strict=True)]

    def trimmed(self) -> "Windows":
        """Without the columns that are padding in every window."""
        return replace(self, ids=self.ids[:, : int(self.lengths.max())])


def window_length(*contexts: int) -> int:
    """Tokens of a window, BOS included, for models that know so many positions: never more than any of them knows."""
    return max(_SHORTEST, min(WINDOW, *contexts))


def beginning(tokenizer: TextTokenizer) -> list[int]:
    """What every window begins with: BOS, or nothing."""
    return [tokenizer.bos_id] if tokenizer.adds_bos and tokenizer.bos_id is not None else []


def cut_into_windows(text: str, tokenizer: TextTokenizer, length: int = WINDOW) -> Windows:
    """Tokenise `text` and lay windows end to end through it, as the module docstring says."""
    return _side_by_side(_laid(tokenizer.encode(text), text, 0, tokenizer, length), length, tokenizer)


def cut_again(windows: Windows, text: str, tokenizer: TextTokenizer, length: int) -> Windows:
    """The same tokens in windows of at most `length` of them.  text: the whole, of which `windows` may be a part."""
    whole, skipped = text.encode("utf-8"), int(windows.has_bos)
    pieces: list[_Piece] = []
    for ids, start, size in zip(windows.rows(), windows.text_starts.tolist(), windows.text_bytes.tolist(), strict=True):
        piece = whole[start : start + size].decode("utf-8")
        pieces += _laid(ids[skipped:], piece, start, tokenizer, length)
    return _side_by_side(pieces, length, tokenizer)


@dataclass(frozen=True)
class _Piece:
    """One window without BOS.  start, size: bytes of text before it, and of its own.  first: of its first token."""

    ids: list[int]
    start: int
    size: int
    first: int


def _laid(ids: list[int], text: str, start: int, tokenizer: TextTokenizer, length: int) -> Iterator[_Piece]:
    """Windows end to end through the tokens of `text`, which begins at byte `start` of a whole."""
    room, place, offset = length - len(beginning(tokenizer)), 0, 0
    while place < len(ids):
        stop, piece = _whole_characters(ids, place, min(place + room, len(ids)), text, offset, tokenizer)
        size = len(piece.encode("utf-8"))
        yield _Piece(ids[place:stop], start, size, _first_token_bytes(ids[place:stop], piece, tokenizer))
        place, offset, start = stop, offset + len(piece), start + size


def _side_by_side(pieces: Iterable[_Piece], length: int, tokenizer: TextTokenizer) -> Windows:
    pieces, bos = list(pieces), beginning(tokenizer)
    ids, lengths = padded([bos + piece.ids for piece in pieces], length)
    sizes = torch.tensor([(piece.size, piece.first, piece.start) for piece in pieces], dtype=torch.long).view(-1, 3)
    text_bytes, first_bytes, text_starts = sizes.unbind(1)
    return Windows(ids, lengths, text_bytes, first_bytes, text_starts, bool(bos))


def padded(
    windows: Sequence[Sequence[int]], length: int
) -> tuple[Int[Tensor, "batch position"], Int[Tensor, " batch"]]:
    """Windows of ids side by side, with token 0 on the right up to `length`, and how long each one is."""
    ids = torch.zeros(len(windows), length, dtype=torch.long)
    for row, window in enumerate(windows):
        ids[row, : len(window)] = torch.tensor(window)
    return ids, torch.tensor([len(window) for window in windows], dtype=torch.long)


def _whole_characters(
    ids: list[int], start: int, stop: int, text: str, offset: int, tokenizer: TextTokenizer
) -> tuple[int, str]:
    """The last place at or before `stop` where ids[start:place] is whole characters of text[offset:], and those."""
    if stop == len(ids):
        return stop, text[offset:]
    places = range(stop, max(start, stop - _LONGEST_SPLIT), -1)
    for replacement_may_end in (False, True):  # "\ufffd" at the end is most likely half a character
        for place in places:
            piece = _matching(tokenizer.decode(ids[start:place]), text, offset)
            if piece is not None and (replacement_may_end or not piece.endswith("\ufffd")):
                return place, piece
    raise SmidgenError(
        f"The tokenizer does not give the text back near character {offset}, so its bytes cannot be counted. "
        "Remove unusual characters there."
    )


def _matching(decoded: str, text: str, offset: int) -> str | None:
    """`decoded` as it stands in text[offset:]. Tokenizers that put a space before text take one off each piece."""
    return next((piece for piece in (decoded, " " + decoded) if text.startswith(piece, offset)), None)


def _first_token_bytes(ids: list[int], piece: str, tokenizer: TextTokenizer) -> int:
    """UTF-8 bytes of the first token; where a character is spread over several tokens, an equal share of them."""
    for count in range(1, len(ids)):
        first = _matching(tokenizer.decode(ids[:count]), piece, 0)
        if first and not first.endswith("\ufffd"):
            return round(len(first.encode("utf-8")) / count)
    return round(len(piece.encode("utf-8")) / len(ids))


def choose_windows(count: int, wanted: int, seed: int, exclude: Collection[int] = ()) -> list[int]:
    """Indices of `wanted` of `count` windows, spread evenly through the text from a seeded start, in order.

    All that are left after `exclude`, if fewer. Same arguments, same choice, on every machine.
    """
    excluded = set(exclude)
    free = [index for index in range(count) if index not in excluded]
    if wanted >= len(free):
        return free
    stride = len(free) / wanted
    first = random.Random(seed).random() * stride
    return [free[min(int(first + step * stride), len(free) - 1)] for step in range(wanted)]


def spread(windows: Windows, tokens: int | None, seed: int) -> Windows:
    """About `tokens` tokens of the windows (rounded up to whole windows), spread evenly; all of them for None."""
    if tokens is None or tokens >= windows.text_tokens:
        return windows
    room = windows.ids.shape[1] - windows.has_bos
    return windows.take(choose_windows(len(windows), -(-tokens // room), seed))


def overlap(calibration: Iterable[Sequence[int]], evaluation: Iterable[Sequence[int]], gram: int = 8) -> float:
    """Share of the evaluation text's runs of `gram` tokens that also occur in the calibration text, 0 to 1.

    Texts that are measured on what they were calibrated on give figures that are too good. Runs are compared by a
    64-bit hash; texts shorter than one run share nothing.
    """
    known = _grams(calibration, gram)
    asked = _grams(evaluation, gram)
    return float(np.isin(asked, known).mean()) if asked.size else 0.0


def _grams(sequences: Iterable[Sequence[int]], gram: int) -> np.ndarray:
    hashes = [np.zeros(0, np.uint64)]
    for sequence in sequences:
        ids = np.asarray(sequence, dtype=np.uint64)
        if len(ids) < gram:
            continue
        value = np.zeros(len(ids) - gram + 1, np.uint64)
        for step in range(gram):  # a polynomial in an odd multiplier, modulo 2^64, over all places at once
            value = value * np.uint64(0x9E3779B97F4A7C15) + ids[step : len(ids) - gram + 1 + step] + np.uint64(1)
        hashes.append(value)
    return np.concatenate(hashes)
