"""Chats that were rendered already, in the style of each family; and the date that templates write."""

from datetime import date, datetime
from pathlib import Path

import pytest

from smidgen.data.conversations import Coder
from smidgen.data.tally import Case
from smidgen.model.chat import render_chat
from smidgen.model.templates.clock import held_on
from smidgen.model.tokenizer import Tokenizer
from tests.data.test_conversations import ASKED, CHAT, SYSTEM, learned, read, tokenizer_of
from tests.parity.test_chat_templates import FAMILIES


@pytest.fixture(scope="module", params=FAMILIES)
def family(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Tokenizer]:
    return request.param, tokenizer_of(request.param, tmp_path_factory.mktemp("family"))


def test_a_rendered_chat_is_read_as_its_messages_are(family: tuple[str, Tokenizer], tmp_path: Path) -> None:
    """As a text, with or without the BOS in front; and in a prompt, so that the completion is learned."""
    name, tokenizer = family
    template = FAMILIES[name].template
    coder = Coder(tokenizer, template, 512)
    text = render_chat(template, CHAT, tokenizer.special_texts, add_generation_prompt=False)
    wanted = tokenizer.encode(text, add_bos=tokenizer.adds_bos, parse_special=True)
    bos = tokenizer.special_texts.get("bos_token", "") if tokenizer.adds_bos else ""
    for given in (text, text.removeprefix(bos)):  # the tokenizer puts it there
        [example], tally = read(coder, tmp_path, {"text": given})
        assert example.ids == wanted and set(example.weights) == {1.0} and tally.cases == {Case.RENDERED_TEXT: 1}
    prompt = render_chat(template, CHAT[:3], tokenizer.special_texts)
    completion = text.removeprefix(prompt)
    assert completion != text
    [example], tally = read(coder, tmp_path, {"prompt": prompt, "completion": completion})
    assert example.ids == wanted and tally.cases == {Case.RENDERED: 1}
    [run] = learned(tokenizer, example)
    assert "runs" in run and "then" not in run


def test_control_tokens_elsewhere_stay_letters_and_that_is_said(family: tuple[str, Tokenizer], tmp_path: Path) -> None:
    name, tokenizer = family
    control = next(text for token in sorted(tokenizer.control) if len(text := tokenizer.token_text(token)) > 2)
    for text in (f"the {control} dog", f"of{control}"):
        [example], tally = read(Coder(tokenizer, FAMILIES[name].template, 512), tmp_path, {"text": text})
        assert example.ids[:-1] == tokenizer.encode(text, add_bos=tokenizer.adds_bos)
        assert tally.cases == {Case.SPELLED: 1} and "read as letters" in tally.notes(512)[0]


def test_a_rendered_chat_without_its_end_gets_one_and_a_long_one_is_cut_at_turns(tmp_path: Path) -> None:
    tokenizer = tokenizer_of("Qwen 2", tmp_path)
    coder = Coder(tokenizer, FAMILIES["Qwen 2"].template, 60)
    [example], _ = read(coder, tmp_path, {"text": "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\nHello"})
    assert example.ids[-1] == tokenizer.eos_id and example.ids.count(tokenizer.eos_id) == 2
    turns = "".join(
        f"<|im_start|>user\nthe {n}?<|im_end|>\n<|im_start|>assistant\ndog {n}.<|im_end|>\n" for n in range(9)
    )
    examples, tally = read(coder, tmp_path, {"text": turns})
    texts = [tokenizer.decode(example.ids) for example in examples]
    assert "".join(texts) == turns and len(texts) > 2 and all(text.startswith("<|im_start|>") for text in texts)
    assert tally.cases == {Case.RENDERED_TEXT: 1, Case.PIECES: 1}


def test_the_date_is_the_one_given(tmp_path: Path) -> None:
    tokenizer, template = tokenizer_of("SmolLM 3", tmp_path), FAMILIES["SmolLM 3"].template
    found = []
    for day in (date(2001, 2, 3), date(2001, 2, 3), date(2001, 3, 4)):
        with held_on(day):
            found += read(Coder(tokenizer, template, 512), tmp_path, {"messages": [SYSTEM, *CHAT]})[0]
            assert day.strftime("%B %Y") in render_chat(template, [ASKED], tokenizer.special_texts)
    first, again, other = found
    assert first.ids == again.ids != other.ids and learned(tokenizer, first) == learned(tokenizer, other)
    assert datetime.now().strftime("%B %Y") in render_chat(template, [ASKED])
