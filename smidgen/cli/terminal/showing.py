"""An answer on its way to stdout: as it is in a pipe, harmless on a terminal."""

import re
import sys
from typing import Protocol, TextIO

from smidgen.errors import SmidgenError

# What would move the cursor, change colours or titles, or turn the direction of writing. Unicode has pictures of the
# first 32 control characters and of the last one in ASCII.
_HARMFUL = re.compile("\r(?=\n)|[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")


class Shown(Protocol):
    """Where an answer is shown, piece by piece; `end` once, however it ended."""

    def piece(self, text: str) -> None:
        """Show what came."""
        ...

    def end(self) -> None:
        """No more comes."""
        ...


class PlainText:
    """The answer as it is, each piece at once; a line end after it."""

    def __init__(self, file: TextIO) -> None:
        self._file = file

    def piece(self, text: str) -> None:
        """Show what came."""
        self._file.write(harmless(text) if self._file.isatty() else text)
        self._file.flush()

    def end(self) -> None:
        """No more comes."""
        self._file.write("\n")
        self._file.flush()


def harmless(text: str) -> str:
    """Text for a terminal: characters that would change the terminal itself become pictures of themselves."""
    return _HARMFUL.sub(_picture, text)


def _picture(found: re.Match[str]) -> str:
    code = ord(found[0])
    if code == 0x0D and found.string[found.end() : found.end() + 1] == "\n":
        return ""
    if code < 0x20:
        return chr(0x2400 + code)
    return "\u2421" if code == 0x7F else "\ufffd"


def answer_stdout() -> TextIO:
    """Stdout, for an answer. Raises SmidgenError where it was closed: an answer that nobody gets is not written."""
    if sys.__stdout__ is None:
        raise SmidgenError("stdout is closed, so there is no place for the answer; give one, such as > answer.txt.")
    return sys.stdout
