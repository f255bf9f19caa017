"""Votes from SQLite files of strangers: read as others are, or refused in a line."""

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from smidgen.errors import BadFile
from smidgen.measuring.arena.reading import read_votes

TABLE = "CREATE TABLE votes (vote_id TEXT, model_a TEXT, model_b TEXT, winner TEXT, answer_a TEXT)"
ROWS = [("1", "a", "b", "model_a", "x"), ("2", "a", "b", "b", "x"), ("3", "b", "a", "tie", "x")]


def made(path: Path, schema: str = TABLE, rows: list[tuple[object, ...]] | None = None) -> Path:
    with closing(sqlite3.connect(path)) as connection:
        connection.executescript(schema)
        for row in ROWS if rows is None else rows:
            connection.execute(f"INSERT INTO votes VALUES ({', '.join('?' * len(row))})", row)
        connection.commit()
    return path


def test_rows_are_votes(tmp_path: Path) -> None:
    ballots = read_votes([made(tmp_path / "votes.sqlite")])
    assert ballots.counts == {("a", "b", "model_a"): 1, ("a", "b", "model_b"): 1, ("b", "a", "tie"): 1}


def test_its_name_does_not_matter_and_other_files_go_with_it(tmp_path: Path) -> None:
    lines = tmp_path / "votes.jsonl"
    lines.write_text('{"model_a": "a", "model_b": "b", "winner": "tie"}\n')
    assert read_votes([made(tmp_path / "votes.csv"), lines]).total == 4


@pytest.mark.parametrize(
    "row", [("1", "a", "b", None, ""), ("1", "a", "b", 7, ""), ("1", b"a", "b", "tie", ""), ("1", "a", "a", "tie", "")]
)
def test_a_bad_row_is_named_or_passed_over(row: tuple[object, ...], tmp_path: Path) -> None:
    path = made(tmp_path / "votes.sqlite", rows=[*ROWS, ("4", *row[1:])])
    with pytest.raises(BadFile, match="vote 4"):
        read_votes([path])
    ballots = read_votes([path], skip_bad=True)
    assert (ballots.total, ballots.files[0].skipped) == (3, 1)


def test_a_vote_that_comes_twice_is_found(tmp_path: Path) -> None:
    with pytest.raises(BadFile, match="came before: vote_id 1"):
        read_votes([made(tmp_path / "votes.sqlite", rows=[ROWS[0], ROWS[0]])])


@pytest.mark.parametrize(
    "schema",
    [
        "CREATE TABLE others (x)",
        "CREATE TABLE o (model_a, model_b, winner); CREATE VIEW votes AS SELECT * FROM o",
        "CREATE TABLE votes (model_a, model_b)",
        "CREATE TABLE votes (model_a, model_b, winner AS (hex(zeroblob(1000000000))))",
        "CREATE VIRTUAL TABLE votes USING fts5(model_a, model_b, winner)",
    ],
)
def test_what_is_no_plain_table_of_votes_is_refused(schema: str, tmp_path: Path) -> None:
    with pytest.raises(BadFile, match="votes"):
        read_votes([made(tmp_path / "votes.sqlite", schema, rows=[])])


def test_no_votes_are_no_ranking(tmp_path: Path) -> None:
    with pytest.raises(BadFile, match="holds no votes"):
        read_votes([made(tmp_path / "votes.sqlite", rows=[])])


def test_damaged_files_are_refused_wherever_they_are_damaged(tmp_path: Path) -> None:
    whole = made(tmp_path / "votes.sqlite", rows=[(str(n), "a", "b", "tie", "x" * 900) for n in range(60)]).read_bytes()
    for at in range(16, len(whole), 509):
        damaged = tmp_path / "damaged.sqlite"
        damaged.write_bytes(whole[:at] + b"\xff" * 64 + whole[at + 64 :])
        try:
            assert read_votes([damaged]).total <= 60
        except BadFile as error:
            assert "\n" not in str(error)
    for end in (16, 100, 4096, len(whole) // 2):
        (tmp_path / "short.sqlite").write_bytes(whole[:end])
        with pytest.raises(BadFile):
            read_votes([tmp_path / "short.sqlite"])
