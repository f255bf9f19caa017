"""Reads votes between models from files of strangers: CSV with a header, or JSON Lines, both also packed with gzip; or
the SQLite file of `smidgen ui` (database.py).

Each row names two models and the winner. Known are the columns of public arenas, `model_a,model_b,winner`, and of
side-by-side sheets, `left,right,winner`; other columns are ignored, but for ids. What `winner` may say is in `WORDS`;
nothing is guessed. Our own format is described in smidgen/votes.py.

Votes are counted as they are read, so that millions of them take little memory.
"""

import csv
import hashlib
import stat
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from smidgen.data import json_lines
from smidgen.data.json_lines import Malformed
from smidgen.errors import BadFile, SmidgenError, printable
from smidgen.measuring.arena.database import database_rows, is_database
from smidgen.votes import LONGEST_NAME, Winner

_PAIRS = (("model_a", "model_b"), ("left", "right"))
#: What `winner` may say, besides a model's name. Letter case and spaces at the ends do not matter.
WORDS: dict[str, Winner] = {
    "model_a": "model_a", "model_b": "model_b", "a": "model_a", "b": "model_b", "left": "model_a", "right": "model_b",
    "tie": "tie", "draw": "tie", "tie (inconsistent)": "tie",
    "tie (bothbad)": "both_bad", "bothbad": "both_bad", "both_bad": "both_bad",
}  # fmt: skip
_OWN_ID = "vote_id"  # of one vote; the other ids may stand for a question that several people were asked
_IDS = (_OWN_ID, "question_id", "battle_id", "evaluation_session_id", "id")
MOST_VOTES = 5_000_000
_MOST_BYTES = 8 << 30  # unpacked
_MOST_EMPTY_LINES = 1_000_000
_LONGEST_FIELD = 16 << 20  # of a CSV: some hold whole conversations
_SHOWN_COLUMNS = 8


@dataclass(frozen=True)
class VotesFile:
    """One file that was read. skipped: rows that were of no use, where that was allowed."""

    name: str
    sha256: str
    votes: int
    skipped: int


@dataclass
class Ballots:
    """All votes: how often each model was better than which other, and how often neither was.

    counts: (model_a, model_b, winner) → how many.  files: where they are from.  total: the votes counted.
    """

    counts: Counter[tuple[str, str, Winner]] = field(default_factory=Counter)
    files: list[VotesFile] = field(default_factory=list)

    total: int = 0

    def add(self, model_a: str, model_b: str, winner: Winner) -> None:
        """Count one vote."""
        self.counts[model_a, model_b, winner] += 1
        self.total += 1

    @property
    def models(self) -> list[str]:
        """Every model that was voted on, by name."""
        return sorted({name for pair in self.counts for name in pair[:2]})


def read_votes(paths: Sequence[Path], *, skip_bad: bool = False) -> Ballots:
    """The votes of one or several files.

    skip_bad: leave out rows that are of no use, and count them, where otherwise the first of them is an error.
    Raises BadFile for files that are missing, too large, empty, without the columns, or hold the same vote twice or one
    that says nothing; SmidgenError where a file is given twice, and for names that differ only in case or spaces.
    """
    ballots, seen = Ballots(), set[int]()
    for path in paths:
        sha256 = _sha256(path)
        same = next((file.name for file in ballots.files if file.sha256 == sha256), None)
        if same is not None:
            raise SmidgenError(f"{printable(path)} and {printable(same)} are the same votes; give them once.")
        reader = _Reader(path, ballots, seen, skip_bad)
        reader.read()
        ballots.files.append(VotesFile(path.name, sha256, reader.votes, reader.skipped))
    _refuse_alike(ballots.models)
    return ballots


