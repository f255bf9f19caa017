"""Between people and their shell: paths as people say them, and commands for them to paste. Torch-free."""

import os
import shlex
from collections.abc import Iterable
from pathlib import Path

from smidgen.errors import SmidgenError, printable


def as_word(path: str | os.PathLike[str]) -> str:
    """A path as one word of a command: quoted where a shell would see more in it, and never taken for an option.

    A name with control characters, which no terminal shows as it is, becomes the word DIR.
    """
    text = os.fspath(path)
    if not text.isprintable():
        return "DIR"
    return shlex.quote(f"./{text}" if text.startswith("-") else text)


def command_of(words: Iterable[str]) -> str:
    """Words as a command to paste: quoted where a shell would see more in one."""
    return " ".join(shlex.quote(word) for word in words)


def path_of(said: str | os.PathLike[str]) -> Path:
    """The path that a person says: `~` and `~name` at its beginning are a home folder, as in a shell; `./~` is a name.

    Such a name comes back as an absolute path, since a `Path` drops the `./`. Raises SmidgenError for the home of a
    user that is not known here.
    """
    text = os.fspath(said)
    if not text.startswith("~"):
        path = Path(text)
        return Path(os.path.abspath(text)) if str(path).startswith("~") else path
    try:
        return Path(text).expanduser()
    except RuntimeError as error:
        raise SmidgenError(
            f"{printable(text)} begins with the home folder of a user that is not known here; say "
            f"./{printable(text)} for something of that name."
        ) from error
