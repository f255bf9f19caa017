"""What is learned of conversations whose template or messages say otherwise: weights, reasoning, calls of tools."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from smidgen.data.conversations import Coder
from smidgen.data.tally import Case
from smidgen.errors import BadFile
from smidgen.model.tokenizer import Tokenizer
from tests.data.test_conversations import AGAIN, ANSWER, ASKED, LAST, learned, read, tokenizer_of
from tests.model.test_chat import CHATML

Make = Callable[..., Coder]

THOUGHT = {"role": "assistant", "content": "<think>\nA dog lies there.\n</think>\n\nIt jumps."}
BESIDE = {"role": "assistant", "content": "It jumps.", "reasoning_content": "A dog lies there."}
AS_GIVEN = "<think>\nA dog lies there.\n</think>\n\nIt jumps.<|im_end|>"
CALL = {"type": "function", "function": {"name": "look_up", "arguments": '{"word": "fox"}'}}
LOOK_UP = {"type": "function", "function": {"name": "look_up", "parameters": {}}}

FORGETFUL = """{%- for m in messages -%}
    {%- set said = m.content.split('</think>')[-1].lstrip('\\n') if m.role == 'assistant' else m.content -%}
    {{- '<|im_start|>' + m.role + '\\n' + said -}}
    {%- for call in m.tool_calls or [] -%}
        {{- '<call>' + call.function.name + ' ' + call.function.arguments.word + '</call>' -}}
    {%- endfor -%}
    {{- '<|im_end|>\\n' -}}
{%- endfor -%}
{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' + PREFILL -}}{% endif -%}"""
PLAIN, PREFILLED = FORGETFUL.replace("PREFILL", "''"), FORGETFUL.replace("PREFILL", "'<think>\\n'")


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    return tokenizer_of("Qwen 2", tmp_path_factory.mktemp("tokenizer"))


@pytest.mark.parametrize("mark", [{"weight": 0}, {"weight": 0.0}, {"train": False}, {"train": False, "weight": 1}])
def test_messages_that_are_not_to_be_learned_are_prompt(tokenizer: Tokenizer, tmp_path: Path, mark: Any) -> None:
    line = {"messages": [ASKED, {**ANSWER, **mark}, AGAIN, {**LAST, "weight": 1}]}
    [example], tally = read(Coder(tokenizer, CHATML, 512), tmp_path, line)
    assert len(learned(tokenizer, example)) == 1 and "home!" in learned(tokenizer, example)[0]
    assert "jumps" in tokenizer.decode(example.ids) and not tally.notes(512)


def test_nor_where_all_else_is_learned(tokenizer: Tokenizer, tmp_path: Path) -> None:
    line = {"messages": [ASKED, {**ANSWER, "weight": 0}, {**AGAIN, "train": False}, LAST]}
    [example], _ = read(Coder(tokenizer, CHATML, 512, on_prompts=True), tmp_path, line)
    whole = " ".join(learned(tokenizer, example))
    assert "fox" in whole and "home" in whole and "jumps" not in whole and "then" not in whole


def test_importance_and_marks_that_mean_nothing(tokenizer: Tokenizer, tmp_path: Path) -> None:
    coder = Coder(tokenizer, CHATML, 512)
    [example], _ = read(coder, tmp_path, {"messages": [ASKED, {**ANSWER, "weight": 0.5}, AGAIN, LAST]})
    assert set(example.weights) == {0.0, 0.5, 1.0}
    for mark in ({"weight": "much"}, {"weight": -1}, {"weight": float("nan")}, {"train": "no"}):
        with pytest.raises(BadFile, match="message 2 whose"):
            read(coder, tmp_path, {"messages": [ASKED, {**ANSWER, **mark}]})


def test_a_conversation_without_anything_to_learn_is_counted(tokenizer: Tokenizer, tmp_path: Path) -> None:
    lines = {"messages": [ASKED, {**ANSWER, "weight": 0}]}, {"messages": [ASKED, ANSWER]}
    examples, tally = read(Coder(tokenizer, CHATML, 512), tmp_path, *lines)
    assert len(examples) == 1 and tally.cases == {Case.NOTHING: 1}


@pytest.mark.parametrize("template", [PLAIN, PREFILLED])
@pytest.mark.parametrize("answer", [THOUGHT, BESIDE])
def test_reasoning_that_the_template_leaves_out_is_learned_as_given(
    tokenizer: Tokenizer, tmp_path: Path, template: str, answer: Any
) -> None:
    """Each answer behind what the model sees when it is asked: earlier ones without their reasoning."""
    line = {"messages": [ASKED, answer, AGAIN, answer]}
    examples, tally = read(Coder(tokenizer, template, 512), tmp_path, line)
    begun = "<think>\n" if template.startswith(PREFILLED) else ""
    assert [learned(tokenizer, example) for example in examples] == [[AS_GIVEN.removeprefix(begun)]] * 2
    assert [tokenizer.decode(example.ids).count("A dog lies there.") for example in examples] == [1, 1]
    assert all(f"<|im_start|>assistant\n{AS_GIVEN}" in tokenizer.decode(example.ids) for example in examples)
    assert tally.cases == {Case.GIVEN: 1}
    assert "1 of 1 lines with reasoning that the chat template leaves out" in tally.notes(512)[0]


def test_reasoning_without_a_place_is_said_aloud(tokenizer: Tokenizer, tmp_path: Path) -> None:
    [example], tally = read(Coder(tokenizer, CHATML, 512), tmp_path, {"messages": [ASKED, BESIDE]})
    assert learned(tokenizer, example) == ["It jumps.<|im_end|>"] and tally.cases == {Case.CHANGED: 1}


def test_a_template_that_writes_reasoning_needs_no_help(tokenizer: Tokenizer, tmp_path: Path) -> None:
    writes = CHATML.replace("message.content", "(message.reasoning_content or '') + message.content")
    [example], tally = read(Coder(tokenizer, writes, 512), tmp_path, {"messages": [ASKED, BESIDE, AGAIN, BESIDE]})
    assert learned(tokenizer, example) == ["A dog lies there.It jumps.<|im_end|>"] * 2 and not tally.cases


def test_a_generation_prompt_that_begins_the_answer(tokenizer: Tokenizer, tmp_path: Path) -> None:
    examples, tally = read(Coder(tokenizer, PREFILLED, 512), tmp_path, {"messages": [ASKED, ANSWER, AGAIN, LAST]})
    runs = [run for example in examples for run in learned(tokenizer, example)]
    assert len(runs) == 2 and runs[0] == "jumps over the dog.<|im_end|>" and runs[1].endswith("home!<|im_end|>")
    assert tally.cases == {Case.BEGUN: 1} and "out of the template" in tally.notes(512)[0]


def test_calls_of_tools_are_learned_where_they_are_written(tokenizer: Tokenizer, tmp_path: Path) -> None:
    calls = [ASKED, {"role": "assistant", "content": None, "tool_calls": [CALL]}, {"role": "tool", "content": "red"}]
    [example], tally = read(Coder(tokenizer, PLAIN, 512), tmp_path, {"messages": [*calls, ANSWER]})
    assert learned(tokenizer, example) == ["<call>look_up fox</call><|im_end|>", "jumps over the dog.<|im_end|>"]
    assert not tally.cases


def test_templates_that_take_arguments_as_text_alone(tokenizer: Tokenizer, tmp_path: Path) -> None:
    template = PLAIN.replace("call.function.arguments.word", "call.function.arguments")
    chat = [ASKED, {"role": "assistant", "content": "", "tool_calls": [CALL]}]
    [example], _ = read(Coder(tokenizer, template, 512), tmp_path, {"messages": chat})
    assert learned(tokenizer, example) == ['<call>look_up {"word": "fox"}</call><|im_end|>']


def test_reasoning_for_which_there_is_no_room_costs_the_oldest_turns(tokenizer: Tokenizer, tmp_path: Path) -> None:
    """The conversation fits as its template writes it, but not as it is learned."""
    chat = [ASKED, ANSWER, AGAIN, {"role": "assistant", "content": "<think>\n" + "hm " * 40 + "</think>\n\nYes."}]
    whole, _ = read(Coder(tokenizer, PLAIN, 512), tmp_path, {"messages": chat})
    room = len(whole[1].ids) - 1
    examples, tally = read(Coder(tokenizer, PLAIN, room), tmp_path, {"messages": chat})
    runs = [run for example in examples for run in learned(tokenizer, example)]
    assert len(runs) == 2 and runs[0].startswith("jumps") and "hm hm" in runs[1] and "Yes." in runs[1]
    assert all(len(example.ids) <= room for example in examples)
    assert tally.cases == {Case.GIVEN: 1, Case.CUT: 1}


def test_reasoning_before_a_call_stands_before_what_the_template_writes_of_it(
    tokenizer: Tokenizer, tmp_path: Path
) -> None:
    call = {"role": "assistant", "content": "", "reasoning": "I look it up.", "tool_calls": [CALL]}
    [example], tally = read(Coder(tokenizer, PLAIN, 512), tmp_path, {"messages": [ASKED, call]})
    wanted = "<think>\nI look it up.\n</think>\n\n<call>look_up fox</call><|im_end|>"
    assert learned(tokenizer, example) == [wanted] and tally.cases == {Case.GIVEN: 1}


def test_calls_that_the_template_drops_are_said_aloud(tokenizer: Tokenizer, tmp_path: Path) -> None:
    calls = [ASKED, {"role": "assistant", "content": "", "tool_calls": [CALL]}, {"role": "tool", "content": "red"}]
    lines = {"messages": [*calls, ANSWER], "tools": [LOOK_UP]}, {"messages": calls}
    [example], tally = read(Coder(tokenizer, CHATML, 512), tmp_path, *lines)
    assert learned(tokenizer, example) == ["jumps over the dog.<|im_end|>"]
    assert tally.cases == {Case.NO_CALLS: 2, Case.NO_TOOLS: 1, Case.NOTHING: 1}


def test_tools_are_shown_where_the_template_shows_them(tokenizer: Tokenizer, tmp_path: Path) -> None:
    shows = "{% for t in tools or [] %}{{ t.function.name }} {% endfor %}" + CHATML
    [example], tally = read(
        Coder(tokenizer, shows, 512), tmp_path, {"messages": [ASKED, ANSWER], "tools": f"[{LOOK_UP}]".replace("'", '"')}
    )
    assert tokenizer.decode(example.ids).startswith("look_up ") and not tally.cases
