"""Votes as lines of a file: whole or not there, also when several processes write."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from smidgen.errors import SmidgenError
from smidgen.votes import Vote, append_vote


def test_a_vote_is_one_line_with_an_id_and_a_time(tmp_path: Path) -> None:
    file = tmp_path / "votes.jsonl"
    append_vote(file, Vote("one", "other", "model_b", judge="person"))
    append_vote(file, Vote("one", "other", "both_bad", prompt="Zwei\nZeilen, ü"))
    first, second = (json.loads(line) for line in file.read_text("utf-8").splitlines())
    assert (first["model_a"], first["model_b"], first["winner"], first["judge"]) == (
        "one",
        "other",
        "model_b",
        "person",
    )
    assert "prompt" not in first and second["prompt"] == "Zwei\nZeilen, ü" and "judge" not in second
    assert first["vote_id"] != second["vote_id"] and first["time"].endswith("Z")


def test_a_line_that_was_cut_off_does_not_swallow_the_next_vote(tmp_path: Path) -> None:
    file = tmp_path / "votes.jsonl"
    file.write_text('{"model_a": "on')
    append_vote(file, Vote("one", "other", "tie"))
    assert file.read_text().splitlines()[0] == '{"model_a": "on'
    assert json.loads(file.read_text().splitlines()[1])["winner"] == "tie"


@pytest.mark.parametrize(
    ("names", "winner"),
    [(("a", "a"), "tie"), (("", "b"), "tie"), ((" ", "b"), "tie"), (("a", "b" * 257), "tie"), (("a", "b"), "a")],
)
def test_what_is_no_vote(names: tuple[str, str], winner: str) -> None:
    with pytest.raises(SmidgenError):
        Vote(*names, winner)  # pyright: ignore[reportArgumentType]


def test_other_files_are_left_alone(tmp_path: Path) -> None:
    table = tmp_path / "votes.csv"
    table.write_text("model_a,model_b,winner\n")
    for path in (table, tmp_path, tmp_path / "missing" / "votes.jsonl"):
        with pytest.raises(SmidgenError, match=path.name):
            append_vote(path, Vote("one", "other", "tie"))
    assert table.read_text() == "model_a,model_b,winner\n"


def test_processes_append_at_once(tmp_path: Path) -> None:
    file = tmp_path / "votes.jsonl"
    code = "\n".join([
        "import sys; from pathlib import Path; from smidgen.votes import Vote, append_vote",
        "for _ in range(50): append_vote(Path(sys.argv[1]), Vote('one', 'other', 'tie', prompt='x' * 9000))",
    ])  # fmt: skip
    writers = [subprocess.Popen([sys.executable, "-c", code, file]) for _ in range(3)]
    assert [writer.wait() for writer in writers] == [0, 0, 0]
    votes = [json.loads(line) for line in file.read_text().splitlines()]
    assert len({vote["vote_id"] for vote in votes}) == 150
