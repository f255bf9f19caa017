"""JSON Lines from people and strangers: one object a line, read one at a time, each fault named by its line.

https://jsonlines.org/. UTF-8 alone, lines of bounded length, also packed with gzip (.gz). Lines of white space are
nothing. A file named .json may also be one list of objects: its entries are read like lines. Torch-free.
"""

import gzip
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Protocol

from smidgen.data.json_array import Elements
from smidgen.errors import BadFile, printable

#: Bytes of the longest line that is read.
LONGEST_LINE = 64 << 20
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"
_PIECE = 1 << 16  # bytes of a list that are read at once


class Malformed(Protocol):
    """What is done about a line that is of no use: raise, or count it and go on."""

    def __call__(self, message: str) -> None: ...


def stop(message: str) -> None:
    """Raises BadFile: for who wants no line skipped."""
    raise BadFile(f"{message} Repair it, or skip such lines with --skip-bad.")


@dataclass(frozen=True)
class Line:
    """A line that says something, or an entry of a list.

    number: from 1.  end: bytes of the file, unpacked, up to its end.  value: what it says.  where: its file and number.
    """

    number: int
    end: int
    value: dict[str, Any]
    where: str


def objects(path: Path, malformed: Malformed) -> Iterator[Line]:
    """Every line that is a JSON object; lines that are none go to `malformed`, those of white space are passed over.

    Raises BadFile where the file is missing or cannot be read.
    """
    for number, end, raw, where in (_entries if _is_list(path) else _lines_to_their_ends)(path, malformed):
        text = decoded(raw, where, malformed)
        if text is None or not text.strip():
            continue
        try:
            value = json.loads(text)
        except (ValueError, RecursionError) as error:
            malformed(f"{where} is not JSON: {printable(error)}.")
            continue
        if isinstance(value, dict):
            yield Line(number, end, value, where)
        else:
            malformed(f"{where} is no JSON object but a {type(value).__name__}.")


def _lines_to_their_ends(path: Path, malformed: Malformed) -> Iterator[tuple[int, int, bytes, str]]:
    """Of each line the number, the bytes of the file up to its end, its own, and what to call it."""
    end = 0
    for number, line in lines(path, malformed):
        end += len(line)
        yield number, end, line, f"{printable(path)} line {number}"


def _entries(path: Path, malformed: Malformed) -> Iterator[tuple[int, int, bytes, str]]:
    """The same of each entry of a list."""
    elements, number = Elements(_pieces(path), LONGEST_LINE), 0
    for number, (end, raw) in enumerate(elements, 1):
        where = f"{printable(path)} entry {number}"
        if raw is None:
            malformed(f"{where} is longer than {LONGEST_LINE >> 20} MiB.")
        elif raw.strip():
            yield number, end, raw, where
        else:
            malformed(f"{where} is empty.")
    if not elements.closed:
        malformed(f"{printable(path)} is cut off: its list does not end, after {number} entries.")
    elif elements.rest:
        malformed(f"{printable(path)} goes on behind its list, after {number} entries.")


def _is_list(path: Path) -> bool:
    """Whether a file is named as one JSON value, and begins as a list."""
    name = path.name.lower().removesuffix(".gz")
    return name.endswith(".json") and next(_pieces(path), b"").startswith(b"[")


def _pieces(path: Path) -> Iterator[bytes]:
    """The bytes of a file from the first on that is not blank, some at a time."""
    with _opened(path) as file:
        try:
            begun = file.read(_PIECE).removeprefix(_BYTE_ORDER_MARK).lstrip()
            while begun:
                yield begun
                begun = file.read(_PIECE)
        except (EOFError, OSError) as error:  # of gzip: cut off, or not gzip at all
            reason = getattr(error, "strerror", None) or str(error)
            raise BadFile(f"Cannot read {printable(path)}: {reason}.") from error


def lines(path: Path, malformed: Malformed) -> Iterator[tuple[int, bytes]]:
    """Number and bytes of each line, its end included. One that is too long is malformed and never in memory."""
    number = 0
    with _opened(path) as file:
        while True:
            try:
                line = file.readline(LONGEST_LINE + 1)
                whole = len(line) <= LONGEST_LINE
                while line and not whole and not line.endswith(b"\n"):
                    line = file.readline(LONGEST_LINE)
            except (EOFError, OSError) as error:  # of gzip: cut off, or not gzip at all
                reason = getattr(error, "strerror", None) or str(error)
                raise BadFile(f"Cannot read {printable(path)} after line {number}: {reason}.") from error
            if whole and not line:
                return
            number += 1
            if whole:
                yield number, line.removeprefix(_BYTE_ORDER_MARK) if number == 1 else line
            else:
                malformed(f"{printable(path)} line {number} is longer than {LONGEST_LINE >> 20} MiB.")


def _opened(path: Path) -> BinaryIO:
    try:
        return gzip.open(path) if path.suffix.lower() == ".gz" else path.open("rb")  # type: ignore[return-value]
    except (OSError, ValueError) as error:  # ValueError: a zero byte in the name
        reason = "no such file" if isinstance(error, FileNotFoundError) else getattr(error, "strerror", None) or error
        raise BadFile(f"Cannot read {printable(path)}: {reason}.") from error


def decoded(line: bytes, where: str, malformed: Malformed) -> str | None:
    """A line as text; None for one that is none and is passed over."""
    if 0 in line:
        malformed(f"{where} is not text: it holds a zero byte.")
        return None
    try:
        return line.decode("utf-8")
    except UnicodeDecodeError as error:
        malformed(f"{where} is not UTF-8: byte 0x{line[error.start]:02x} at offset {error.start} of the line.")
        return None
