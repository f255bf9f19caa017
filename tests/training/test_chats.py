"""Distilling on chats: what the student is asked to go on with, and which tokens count."""

import json
import re
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from smidgen.errors import SmidgenError
from smidgen.training.lesson import DistillOptions, Lesson
from tests.tiny_models import write_gemma3

TEMPLATE = (
    "{% for message in messages %}<{{ message.role }}>{{ message.content }}</s>{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)
CHATS = [
    {"messages": [{"role": "user", "content": "one?"}, {"role": "assistant", "content": "two"},
                  {"role": "user", "content": "three?"}, {"role": "assistant", "content": "four"}]},
    {"prompt": "red?", "completion": "blue"},
]  # fmt: skip
ASKED = {"<user>one?</s><assistant>", "<user>one?</s><assistant>two</s><user>three?</s><assistant>",
         "<user>red?</s><assistant>"}  # fmt: skip
LONG = "a plain text that goes on for longer than what a student is given of it"


class Writing:
    """Writes one letter and the end of the text, and remembers what it was asked."""

    def __init__(self) -> None:
        self.prompts: list[Sequence[int]] = []

    def __call__(self, prompts: Sequence[Sequence[int]], tokens: Sequence[int], seed: int) -> list[list[int]]:
        self.prompts += prompts
        return [[100, 1] for _ in prompts]


@pytest.fixture
def teacher(tmp_path: Path) -> str:
    return str(write_gemma3(tmp_path / "teacher.gguf", others={"tokenizer.chat_template": TEMPLATE}))


def options(folder: Path, lines: list[dict[str, Any]], **more: Any) -> DistillOptions:
    path = folder / "chats.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return DistillOptions(4, (), (path,), batch=2, context=128, **more)


def test_a_chats_student_is_asked_for_answers(teacher: str, tmp_path: Path) -> None:
    """All up to the words that begin an answer, each in turn, one document a row; what it writes counts."""
    with ExitStack() as stack:
        lesson = Lesson.open(teacher, teacher, options(tmp_path, CHATS, on_policy=1.0), stack)
        writer = Writing()
        batches = [lesson.batches(writer).batch(step) for step in range(3)]
        assert {lesson.tokenizer.decode(list(prompt[1:])).strip() for prompt in writer.prompts[:3]} == ASKED
        assert sorted(map(tuple, writer.prompts[:3])) == sorted(map(tuple, writer.prompts[3:6]))
        rows = [row for batch in batches for row in zip(batch.ids, batch.targets, batch.weights, strict=True)]
        for prompt, (ids, targets, weights) in zip(writer.prompts, rows, strict=True):
            assert ids[: len(prompt)].tolist() == list(prompt)
            assert targets[weights > 0].tolist() == [100, 1]


def test_texts_beside_chats_are_gone_on_with(teacher: str, tmp_path: Path) -> None:
    with ExitStack() as stack:
        lesson = Lesson.open(teacher, teacher, options(tmp_path, [*CHATS, {"text": LONG}], on_policy=0.5), stack)
        found = {lesson.tokenizer.decode(list(prompt[1:])).strip() for prompt in lesson.text.prompts}
        assert found > ASKED
        (opening,) = found - ASKED
        assert LONG.startswith(opening) and len(opening) < len(LONG)


def test_what_is_held_out_is_not_asked(teacher: str, tmp_path: Path) -> None:
    lines = [{"prompt": f"{number}?", "completion": "yes"} for number in range(40)]
    with ExitStack() as stack:
        lesson = Lesson.open(teacher, teacher, options(tmp_path, lines, on_policy=0.5), stack)
        aside = " ".join(lesson.tokenizer.decode(batch.ids[0].tolist()) for batch in lesson.text.held_out.rows)
        asked = [lesson.tokenizer.decode(list(prompt[1:])).strip() for prompt in lesson.text.prompts]
        assert len(asked) == 38 and aside.count("<assistant>") == 2
        assert not any(prompt in aside for prompt in asked)


def test_what_stands_there_twice_is_not_on_both_sides(teacher: str, tmp_path: Path) -> None:
    lines = 2 * [{"prompt": f"{number}?", "completion": "yes"} for number in range(40)]
    with ExitStack() as stack:
        lesson = Lesson.open(teacher, teacher, options(tmp_path, lines), stack)
        steps = [lesson.text.batches.batch(step) for step in range(lesson.text.rows)]
        learned, aside = (
            {name for batch in batches for row in batch.ids.tolist()
             for name in re.findall(r"<user>(\d+)\?", lesson.tokenizer.decode(row))}
            for batches in (steps, lesson.text.held_out.rows)
        )  # fmt: skip
        assert len(aside) == 2 and len(learned) == 38 and not aside & learned


@pytest.mark.parametrize("on", ["answers", "all"])
def test_answers_alone_or_all_of_it_counts(on: str, teacher: str, tmp_path: Path) -> None:
    with ExitStack() as stack:
        lesson = Lesson.open(teacher, teacher, options(tmp_path, CHATS, on=on), stack)
        learned = set()
        for row in range(lesson.text.rows):
            batch = lesson.text.batches.batch(row)
            learned |= {lesson.tokenizer.decode(batch.targets[batch.weights > 0].tolist()).strip()}
        words = " ".join(learned)
        assert all(word in words for word in ("two</s>", "four</s>", "blue</s>"))
        assert any(word in words for word in ("one", "three", "red", "assistant")) == (on == "all")


def test_only_json_lines_know_answers(teacher: str, tmp_path: Path) -> None:
    wanted = options(tmp_path, CHATS, on="answers")
    with ExitStack() as stack, pytest.raises(SmidgenError, match="leave out --on answers"):
        Lesson.open(teacher, teacher, replace(wanted, data=(), texts=(tmp_path / "chats.jsonl",)), stack)
    with pytest.raises(SmidgenError, match="on"):
        replace(wanted, on="questions")
