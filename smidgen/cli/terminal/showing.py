"""An answer on its way to stdout: as it is in a pipe, harmless on a terminal."""

import sys
from typing import Protocol, TextIO

from smidgen.errors import SmidgenError, harmless


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


def answer_stdout() -> TextIO:
    """Stdout, for an answer. Raises SmidgenError where it was closed: an answer that nobody gets is not written."""
    if sys.__stdout__ is None:
        raise SmidgenError("stdout is closed, so there is no place for the answer; give one, such as > answer.txt.")
    return sys.stdout
