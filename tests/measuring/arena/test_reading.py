"""Votes from files: what public arenas write is read, and what says nothing is refused by its line."""

import gzip
import json
from pathlib import Path

import pytest

from smidgen.errors import BadFile, SmidgenError
from smidgen.measuring.arena.reading import read_votes
from smidgen.votes import Vote, append_vote

HEAD = "model_a,model_b,winner\n"


def write(folder: Path, text: str | bytes, name: str = "votes.csv") -> Path:
    path = folder / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


@pytest.mark.parametrize(
    ("said", "winner"),
    [
        ("model_a", "model_a"), ("model_b", "model_b"), ("A", "model_a"), ("b", "model_b"), (" Model_B ", "model_b"),
        ("left", "model_a"), ("right", "model_b"), ("one", "model_a"), ("the other", "model_b"), ("tie", "tie"),
        ("tie (bothbad)", "both_bad"), ("both_bad", "both_bad"), ("tie (inconsistent)", "tie"),
    ],
)  # fmt: skip
def test_words_for_a_winner(tmp_path: Path, said: str, winner: str) -> None:
    rows = write(tmp_path, f"{HEAD}one,the other,{said}\n")
    assert read_votes([rows]).counts == {("one", "the other", winner): 1}
    line = json.dumps({"model_a": "one", "model_b": "the other", "winner": said, "language": 3})
    assert read_votes([write(tmp_path, line, "votes.jsonl")]).counts == {("one", "the other", winner): 1}


def test_a_model_may_be_called_a(tmp_path: Path) -> None:
    assert read_votes([write(tmp_path, f"{HEAD}a,b,b\n")]).counts == {("a", "b", "model_b"): 1}
    with pytest.raises(BadFile, match="line 2.*is a model's name and also means model_a"):
        read_votes([write(tmp_path, f"{HEAD}b,a,a\n")])


def test_columns_in_any_order_and_more_of_them(tmp_path: Path) -> None:
    text = '\ufeffid,winner,prompt,right,left\n7,left,"two\nlines, one cell",B,A\r\n7,right,same question,B,A\n'
    assert read_votes([write(tmp_path, text)]).counts == {("A", "B", "model_a"): 1, ("A", "B", "model_b"): 1}


def test_packed_files_and_several(tmp_path: Path) -> None:
    packed = write(tmp_path, gzip.compress(f"{HEAD}A,B,a\n".encode()), "votes.csv.gz")
    append_vote(tmp_path / "votes.jsonl", Vote("A", "B", "tie"))
    found = read_votes([packed, tmp_path / "votes.jsonl"])
    assert found.total == 2 and found.models == ["A", "B"] and [file.votes for file in found.files] == [1, 1]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "is empty"),
        ("\n \n", "is empty"),
        (HEAD, "holds no votes"),
        ("x,y,winner\n1,2,tie\n", "lacks the columns model_a, model_b, winner; its first line has x, y, winner"),
        ("model_a,model_b,winner,winner\nA,B,a,b\n", "a column twice"),
        (f"{HEAD}A,B,a\nA,A,tie\n", "line 3 compares A with itself"),
        (f"{HEAD}A,B,purple\n", "line 2: the winner 'purple' is neither A nor B"),
        (f"{HEAD}A,B,\n", "line 2: the winner '' is neither"),
        (f"{HEAD},B,b\n", "line 2: a model's name must have 1 to 256 characters"),
        (f"{HEAD}A,B\n", "line 2 has 2 columns, not 3"),
        (f'{HEAD}"A,B,a\n', "is not CSV"),
        (f"{HEAD}Ä,B,a\n".encode("latin-1"), "line 2 is not UTF-8: byte 0xc4"),
        (f"{HEAD}A\0,B,a\n", "line 2 is not text: it holds a zero byte"),
        ('[{"model_a": "A"}]', "is one JSON list"),
        ('{"model_a": "A", "winner": "tie"}\n', "line 1 lacks model_a, model_b or winner; it has model_a, winner"),
        ('{"model_a": "A", "model_b": "B", "winner": 1}\n', "line 1: model_a, model_b and winner must be texts"),
        ('{"model_a": "A", "model_b": "B", "winner": "tie"}\n{oops\n', "line 2 is not JSON"),
        (f"{HEAD}GPT 4,B,a\nB,gpt4,a\n", "'GPT 4' and 'gpt4' differ only in letter case or spaces"),
        ("vote_id,model_a,model_b,winner\n1,A,B,a\n1,B,C,a\n", "line 3 is a vote that came before: vote_id 1"),
        ("id,model_a,model_b,winner\n1,A,B,a\n1,A,B,a\n", "line 3 is a vote that came before: id 1"),
    ],
)
def test_bad_files(tmp_path: Path, text: str | bytes, said: str) -> None:
    with pytest.raises(SmidgenError) as error:
        read_votes([write(tmp_path, text)])
    assert said in str(error.value) and "\n" not in str(error.value)


def test_equal_rows_without_ids_are_several_votes(tmp_path: Path) -> None:
    assert read_votes([write(tmp_path, HEAD + "A,B,a\n" * 3)]).total == 3


def test_the_same_file_twice(tmp_path: Path) -> None:
    files = [write(tmp_path, f"{HEAD}A,B,a\n", name) for name in ("one.csv", "two.csv")]
    with pytest.raises(SmidgenError, match="are the same votes"):
        read_votes(files)


def test_bad_rows_can_be_left_out_and_are_counted(tmp_path: Path) -> None:
    found = read_votes([write(tmp_path, f"{HEAD}A,B,a\nA,B,purple\nA,A,tie\nA,B\n")], skip_bad=True)
    assert found.total == 1 and found.files[0].skipped == 3
    with pytest.raises(BadFile, match="holds no votes, but 1 rows that are of no use"):
        read_votes([write(tmp_path, f"{HEAD}A,B,purple\n")], skip_bad=True)


def test_what_is_no_file(tmp_path: Path) -> None:
    for path, said in ((tmp_path, "not a regular file"), (tmp_path / "nothing.csv", "no such file")):
        with pytest.raises(BadFile, match=said):
            read_votes([path])


def test_too_many_votes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("smidgen.measuring.arena.reading.MOST_VOTES", 2)
    with pytest.raises(BadFile, match="too many votes"):
        read_votes([write(tmp_path, HEAD + "A,B,a\n" * 3)])
    monkeypatch.setattr("smidgen.measuring.arena.reading._MOST_BYTES", 20)
    with pytest.raises(BadFile, match="too large"):
        read_votes([write(tmp_path, HEAD + "A,B,a\n" * 3)])


def test_a_small_packed_file_of_empty_lines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("smidgen.measuring.arena.reading._MOST_EMPTY_LINES", 3)
    for text in ("\n" * 9, f"{HEAD}A,B,a\n" + "\n" * 9):
        with pytest.raises(BadFile, match="more than 3 empty lines"):
            read_votes([write(tmp_path, gzip.compress(text.encode()), "votes.csv.gz")])
    assert read_votes([write(tmp_path, f"{HEAD}A,B,a\n\n\n")]).total == 1
