"""Votes of people as an SQLite file, each with all that it takes to have both answers written again.

`smidgen arena --votes` reads the file. Several pages may write to one: a vote is there whole or not at all, and on the
disk when `add` returns. A file that is there already is one of votes or it is left alone.
"""

import os
import sqlite3
import stat
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import astuple, dataclass, fields
from pathlib import Path

from smidgen.errors import SmidgenError, printable
from smidgen.votes import VOTES_TABLE, Vote

_PATIENCE_S = 10.0  # while another page writes
_TYPES = {str: "TEXT NOT NULL", int: "INTEGER NOT NULL", float: "REAL NOT NULL"}
_TYPES |= {int | None: "INTEGER", str | None: "TEXT"}  # pyright: ignore[reportAssignmentType]


@dataclass(frozen=True)
class Ballot:
    """A vote and what it was about. model_a is the model whose answer was shown first; the order was drawn.

    sha256_a, sha256_b: of the models' files.  chat_a, chat_b: 1 where the model answered in its chat template, 0 where
    it continued the prompt as a text.  seed: of both draws.  max_tokens: null for no limit but the context.
    context_a, context_b: tokens.  tokens_a, tokens_b: of the answers.  stop_a, stop_b: why they ended.
    threads: null for the engine's own choice.  smidgen, engine: versions.
    """

    vote_id: str
    time: str
    model_a: str
    model_b: str
    winner: str
    judge: str
    prompt: str
    system: str
    answer_a: str
    answer_b: str
    sha256_a: str
    sha256_b: str
    chat_a: int
    chat_b: int
    temperature: float
    top_k: int
    top_p: float
    max_tokens: int | None
    seed: int
    context_a: int
    context_b: int
    threads: int | None
    tokens_a: int
    tokens_b: int
    stop_a: str | None
    stop_b: str | None
    smidgen: str
    engine: str

    def __post_init__(self) -> None:
        """Raises SmidgenError for what is no vote (see smidgen/votes.py)."""
        Vote(self.model_a, self.model_b, self.winner)  # pyright: ignore[reportArgumentType]


_COLUMNS = ",\n    ".join(
    f"{column.name} {_TYPES[column.type]}" + (" PRIMARY KEY" if column.name == "vote_id" else "")
    for column in fields(Ballot)
)  # fmt: skip
_SCHEMA = f"CREATE TABLE {VOTES_TABLE} (\n    {_COLUMNS}\n)"
_INSERT = f"INSERT INTO {VOTES_TABLE} VALUES ({', '.join('?' for _ in fields(Ballot))})"


class BallotBox:
    """The file at `path`, which is made where there is none.

    Raises SmidgenError where it is another kind of file, or cannot be read and written.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        with self._explained("votes cannot be kept in"):
            _create(path)
            with self._connection() as connection, connection:
                connection.execute("BEGIN IMMEDIATE")
                self._prepare(connection)

    def add(self, ballot: Ballot) -> int:
        """Keep a vote; returns how many there are now. Raises SmidgenError where it is not kept, as on a full disk."""
        with self._explained("the vote is not kept in"), self._connection() as connection:
            with connection:
                connection.execute("BEGIN IMMEDIATE")
                connection.execute(_INSERT, astuple(ballot))
            return int(connection.execute(f"SELECT count(*) FROM {VOTES_TABLE}").fetchone()[0])

    def _prepare(self, connection: sqlite3.Connection) -> None:
        found = connection.execute("SELECT type, name, sql FROM sqlite_master").fetchall()
        found = [(kind, sql) for kind, name, sql in found if not name.startswith("sqlite_autoindex_")]
        if not found:
            connection.execute(_SCHEMA)
        elif found != [("table", _SCHEMA)]:
            raise SmidgenError(
                f"{printable(self.path)} is a database of something else, or of another version of smidgen; choose "
                "another name with --votes."
            )

    @contextmanager
    def _connection(self) -> Iterator[sqlite3.Connection]:
        """One for each vote, so that nothing is held between two."""
        with closing(sqlite3.connect(self.path, timeout=_PATIENCE_S, isolation_level=None)) as connection:
            connection.execute("PRAGMA trusted_schema = OFF")  # the file may be a stranger's
            connection.execute("PRAGMA synchronous = FULL")
            yield connection

    @contextmanager
    def _explained(self, what: str) -> Iterator[None]:
        try:
            yield
        except (sqlite3.Error, OSError, ValueError) as error:  # ValueError: a zero byte in the name
            raise SmidgenError(f"{what} {printable(self.path)}: {_reason(error)}.") from error


def _create(path: Path) -> None:
    """An empty file for the owner's eyes, where there is none. Raises OSError, SmidgenError for what is no file."""
    try:
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600))
    except FileExistsError:
        if not stat.S_ISREG(path.stat().st_mode):
            raise SmidgenError(f"{printable(path)} is not a regular file; choose another for votes.") from None


def _reason(error: Exception) -> str:
    code = getattr(error, "sqlite_errorname", "")
    if code.startswith("SQLITE_FULL"):
        return "the disk is full; free some space and vote again"
    if code.startswith("SQLITE_BUSY"):
        return "another program is writing to it; try again"
    if code.startswith(("SQLITE_NOTADB", "SQLITE_CORRUPT")):
        return "it is no SQLite file, or a damaged one; choose another with --votes"
    if code.startswith("SQLITE_CONSTRAINT_PRIMARYKEY"):
        return "there is a vote on these answers already"
    if code.startswith("SQLITE_READONLY"):
        return "it may only be read"
    return getattr(error, "strerror", None) or printable(error)