class _Reader:
    """Counts the votes of one file."""

    def __init__(self, path: Path, ballots: Ballots, seen: set[int], skip_bad: bool) -> None:
        self._path, self._ballots, self._seen, self._skip_bad = path, ballots, seen, skip_bad
        self._is_database = is_database(path)
        self.votes = self.skipped = 0

    def read(self) -> None:
        row_of = f"{printable(self._path)} {'vote' if self._is_database else 'line'}"
        for number, row in self._rows():
            vote = self._vote(f"{row_of} {number}", row)
            if vote is not None:
                self._ballots.add(*vote)
                self.votes += 1
                if self._ballots.total > MOST_VOTES:
                    raise BadFile(f"{printable(self._path)} has too many votes: {MOST_VOTES:,} in all are read.")
        if not self.votes:
            left_out = f", but {self.skipped} rows that are of no use" if self.skipped else ""
            raise BadFile(f"{printable(self._path)} holds no votes{left_out}.")

    def _malformed(self, message: str) -> None:
        if not self._skip_bad:
            json_lines.stop(message)
        self.skipped += 1

    def _rows(self) -> Iterator[tuple[int, Mapping[str, Any]]]:
        if self._is_database:
            yield from database_rows(self._path)
            return
        first = b""
        for number, line in json_lines.lines(self._path, json_lines.stop):
            _refuse_empty_lines(number - 1, self._path)
            if first := line.strip():
                break
        if not first:
            raise BadFile(f"{printable(self._path)} is empty; a file of votes begins with a line of columns.")
        if first.startswith(b"["):
            raise BadFile(f"{printable(self._path)} is one JSON list; write one object a line (JSON Lines) or a CSV.")
        if first.startswith(b"{"):
            for line in json_lines.objects(self._path, self._malformed):
                _refuse_length(line.end, self._path)
                yield line.number, line.value
        else:
            yield from _csv_rows(self._path, self._malformed)

    def _vote(self, where: str, row: Mapping[str, Any]) -> tuple[str, str, Winner] | None:
        """The two models and the winner; None for a row that was passed over."""
        pair = next((pair for pair in _PAIRS if all(row.get(column) is not None for column in pair)), None)
        if pair is None or row.get("winner") is None:
            return self._malformed(f"{where} lacks model_a, model_b or winner; it has {_shown(row)}.")
        texts = [row[pair[0]], row[pair[1]], row["winner"]]
        if not all(isinstance(text, str) for text in texts):
            return self._malformed(f"{where}: model_a, model_b and winner must be texts.")
        model_a, model_b, said = (text.strip() for text in texts)
        if not model_a or not model_b or max(len(model_a), len(model_b)) > LONGEST_NAME:
            return self._malformed(f"{where}: a model's name must have 1 to {LONGEST_NAME} characters.")
        if model_a == model_b:
            return self._malformed(f"{where} compares {printable(model_a, 60)} with itself.")
        winner = self._winner(where, said, model_a, model_b)
        if winner is None or self._is_double(where, row):
            return None
        return model_a, model_b, winner

    def _winner(self, where: str, said: str, model_a: str, model_b: str) -> Winner | None:
        by_word = WORDS.get(said.casefold())
        by_name: Winner | None = "model_a" if said == model_a else "model_b" if said == model_b else None
        if by_word and by_name and by_word != by_name:
            meant = f"{where}: the winner {printable(said, 60)!r} is a model's name and also means {by_word}"
            return self._malformed(f"{meant}; write model_a or model_b.")
        if by_word or by_name:
            return by_word or by_name
        names = f"neither {printable(model_a, 60)} nor {printable(model_b, 60)}"
        known = "model_a, model_b, a, b, left, right, tie, both_bad"
        return self._malformed(f"{where}: the winner {printable(said, 60)!r} is {names}, nor one of {known}.")

    def _is_double(self, where: str, row: Mapping[str, Any]) -> bool:
        """Whether this very vote was read before: the same `vote_id`, or the same id and everything else alike."""
        ids = [name for name in _IDS if str(row.get(name) or "").strip()]
        if not ids:
            return False
        told = (_OWN_ID, row[_OWN_ID]) if ids[0] == _OWN_ID else sorted((key, str(row[key])) for key in row)
        mark = int.from_bytes(hashlib.blake2b(repr(told).encode("utf-8", "replace"), digest_size=8).digest())
        if mark in self._seen:
            self._malformed(f"{where} is a vote that came before: {ids[0]} {printable(row[ids[0]], 60)}.")
            return True
        self._seen.add(mark)
        return False


