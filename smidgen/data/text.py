"""Text to calibrate on and to measure with: named, hashed, read strictly, and cut into windows of tokens.

A window is at most `length` tokens: BOS first if the model's tokenizer adds one, then text tokens. Windows lie end
to end through the text, begin and end between whole characters, and the last may be shorter; so the windows of a
text hold each of its tokens exactly once, and the UTF-8 bytes of the windows add up to those of the text. (A window
is closed up to three tokens early where a character is spread over several tokens.)
"""

import hashlib
import random
import re
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from smidgen.errors import BadFile, SmidgenError, printable
from smidgen.shapes import Int

WINDOW = 512
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"
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
class TextSource:
    """One text. sha256: of its UTF-8 bytes, without a byte order mark. language: from `NAME=FILE`, else None."""

    name: str
    text: str
    sha256: str
    path: Path | None = None
    language: str | None = None

    @classmethod
    def of(cls, name: str, text: str, path: Path | None = None, language: str | None = None) -> "TextSource":
        """A source of text already in memory."""
        return cls(name, text, hashlib.sha256(text.encode("utf-8")).hexdigest(), path, language)


def read_text(argument: str | Path) -> TextSource:
    """Read `FILE`, or `NAME=FILE` as in `--text de=FILE`. A file whose own name holds a "=" is taken as a file.

    Raises BadFile: missing, not a file, empty, binary, or not UTF-8 (with the offset of the first bad byte).
    """
    path, name = Path(argument), None
    before, equals, after = str(argument).partition("=")
    if equals and _NAME.fullmatch(before) and not path.exists():
        path, name = Path(after), before
    try:
        data = path.read_bytes()
    except (OSError, ValueError) as error:  # ValueError: a zero byte in the name
        reason = (
            "no such file" if isinstance(error, FileNotFoundError) else getattr(error, "strerror", None) or str(error)
        )
        raise BadFile(f"Cannot read the text {printable(path)}: {reason}. Give a UTF-8 text file.") from error
    text = _decode_strictly(data.removeprefix(_BYTE_ORDER_MARK), len(data), path)
    return TextSource.of(name or path.name, text, path, name)


def _decode_strictly(data: bytes, size: int, path: Path) -> str:
    """size: of the file, byte order mark included, so that offsets are those of the file."""
    skipped, shown = size - len(data), printable(path)
    if not data.strip():
        raise BadFile(f"The text {shown} is empty. Give a UTF-8 text file.")
    zero = data.find(0)
    if zero >= 0:
        raise BadFile(f"{shown} is not text: a zero byte at offset {zero + skipped}. Give a UTF-8 text file.")
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        bad = f"byte 0x{data[error.start]:02x} at offset {error.start + skipped}"
        raise BadFile(f"{shown} is not UTF-8: {bad}. Convert it, for example with iconv.") from error


def read_texts(arguments: Iterable[str | Path]) -> list[TextSource]:
    """`read_text` for each. Two texts of one name are refused, since results are listed by name."""
    sources = [read_text(argument) for argument in arguments]
    seen: set[str] = set()
    for source in sources:
        if source.name in seen:
            raise SmidgenError(f"Two texts are named {printable(source.name)}. Tell them apart as in --text NAME=FILE.")
        seen.add(source.name)
    return sources


@dataclass(frozen=True)
class Windows:
    """Windows of tokens, padded on the right (with token 0), which a causal model cannot see.

    lengths: tokens of each window, BOS included.  text_bytes: UTF-8 bytes of the text of each window.
    first_bytes: those of its first token.  has_bos: whether position 0 of each window is BOS.
    """

    ids: Int[Tensor, "batch position"]
    lengths: Int[Tensor, " batch"]
    text_bytes: Int[Tensor, " batch"]
    first_bytes: Int[Tensor, " batch"]
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
        parts = (self.ids[chosen], self.lengths[chosen], self.text_bytes[chosen], self.first_bytes[chosen])
        return Windows(*parts, self.has_bos)

    def rows(self) -> list[list[int]]:
        """The ids of each window, without padding."""
        return [row[:length] for row, length in zip(self.ids.tolist(), self.lengths.tolist(), strict=True)]

    def trimmed(self) -> "Windows":
        """Without the columns that are padding in every window."""
        return replace(self, ids=self.ids[:, : int(self.lengths.max())])

    def full(self) -> Int[Tensor, "batch position"]:
        """The ids of the windows that need no padding: what calibration wants."""
        return self.ids[self.lengths == self.ids.shape[1]]


def cut_into_windows(text: str, tokenizer: TextTokenizer, length: int = WINDOW) -> Windows:
    """Tokenise `text` and lay windows end to end through it, as the module docstring says."""
    bos = [tokenizer.bos_id] if tokenizer.adds_bos and tokenizer.bos_id is not None else []
    room = length - len(bos)
    ids = tokenizer.encode(text)
    windows, sizes, firsts, start, offset = [], [], [], 0, 0
    while start < len(ids):
        stop, piece = _whole_characters(ids, start, min(start + room, len(ids)), text, offset, tokenizer)
        windows.append(bos + ids[start:stop])
        sizes.append(len(piece.encode("utf-8")))
        firsts.append(_first_token_bytes(ids[start:stop], piece, tokenizer))
        start, offset = stop, offset + len(piece)
    padded = torch.zeros(len(windows), length, dtype=torch.long)
    for row, window in enumerate(windows):
        padded[row, : len(window)] = torch.tensor(window)
    lengths, text_bytes, first_bytes = (
        torch.tensor(values, dtype=torch.long) for values in ([len(window) for window in windows], sizes, firsts)
    )
    return Windows(padded, lengths, text_bytes, first_bytes, bool(bos))


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
