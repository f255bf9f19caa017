"""Votes from an SQLite file, as `smidgen ui` keeps them: the table `votes` with model_a, model_b, winner and vote_id.

The file may be a stranger's. It is opened for reading only; what a view, a virtual table or a computed column would
carry out is refused, and SQLite's own limits bound what one row may hold.
"""

import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

from smidgen.errors import BadFile, printable
from smidgen.votes import VOTES_TABLE

_MAGIC = b"SQLite format 3\0"
_NEEDED = ("model_a", "model_b", "winner")
_COLUMNS = (*_NEEDED, "vote_id")
_PATIENCE_S = 10.0  # while a page writes to it
_LONGEST_VALUE = 16 << 20  # bytes, of a row too
_LONGEST_STATEMENT = 1 << 16
_MOST_COLUMNS = 200


def is_database(path: Path) -> bool:
    """Whether a file begins as SQLite's do."""
    try:
        with path.open("rb") as file:
            return file.read(len(_MAGIC)) == _MAGIC
    except OSError:
        return False  # whoever reads it next says why


def database_rows(path: Path) -> Iterator[tuple[int, Mapping[str, Any]]]:
    """Each vote with its number in the file, from 1. Raises BadFile for a file without votes, or a damaged one."""
    try:
        with closing(_opened(path)) as connection:
            columns = _columns(connection, path)
            rows = connection.execute(f"SELECT {', '.join(columns)} FROM {VOTES_TABLE}")
            for number, row in enumerate(rows, 1):
                yield number, dict(zip(columns, row, strict=True))
    except sqlite3.Error as error:
        raise BadFile(f"{printable(path)} cannot be read as an SQLite file: {printable(error)}.") from error


def _opened(path: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True, timeout=_PATIENCE_S)
    connection.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, _LONGEST_VALUE)
    connection.setlimit(sqlite3.SQLITE_LIMIT_SQL_LENGTH, _LONGEST_STATEMENT)
    connection.setlimit(sqlite3.SQLITE_LIMIT_COLUMN, _MOST_COLUMNS)
    connection.setlimit(sqlite3.SQLITE_LIMIT_ATTACHED, 0)
    connection.execute("PRAGMA trusted_schema = OFF")
    connection.execute("PRAGMA cell_size_check = ON")
    return connection


def _columns(connection: sqlite3.Connection, path: Path) -> list[str]:
    """Those to read. Raises BadFile where there is no plain table with them."""
    found = connection.execute("SELECT type, sql FROM sqlite_master WHERE name = ?", (VOTES_TABLE,)).fetchone()
    if found is None or found[0] != "table" or not str(found[1]).upper().startswith("CREATE TABLE"):
        raise BadFile(f"{printable(path)} is an SQLite file without a table {VOTES_TABLE}; `smidgen ui` writes one.")
    # hidden: 0 for a column that is stored, not computed
    stored = {name for _, name, *_, hidden in connection.execute(f"PRAGMA table_xinfo({VOTES_TABLE})") if hidden == 0}
    missing = [name for name in _NEEDED if name not in stored]
    if missing:
        raise BadFile(f"{printable(path)}: its table {VOTES_TABLE} lacks {', '.join(missing)}.")
    return [name for name in _COLUMNS if name in stored]
