"""One vote between two models, as whoever lets people (or a judge model) compare answers writes it.

A file of votes is JSON Lines (UTF-8, one object a line, only ever appended to), which `smidgen arena --votes` ranks:

    {"model_a": "gemma-3-270m", "model_b": "gemma-small", "winner": "model_a", "vote_id": "5f0c…",
     "time": "2026-11-29T12:00:00Z", "judge": "person", "prompt": "Why is the sky blue?"}

    model_a, model_b  the two models by name; A is the one whose answer was shown first
    winner            model_a, model_b, tie (both are as good), or both_bad (neither is good; ranked as a tie)
    vote_id           of this vote alone: a line that comes twice is then found
    time              when, in UTC
    judge             who decided: `person`, or the name of a model
    prompt            what was asked; only where the person agreed that it is kept

The last four may be missing. Readers ignore fields that they do not know.

`smidgen ui` keeps votes in an SQLite file instead, one a row of the table `votes`, with the same names for its columns
and more of them (showing/ballots.py); `smidgen arena` reads that, too.
"""

import json
import os
import stat
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal, get_args
from uuid import uuid4

from smidgen.errors import SmidgenError, printable

try:
    import fcntl
except ImportError:  # Windows; there two writers at once are not kept apart
    fcntl = None

Winner = Literal["model_a", "model_b", "tie", "both_bad"]
WINNERS: tuple[Winner, ...] = get_args(Winner)
LONGEST_NAME = 256  # characters of a model's name
VOTES_TABLE = "votes"  # of an SQLite file


def now() -> str:
    """The time as a vote states it: UTC, to the second."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


@dataclass(frozen=True)
class Vote:
    """See the top of the file. vote_id and time are made where they are not given.

    Raises SmidgenError for a winner that is none of the four, names that are empty or too long, and a model against
    itself.
    """

    model_a: str
    model_b: str
    winner: Winner
    vote_id: str = field(default_factory=lambda: uuid4().hex)
    time: str = field(default_factory=now)
    judge: str | None = None
    prompt: str | None = None

    def __post_init__(self) -> None:
        if self.winner not in WINNERS:
            raise SmidgenError(f"A vote's winner is {printable(self.winner, 40)}; it must be {', '.join(WINNERS)}.")
        for name in (self.model_a, self.model_b):
            if not name.strip() or len(name) > LONGEST_NAME:
                raise SmidgenError(f"A model's name must have 1 to {LONGEST_NAME} characters: {printable(name, 60)!r}.")
        if self.model_a == self.model_b:
            raise SmidgenError(f"A vote compares {printable(self.model_a)} with itself.")

    def as_line(self) -> str:
        """The vote as a line of a file, its end included."""
        told = {key: value for key, value in asdict(self).items() if value is not None}
        return json.dumps(told, ensure_ascii=False) + "\n"


def append_vote(path: Path, vote: Vote) -> None:
    """Add one vote to a file, which is made where there is none.

    The line is there whole or not at all, also when several processes append at once, and on the disk when this
    returns. Raises SmidgenError where the file is none of votes as JSON Lines, or cannot be written.
    """
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | getattr(os, "O_BINARY", 0), 0o666)
        try:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                raise SmidgenError(f"{printable(path)} is not a regular file; choose another for votes.")
            if fcntl is not None:
                with suppress(OSError):  # a file system without locks
                    fcntl.flock(descriptor, fcntl.LOCK_EX)
            _append(descriptor, vote.as_line().encode("utf-8"), path)
        finally:
            os.close(descriptor)  # which gives the lock back
    except (OSError, ValueError) as error:  # ValueError: a zero byte in the name, half a surrogate pair in a text
        reason = getattr(error, "strerror", None) or printable(error)
        raise SmidgenError(f"The vote cannot be added to {printable(path)}: {reason}.") from error


def _append(descriptor: int, line: bytes, path: Path) -> None:
    """Write the line at the end, or leave the file as it was."""
    end = os.lseek(descriptor, 0, os.SEEK_END)
    if end:
        os.lseek(descriptor, 0, os.SEEK_SET)
        if os.read(descriptor, 1) != b"{":
            raise SmidgenError(f"{printable(path)} is no file of votes as JSON Lines; choose another name.")
        os.lseek(descriptor, end - 1, os.SEEK_SET)
        if os.read(descriptor, 1) != b"\n":
            line = b"\n" + line  # after a power cut, or an editor
    try:
        written = 0
        while written < len(line):
            written += os.write(descriptor, line[written:])
        os.fsync(descriptor)
    except OSError:
        os.ftruncate(descriptor, end)
        raise
