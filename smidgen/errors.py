"""The few kinds of error that smidgen raises on purpose.

Each message is one line that says what went wrong, what was found and what to do. The command line
prints it and exits with code 2; a traceback is shown only with `--debug`.
"""


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
