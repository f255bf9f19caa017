"""Conversations in files: read back as they were, and no file of anybody's replaced."""

import json
from pathlib import Path

import pytest

from smidgen.errors import BadFile, SmidgenError
from smidgen.running.saved import load_conversation, save_conversation

MESSAGES = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "def f():\n    pass"},
    {"role": "assistant", "content": "# A heading\n\nIt does “nothing”."},
]


def test_json_comes_back_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "talk.json"
    save_conversation(path, "tiny", MESSAGES)
    assert load_conversation(path) == MESSAGES
    assert json.loads(path.read_text("utf-8"))["model"] == "tiny"


def test_markdown_has_every_message(tmp_path: Path) -> None:
    save_conversation(tmp_path / "talk.MD", "tiny", MESSAGES)
    written = (tmp_path / "talk.MD").read_text("utf-8")
    assert all(message["content"] in written for message in MESSAGES)


def test_a_file_that_is_there_stays(tmp_path: Path) -> None:
    path = tmp_path / "talk.json"
    path.write_text("mine")
    with pytest.raises(SmidgenError, match="there already; choose another name"):
        save_conversation(path, "tiny", MESSAGES)
    assert path.read_text() == "mine"


@pytest.mark.parametrize("name", ["talk", "talk.txt", "no/such/folder.json"])
def test_a_name_that_will_not_do(tmp_path: Path, name: str) -> None:
    with pytest.raises(SmidgenError, match=r"must end in .json|cannot be written: No such file"):
        save_conversation(tmp_path / name, "tiny", MESSAGES)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("[]", "not a saved conversation"),
        ('{"messages": [{"role": "robot", "content": "x"}]}', "not a saved conversation"),
        ('{"messages": [{"role": "user", "content": 3}]}', "not a saved conversation"),
        ('{"messages": [{"role": "user", "content": "a question"}]}', "in turn"),
        ('{"messages": [{"role": "user"', r"not a saved conversation \(Expecting .*\); /load reads what `/save FILE"),
        ("[" * 100, "not a saved conversation"),
    ],
)
def test_another_file_is_refused(tmp_path: Path, content: str, said: str) -> None:
    path = tmp_path / "other.json"
    path.write_text(content)
    with pytest.raises(BadFile, match=said):
        load_conversation(path)


def test_a_file_that_cannot_be_read_is_not_called_damaged(tmp_path: Path) -> None:
    for path, said in ((tmp_path / "nope.json", "does not exist"), (tmp_path, "not a saved conversation")):
        with pytest.raises(BadFile) as refused:
            load_conversation(path)
        assert f"{said}; /load reads what `/save FILE.json` wrote." in str(refused.value)
        assert "download" not in str(refused.value)
