"""JSON Lines from people and strangers: one object a line, read one at a time, each fault named by its line.

https://jsonlines.org/. UTF-8 alone, lines of bounded length, also packed with gzip (.gz). Torch-free.
"""

import gzip
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Protocol

from smidgen.errors import BadFile, printable

#: Bytes of the longest line that is read.
LONGEST_LINE = 64 << 20
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"


class Malformed(Protocol):
    """What is done about a line that is of no use: raise, or count it and go on."""

    def __call__(self, message: str) -> None: ...


def stop(message: str) -> None:
    """Raises BadFile: for who wants no line skipped."""
    raise BadFile(f"{message} Repair it, or skip such lines with --skip-bad.")


@dataclass(frozen=True)
class Line:
    """number: from 1.  end: bytes of the file, unpacked, up to its end.  value: what it says."""

    number: int
    end: int
    value: dict[str, Any]


def objects(path: Path, malformed: Malformed) -> Iterator[Line]:
    """Every line that is a JSON object; lines that are none, or empty, go to `malformed`.

    Raises BadFile where the file is missing or cannot be read.
    """
    end = 0
    for number, line in lines(path, malformed):
        where, end = f"{printable(path)} line {number}", end + len(line)
        text = decoded(line, where, malformed)
        if text is None:
            continue
        if not text.strip():
            malformed(f"{where} is empty.")
            continue
        try:
            value = json.loads(text)
        except (ValueError, RecursionError) as error:
            malformed(f"{where} is not JSON: {printable(error)}.")
            continue
        if isinstance(value, dict):
            yield Line(number, end, value)
        else:
            malformed(f"{where} is no JSON object but a {type(value).__name__}.")


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
