"""Local copies of tasks: what is not of their form is one line that names the place."""

import json
import os
from pathlib import Path
from typing import Any

import pytest

from smidgen.errors import SmidgenError
from smidgen.measuring.tasks.local_data import local_tasks
from smidgen.measuring.tasks.local_files import LocalFiles
from smidgen.measuring.tasks.sandbox import Sandbox
from tests.measuring.tasks.little_data import CHOICES, write_data

GOOD = ["What?", *CHOICES, "A"]


@pytest.mark.parametrize(
    ("name", "rows", "said"),
    [
        ("sums_test.csv", [], "empty"),
        ("sums_test.csv", [GOOD, ["What?", "a", "b", "C"]], r"row 2: .*found 4 columns"),
        ("sums_test.csv", [[*GOOD[:5], "E"]], "row 1: .*ending in 'E'"),
        ("sums_test.csv", [[*GOOD[:5], ""]], "row 1"),
        ("sums_dev.csv", [GOOD] * 3, "has 3 questions; 5 are needed"),
        ("mbpp.jsonl", [{"task_id": 2}], "line 1: an object with task_id, text"),
        ("mbpp.jsonl", ["text"], "line 1: a JSON object"),
        ("mbpp.jsonl", [{"task_id": 2, "text": "a", "code": "b", "test_list": ["c", "d", 5]}], "line 1"),
        (
            "mbpp.jsonl",
            [{"task_id": 9, "text": "a", "code": "b", "test_list": ["c"] * 3}],
            "lacks the examples 2, 3, 4",
        ),
        (
            "mbpp.jsonl",
            [{"task_id": n, "text": "a", "code": "b", "test_list": ["c"] * 3} for n in (2, 3, 4)],
            "no items",
        ),
    ],
)
def test_what_is_wrong_is_named(tmp_path: Path, name: str, rows: list[Any], said: str) -> None:
    write_data(tmp_path, **{name: rows})
    with pytest.raises(SmidgenError, match=said) as caught:
        local_tasks("mbpp" if name.startswith("mbpp") else "mmlu", LocalFiles(tmp_path), Sandbox)
    assert str(caught.value).isprintable()


def test_missing_files_and_other_bytes(tmp_path: Path) -> None:
    with pytest.raises(SmidgenError, match="holds no <subject>_test.csv"):
        local_tasks("mmlu", LocalFiles(tmp_path), Sandbox)
    with pytest.raises(SmidgenError, match="cannot be read"):
        local_tasks("mbpp", LocalFiles(tmp_path), Sandbox)
    write_data(tmp_path)
    (tmp_path / "mmlu/dev/sums_dev.csv").unlink()
    with pytest.raises(SmidgenError, match="sums_dev.csv cannot be read"):
        local_tasks("mmlu", LocalFiles(tmp_path), Sandbox)
    (tmp_path / "mbpp/mbpp.jsonl").write_bytes(b"\xff\xfe")
    with pytest.raises(SmidgenError, match="not UTF-8"):
        local_tasks("mbpp", LocalFiles(tmp_path), Sandbox)


def test_a_file_of_training_items_is_used_and_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    row = {"text": "a", "code": "b", "test_list": ["c"] * 3}
    write_data(tmp_path, **{"mbpp.jsonl": [row | {"task_id": number} for number in (2, 3, 4, 601, 602)]})
    assert len(local_tasks("mbpp", LocalFiles(tmp_path), Sandbox)["mbpp"].test_docs()) == 2
    assert "lacks the test items" in capsys.readouterr().err


def test_blank_lines_are_passed_over(tmp_path: Path) -> None:
    write_data(tmp_path)
    path = tmp_path / "mbpp/mbpp.jsonl"
    path.write_text("\n" + path.read_text().replace("\n", "\n \n"))
    assert [json.loads(line)["task_id"] for line in path.read_text().splitlines() if line.strip()] == [2, 3, 4, 11, 12]
    assert len(local_tasks("mbpp", LocalFiles(tmp_path), Sandbox)["mbpp"].test_docs()) == 2


def test_what_is_there_twice_is_asked_once_and_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    other = ["Other?", *CHOICES, "B"]
    write_data(tmp_path, **{"sums_test.csv": [GOOD, other, GOOD, GOOD]})
    files = LocalFiles(tmp_path)
    assert [doc["question"] for doc in local_tasks("mmlu", files, Sandbox)["mmlu_sums"].test_docs()] == [
        "What?",
        "Other?",
    ]
    assert files.notes == ["2 rows of sums_test.csv repeat others and were not asked again"]
    assert "2 rows of sums_test.csv repeat others" in capsys.readouterr().err


def test_what_is_no_file_is_refused_and_never_waited_for(tmp_path: Path) -> None:
    for name, path in (("mbpp", "mbpp/mbpp.jsonl"), ("mmlu", "mmlu/test/sums_test.csv")):
        for make in (os.mkfifo, os.mkdir, lambda place: os.symlink("/dev/zero", place)):
            write_data(tmp_path)
            place = tmp_path / path
            place.unlink()
            make(place)
            with pytest.raises(SmidgenError, match="is not a regular file"):
                local_tasks(name, LocalFiles(tmp_path), Sandbox)
            place.rmdir() if place.is_dir() else place.unlink()


def test_half_a_surrogate_pair_is_no_text(tmp_path: Path) -> None:
    write_data(tmp_path)
    (tmp_path / "mbpp/mbpp.jsonl").write_text('{"task_id": 2, "text": "\\ud800"}\n')
    with pytest.raises(SmidgenError, match="line 1: a JSON object is expected"):
        local_tasks("mbpp", LocalFiles(tmp_path), Sandbox)
