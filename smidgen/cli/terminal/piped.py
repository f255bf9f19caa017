"""Messages from a pipe or a file: each line is one, and so are the lines between three quotes and three quotes."""

import codecs
import sys

from smidgen.errors import SmidgenError

BLOCK = '"""'


class PipedMessages:
    """Reads stdin, UTF-8. Indentation stays; line ends, and a byte order mark at the beginning, are no text."""

    def __init__(self) -> None:
        if sys.stdin is None:
            raise SmidgenError("stdin is closed; pipe messages in, or start the command in a terminal.")
        self._begin = True

    def ask(self) -> str:
        """One message; an empty line is an empty one. Raises EOFError at the end, SmidgenError for what is not text."""
        lines = [self._line()]
        if lines[0].startswith(BLOCK):
            try:
                while not (lines[-1].rstrip().endswith(BLOCK) and len("\n".join(lines).rstrip()) >= 2 * len(BLOCK)):
                    lines.append(self._line())
            except EOFError:
                raise SmidgenError('a message on stdin begins with """ and has no """ at its end.') from None
        return inside_block("\n".join(lines))

    def _line(self) -> str:
        raw = sys.stdin.buffer.readline()
        if not raw:
            raise EOFError
        if self._begin:
            raw, self._begin = raw.removeprefix(codecs.BOM_UTF8), False
        try:
            return raw.removesuffix(b"\n").removesuffix(b"\r").decode()
        except UnicodeDecodeError as error:
            raise SmidgenError(f"a line on stdin is not UTF-8 text ({error.reason}).") from error


def inside_block(text: str) -> str:
    """A message without the three quotes around it, where both are there."""
    whole = text.rstrip()
    if len(whole) < 2 * len(BLOCK) or not (whole.startswith(BLOCK) and whole.endswith(BLOCK)):
        return text
    return whole[len(BLOCK) : -len(BLOCK)].removeprefix("\n").removesuffix("\n")
