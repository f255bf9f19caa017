"""Votes as SQLite: whole or not at all, several pages at once, nobody else's file, and read by the arena."""

import sqlite3
import subprocess
import sys
from contextlib import closing
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from smidgen.errors import SmidgenError
from smidgen.measuring.arena.reading import read_votes
from smidgen.showing.ballots import Ballot, BallotBox

BALLOT = Ballot(
    vote_id="0", time="2026-11-29T12:00:00Z", model_a="a", model_b="b", winner="model_a", judge="person",
    prompt="Why?\x00 'quoted'); DROP TABLE votes", system="", answer_a="Because…", answer_b="𝄞", sha256_a="0" * 64,
    sha256_b="1" * 64, chat_a=1, chat_b=0, temperature=0.8, top_k=40, top_p=0.95, max_tokens=None, seed=2**32 - 2,
    context_a=4096, context_b=512, threads=None, tokens_a=2, tokens_b=3, stop_a="end", stop_b="max_tokens",
    smidgen="1", engine="llama.cpp",
)  # fmt: skip

WRITE_50 = """
import sys
from dataclasses import replace
from pathlib import Path
from smidgen.showing.ballots import BallotBox
from tests.showing.test_ballots import BALLOT
box = BallotBox(Path(sys.argv[1]))
for number in range(50):
    box.add(replace(BALLOT, vote_id=f"{sys.argv[2]}-{number}"))
"""


def test_everything_is_read_back_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "votes.sqlite"
    assert BallotBox(path).add(BALLOT) == 1
    with closing(sqlite3.connect(path)) as connection:
        connection.row_factory = sqlite3.Row
        assert dict(connection.execute("SELECT * FROM votes").fetchone()) == asdict(BALLOT)
    assert path.stat().st_mode & 0o077 == 0


def test_the_arena_reads_them(tmp_path: Path) -> None:
    box = BallotBox(tmp_path / "votes.sqlite")
    for number, winner in enumerate(("model_a", "model_b", "tie", "both_bad")):
        box.add(replace(BALLOT, vote_id=str(number), winner=winner))
    ballots = read_votes([box.path])
    assert (ballots.total, ballots.models) == (4, ["a", "b"])
    assert ballots.counts["a", "b", "both_bad"] == 1


def test_two_pages_write_to_one_file(tmp_path: Path) -> None:
    path = tmp_path / "votes.sqlite"
    words, root = [sys.executable, "-c", WRITE_50, str(path)], Path(__file__).parents[2]
    pages = [subprocess.Popen([*words, str(page)], cwd=root) for page in range(2)]
    assert [page.wait(120) for page in pages] == [0, 0]
    assert read_votes([path]).total == 100


def test_a_full_disk_is_said_and_the_vote_can_be_cast_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    box = BallotBox(tmp_path / "votes.sqlite")
    connect = sqlite3.connect

    def full(*given: object, **named: object) -> sqlite3.Connection:
        connection = connect(*given, **named)  # pyright: ignore[reportArgumentType, reportCallIssue]
        connection.execute("PRAGMA max_page_count = 1")  # as many as there are
        return connection

    large = replace(BALLOT, answer_a="long " * 20_000)
    with monkeypatch.context() as smaller:
        smaller.setattr("smidgen.showing.ballots.sqlite3.connect", full)
        with pytest.raises(SmidgenError, match="the disk is full"):
            box.add(large)
    assert box.add(large) == 1
    assert read_votes([box.path]).total == 1


def test_a_file_that_somebody_holds_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("smidgen.showing.ballots._PATIENCE_S", 0.05)
    box = BallotBox(tmp_path / "votes.sqlite")
    with closing(sqlite3.connect(box.path, isolation_level=None)) as other:
        other.execute("BEGIN EXCLUSIVE")
        with pytest.raises(SmidgenError, match="another program is writing"):
            box.add(BALLOT)
    assert box.add(BALLOT) == 1


def test_the_same_vote_is_not_kept_twice(tmp_path: Path) -> None:
    box = BallotBox(tmp_path / "votes.sqlite")
    box.add(BALLOT)
    with pytest.raises(SmidgenError):
        box.add(BALLOT)


@pytest.mark.parametrize(
    "schema",
    [
        "CREATE TABLE other (x)",
        "CREATE TABLE votes (model_a, model_b, winner)",
        "CREATE TABLE other (x); CREATE VIEW votes AS SELECT * FROM other",
    ],
)
def test_the_database_of_something_else_is_left_alone(schema: str, tmp_path: Path) -> None:
    path = tmp_path / "other.sqlite"
    with closing(sqlite3.connect(path)) as connection:
        connection.executescript(schema)
    before = path.read_bytes()
    with pytest.raises(SmidgenError, match="something else"):
        BallotBox(path)
    assert path.read_bytes() == before


def test_a_trigger_in_a_file_of_votes_is_not_carried_out(tmp_path: Path) -> None:
    path = tmp_path / "votes.sqlite"
    BallotBox(path)
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("CREATE TRIGGER t AFTER INSERT ON votes BEGIN DELETE FROM votes; END")
    with pytest.raises(SmidgenError, match="something else"):
        BallotBox(path)


def test_what_is_no_database_is_refused_and_stays(tmp_path: Path) -> None:
    text = tmp_path / "notes.txt"
    text.write_text("not a database, but my notes, and longer than a header of one hundred bytes" * 4)
    for path in (text, tmp_path, tmp_path / "missing" / "votes.sqlite", tmp_path / "a\0b"):
        with pytest.raises(SmidgenError):
            BallotBox(path)
    assert text.read_text().startswith("not a database")


def test_a_winner_that_is_none_is_refused() -> None:
    with pytest.raises(SmidgenError):
        replace(BALLOT, winner="me")
