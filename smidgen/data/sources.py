"""Texts to calibrate on and to measure with: named, hashed and read strictly. Torch-free."""

import hashlib
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from smidgen.errors import BadFile, SmidgenError, printable

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"


@dataclass(frozen=True)
class TextSource:
    """One text. sha256: of its UTF-8 bytes, without a byte order mark. language: from `NAME=FILE`, else None.

    self_written: a model wrote it.
    """

    name: str
    text: str
    sha256: str
    path: Path | None = None
    language: str | None = None
    self_written: bool = False

    @classmethod
    def of(
        cls, name: str, text: str, path: Path | None = None, language: str | None = None, *, self_written: bool = False
    ) -> "TextSource":
        """A source of text already in memory."""
        return cls(name, text, hashlib.sha256(text.encode("utf-8")).hexdigest(), path, language, self_written)


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
    return TextSource.of(printable(name or path.name), text, path, name)


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


def read_texts(arguments: Iterable[str | Path | TextSource]) -> list[TextSource]:
    """`read_text` for each that is not read yet. Two texts of one name are refused: results are listed by name."""
    sources = [argument if isinstance(argument, TextSource) else read_text(argument) for argument in arguments]
    seen: set[str] = set()
    for source in sources:
        if source.name in seen:
            raise SmidgenError(f"Two texts are named {printable(source.name)}. Tell them apart as in --text NAME=FILE.")
        seen.add(source.name)
    return sources