def _csv_rows(path: Path, malformed: Malformed) -> Iterator[tuple[int, Mapping[str, Any]]]:
    shown = printable(path)
    reader, empty = csv.reader(_text_lines(path), skipinitialspace=True, strict=True), 0
    with _long_fields():
        try:
            header = [name.strip() for name in next(reader)]
            if len(set(header)) < len(header):
                raise BadFile(f"{shown} has a column twice: {printable(', '.join(header))}.")
            if "winner" not in header or not any(set(pair) <= set(header) for pair in _PAIRS):
                found = _shown(dict.fromkeys(header))
                raise BadFile(f"{shown} lacks the columns model_a, model_b, winner; its first line has {found}.")
            for cells in reader:
                if not cells:
                    empty += 1
                    _refuse_empty_lines(empty, path)
                    continue
                if len(cells) == len(header):
                    yield reader.line_num, dict(zip(header, cells, strict=True))
                else:
                    malformed(f"{shown} line {reader.line_num} has {len(cells)} columns, not {len(header)}.")
        except csv.Error as error:
            raise BadFile(f"{shown} line {reader.line_num} is not CSV: {printable(error)}.") from error


def _text_lines(path: Path) -> Iterator[str]:
    end = 0
    for number, line in json_lines.lines(path, _no_csv):
        end += len(line)
        _refuse_length(end, path)
        text = json_lines.decoded(line, f"{printable(path)} line {number}", _no_csv)
        assert text is not None  # _no_csv raises
        yield text


def _no_csv(message: str) -> None:
    """A CSV's rows may span lines, so that none can be left out."""
    raise BadFile(message)


@contextmanager
def _long_fields() -> Iterator[None]:
    before = csv.field_size_limit(_LONGEST_FIELD)
    try:
        yield
    finally:
        csv.field_size_limit(before)


def _refuse_length(end: int, path: Path) -> None:
    if end > _MOST_BYTES:
        raise BadFile(f"{printable(path)} is too large: {_MOST_BYTES >> 30} GiB of votes are read.")


def _refuse_empty_lines(number: int, path: Path) -> None:
    """Packed, billions of them are a small file."""
    if number > _MOST_EMPTY_LINES:
        raise BadFile(f"{printable(path)} has more than {_MOST_EMPTY_LINES:,} empty lines, which no votes need.")


def _sha256(path: Path) -> str:
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            raise BadFile(f"{printable(path)} is not a regular file; give a CSV, JSON Lines or SQLite file of votes.")
        if path.stat().st_size > _MOST_BYTES:
            _refuse_length(path.stat().st_size, path)
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except (OSError, ValueError) as error:
        reason = "no such file" if isinstance(error, FileNotFoundError) else getattr(error, "strerror", None) or error
        raise BadFile(f"Cannot read {printable(path)}: {reason}.") from error


def _refuse_alike(names: Iterable[str]) -> None:
    """Two spellings of one model would be ranked as two."""
    known: dict[str, str] = {}
    for name in names:
        other = known.setdefault("".join(unicodedata.normalize("NFKC", name).casefold().split()), name)
        if other != name:
            both = f"{printable(other, 60)!r} and {printable(name, 60)!r}"
            raise SmidgenError(f"The models {both} differ only in letter case or spaces; write one name for both.")


def _shown(row: Mapping[str, Any]) -> str:
    names = [printable(name, 40) or "''" for name in list(row)[:_SHOWN_COLUMNS]]
    return ", ".join(names) + (", …" if len(row) > _SHOWN_COLUMNS else "") if names else "nothing"
