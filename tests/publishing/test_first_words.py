"""A first prompt is a question where the model answers, and the beginning of a text where it continues one."""

from pathlib import Path

import pytest

from smidgen.errors import BadFile
from smidgen.exporting.export import export
from smidgen.publishing.first_words import can_chat, run_command, try_it
from tests.tiny_models import write_gemma3

TEMPLATE = {"tokenizer.chat_template": "{{ messages[-1].content }}"}


@pytest.mark.parametrize(("others", "chats"), [(TEMPLATE, True), ({}, False)])
def test_what_was_written_says_whether_it_chats(tmp_path: Path, others: dict[str, str], chats: bool) -> None:
    (tmp_path / "cut").mkdir()
    file = write_gemma3(tmp_path / "cut" / "model.gguf", others)
    assert can_chat(file) is can_chat(tmp_path / "cut") is chats
    assert can_chat(export(file, "hf", tmp_path / "folder")) is chats


def test_no_model_is_no_answer(tmp_path: Path) -> None:
    with pytest.raises(BadFile):
        can_chat(tmp_path / "nothing.gguf")


def test_the_prompts() -> None:
    assert run_command(".", chats=True) == 'smidgen run . "Why is the sky blue?"'
    assert try_it(Path("my cut"), chats=False) == "Try it: smidgen run 'my cut' \"Once upon a time\""
