"""Commands that are printed, or written into a README, for people to paste into a shell. Torch-free."""

import os
import shlex


def as_word(path: str | os.PathLike[str]) -> str:
    """A path as one word of a command: quoted where a shell would see more in it, and never taken for an option.

    A name with control characters, which no terminal shows as it is, becomes the word DIR.
    """
    text = os.fspath(path)
    if not text.isprintable():
        return "DIR"
    return shlex.quote(f"./{text}" if text.startswith("-") else text)
