"""The few kinds of error that smidgen raises on purpose.

Each message is one line that says what went wrong, what was found and what to do. The command line
prints it and exits with code 2; a traceback is shown only with `--debug`.
"""

import re

# What would move a terminal's cursor, change its colours or titles, or turn the direction of writing. Unicode has
# pictures of the first 32 control characters and of the last one in ASCII.
_HARMFUL = re.compile("\r(?=\n)|[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")


class SmidgenError(Exception):
    """Something a person can act on: bad input, an impossible wish, a full disk."""


class BadFile(SmidgenError):
    """A file that is not what it claims to be: truncated, corrupted, hostile or of an unknown kind."""


class Unsupported(SmidgenError):
    """A valid model or file that uses something smidgen cannot do yet."""


class EngineEnded(SmidgenError):
    """llama.cpp ended, or was ended, while it worked on a request. The next request finds it running again."""


class BudgetError(SmidgenError):
    """A size that cannot be met."""


def printable(text: object, longest: int = 160) -> str:
    """Text from outside (a path, a name in a file) for a one-line message: controls escaped, cut when long."""
    shown = str(text) if str(text).isprintable() else ascii(str(text))
    return shown if len(shown) <= longest else f"{shown[: longest // 2]}…{shown[-longest // 2 :]}"


def harmless(text: str) -> str:
    """Text for a terminal, of any length: characters that would change the terminal become pictures of themselves."""
    return _HARMFUL.sub(_picture, text)


def _picture(found: re.Match[str]) -> str:
    code = ord(found[0])
    if code == 0x0D and found.string[found.end() : found.end() + 1] == "\n":
        return ""
    if code < 0x20:
        return chr(0x2400 + code)
    return "\u2421" if code == 0x7F else "\ufffd"
