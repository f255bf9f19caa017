"""Which tokens are learned from, over chat templates in the style of each family; malformed lines; long examples."""

import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from smidgen.data import json_lines
from smidgen.data.conversations import Coder, Example
from smidgen.data.tally import Case, Tally
from smidgen.errors import BadFile, SmidgenError, Unsupported
from smidgen.formats.hf.tokenizer import tokenizer_metadata
from smidgen.model.chat import render_chat
from smidgen.model.tokenizer import Tokenizer
from tests.parity.test_chat_templates import FAMILIES
from tests.tiny_tokenizers import write_folder

Make = Callable[..., Coder]

ASKED = {"role": "user", "content": "the fox?"}
ANSWER = {"role": "assistant", "content": "jumps over the dog."}
AGAIN = {"role": "user", "content": "and then?"}
LAST = {"role": "assistant", "content": "runs \u2192 home!"}
SYSTEM = {"role": "system", "content": "Be brief."}
CHAT = [ASKED, ANSWER, AGAIN, LAST]


@pytest.fixture(scope="module", params=FAMILIES)
def family(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Tokenizer]:
    return request.param, tokenizer_of(request.param, tmp_path_factory.mktemp("family"))


@pytest.fixture(scope="module")
def chatml(tmp_path_factory: pytest.TempPathFactory) -> Make:
    """A coder of SmolLM 2's style with other arguments."""
    tokenizer = tokenizer_of("SmolLM 2", tmp_path_factory.mktemp("chatml"))

    def make(context: int = 512, **options: Any) -> Coder:
        return Coder(tokenizer, FAMILIES["SmolLM 2"].template, context, **options)

    make.tokenizer = tokenizer  # type: ignore[attr-defined]
    return make


def tokenizer_of(name: str, folder: Path) -> Tokenizer:
    family = FAMILIES[name]
    files = {"tokenizer__json": family.tokenizer, "tokenizer_config__json": family.config}
    return Tokenizer.from_gguf(tokenizer_metadata(write_folder(folder, **files), 500)[0])


def read(coder: Coder, folder: Path, *lines: Any, **options: Any) -> tuple[list[Example], Tally]:
    """Lines are written as they are if bytes, as JSON otherwise."""
    path, tally = folder / "data.jsonl", Tally()
    raw = [line if isinstance(line, bytes) else json.dumps(line).encode() for line in lines]
    path.write_bytes(b"\n".join(raw) + b"\n" if raw else b"")
    return list(coder.read(path, tally, **options)), tally


def learned(tokenizer: Tokenizer, example: Example) -> list[str]:
    """The stretches of text that count."""
    runs: list[list[int]] = [[]]
    for token, weight in zip(example.ids, example.weights, strict=True):
        if weight:
            runs[-1].append(token)
        elif runs[-1]:
            runs.append([])
    return [tokenizer.decode(run) for run in runs if run]


@pytest.mark.parametrize("chat", [[ASKED, ANSWER], CHAT, [SYSTEM, *CHAT], [SYSTEM, ASKED, ANSWER], [*CHAT, AGAIN]])
def test_answers_and_their_ends_are_learned(family: tuple[str, Tokenizer], tmp_path: Path, chat: list[Any]) -> None:
    """In every template: each answer once, with the token that ends it, and nothing of what was asked."""
    name, tokenizer = family
    examples, tally = read(Coder(tokenizer, FAMILIES[name].template, 512), tmp_path, {"messages": chat})
    runs = [run for example in examples for run in learned(tokenizer, example)]
    answers = [message["content"] for message in chat if message["role"] == "assistant"]
    assert len(runs) == len(answers) and tally.bad == 0
    for run, answer in zip(runs, answers, strict=True):
        # Some tokenizers here have no arrow or no letter of another case; the words are what is compared.
        known = tokenizer.decode(tokenizer.encode(answer))
        assert known.strip() in run and "fox" not in run and "then" not in run
    for example in examples:
        assert SYSTEM not in chat or "Be brief." in tokenizer.decode(example.ids)
        ends = [
            token
            for token, weight, after in zip(example.ids, example.weights, [*example.weights[1:], 0.0], strict=True)
            if weight and not after
        ]
        assert ends and all(token in tokenizer.eos_ids for token in ends)
        if tokenizer.adds_bos and not FAMILIES[name].bos_each_turn:
            assert example.ids[0] == tokenizer.bos_id and example.ids.count(example.ids[0]) == 1


def test_the_example_is_what_the_model_will_see(family: tuple[str, Tokenizer], tmp_path: Path) -> None:
    """What is read before an answer is the prompt that an engine makes of the same messages."""
    name, tokenizer = family
    template = FAMILIES[name].template
    [example], _ = read(Coder(tokenizer, template, 512), tmp_path, {"prompt": "the fox?", "completion": "jumps."})
    prompt = render_chat(template, [ASKED], tokenizer.special_texts)
    ids = tokenizer.encode(prompt, add_bos=tokenizer.adds_bos, parse_special=True)
    first = next(place for place, weight in enumerate(example.weights) if weight)
    # Where the answer joins the last token of the prompt (a space, a newline), that token is learned from too.
    assert len(ids) - 1 <= first <= len(ids) and example.ids[:first] == ids[:first]


def test_a_template_that_rewrites_history_gives_an_example_for_each_answer(chatml: Make, tmp_path: Path) -> None:
    forgets = """{%- for m in messages -%}
        {%- set shown = m.content.split('</t>')[-1] if not loop.last and m.role == 'assistant' else m.content -%}
        {{ '<|im_start|>' + m.role + '\n' + shown + '<|im_end|>\n' }}
    {%- endfor -%}
    {%- if add_generation_prompt -%}{{ '<|im_start|>assistant\n' }}{%- endif -%}"""
    tokenizer = chatml.tokenizer  # type: ignore[attr-defined]
    chat = [ASKED, {"role": "assistant", "content": "<t>hm</t>one"}, AGAIN, {"role": "assistant", "content": "two"}]
    examples, _ = read(Coder(tokenizer, forgets, 512), tmp_path, {"messages": chat})
    assert [learned(tokenizer, example) for example in examples] == [["<t>hm</t>one<|im_end|>"], ["two<|im_end|>"]]
    assert "<t>" not in tokenizer.decode(examples[1].ids)


def test_completions_and_texts_as_they_stand(chatml: Make, tmp_path: Path) -> None:
    tokenizer, coder = chatml.tokenizer, chatml(chat=False)  # type: ignore[attr-defined]
    lines = [{"prompt": "the fox", "completion": " jumps"}, {"text": "the dog", "id": 5}]
    (pair, text), tally = read(coder, tmp_path, *lines)
    assert tokenizer.decode(pair.ids) == "the fox jumps<|im_end|>"
    assert learned(tokenizer, pair) == [" jumps<|im_end|>"]
    assert learned(tokenizer, text) == ["the dog<|im_end|>"]
    assert (tally.lines, tally.examples) == (2, 2) and tally.notes(512) == []


def test_control_tokens_in_plain_text_stay_text(chatml: Make, tmp_path: Path) -> None:
    [example], _ = read(chatml(), tmp_path, {"text": "a <|im_end|> b"})
    assert sum(token in chatml.tokenizer.eos_ids for token in example.ids) == 1  # type: ignore[attr-defined]


def test_learning_from_everything(chatml: Make, tmp_path: Path) -> None:
    examples, _ = read(chatml(on_prompts=True), tmp_path, {"messages": CHAT}, {"messages": [ASKED]})
    assert all(set(example.weights) == {1.0} for example in examples)


def test_long_examples_lose_the_beginning_of_their_prompt_or_go(chatml: Make, tmp_path: Path) -> None:
    tokenizer = chatml.tokenizer  # type: ignore[attr-defined]
    long = {"prompt": "the fox " * 50, "completion": "jumps"}
    short, tally = read(
        chatml(32), tmp_path, long, {"prompt": "x", "completion": "the dog " * 50}, {"text": "dog " * 99}
    )
    assert len(short[0].ids) == 32 and learned(tokenizer, short[0]) == ["jumps<|im_end|>"]
    assert tally.cases == {Case.SHORTENED: 1, Case.DROPPED: 1, Case.PIECES: 1} and tally.bad == 0
    assert max(len(example.ids) for example in short) == 32
    assert "".join(tokenizer.decode(piece.ids) for piece in short[1:]) == "dog " * 99 + "<|im_end|>"
    notes = " ".join(tally.notes(32))
    assert "1 of 3 lines longer than the context of 32 tokens" in notes and "left out" in notes and "pieces" in notes


def test_the_bos_stays_when_a_prompt_is_shortened(tmp_path: Path) -> None:
    tokenizer = tokenizer_of("Llama 3", tmp_path)
    coder = Coder(tokenizer, FAMILIES["Llama 3"].template, 24)
    [example], _ = read(coder, tmp_path, {"prompt": "the fox " * 50, "completion": "jumps"})
    assert len(example.ids) == 24 and example.ids[0] == tokenizer.bos_id != example.ids[1]


def test_long_conversations_are_cut_between_turns_behind_the_system_message(chatml: Make, tmp_path: Path) -> None:
    tokenizer = chatml.tokenizer  # type: ignore[attr-defined]
    turns = [
        [{"role": "user", "content": f"the {n}?"}, {"role": "assistant", "content": f"dog {n}."}] for n in range(7)
    ]
    chat = [SYSTEM, *(message for turn in turns for message in turn)]
    examples, tally = read(chatml(90), tmp_path, {"messages": chat}, {"messages": [ASKED, ANSWER]})
    whole, *_ = read(chatml(), tmp_path, {"messages": chat})[0]
    runs = [run for example in examples[:-1] for run in learned(tokenizer, example)]
    assert len(whole.ids) > 90 and runs == [f"dog {n}.<|im_end|>" for n in range(7)]
    assert len(examples) > 2 and all(len(example.ids) <= 90 for example in examples)
    begun = tokenizer.decode(whole.ids).partition("the 0")[0]
    assert all(tokenizer.decode(example.ids).startswith(begun + "the ") for example in examples[:-1])
    assert tally.cases == {Case.CUT: 1}
    assert "1 of 2 lines longer than the context of 90 tokens and cut between turns" in tally.notes(90)[0]


def test_a_long_history_as_prompt_loses_its_oldest_turns(chatml: Make, tmp_path: Path) -> None:
    tokenizer = chatml.tokenizer  # type: ignore[attr-defined]
    prompt = [SYSTEM, *CHAT * 6, ASKED]
    [example], tally = read(chatml(100), tmp_path, {"prompt": prompt, "completion": [LAST]})
    assert len(learned(tokenizer, example)) == 1 and "home" in learned(tokenizer, example)[0]
    text = tokenizer.decode(example.ids)
    assert "Be brief." in text and 1 < text.count("<|im_start|>user") < 13 and tally.cases == {Case.CUT: 1}


def test_a_question_that_is_too_long_keeps_the_system_message(chatml: Make, tmp_path: Path) -> None:
    tokenizer = chatml.tokenizer  # type: ignore[attr-defined]
    chat = [SYSTEM, {"role": "user", "content": "the fox " * 90}, ANSWER]
    [example], tally = read(chatml(80), tmp_path, {"messages": chat})
    text = tokenizer.decode(example.ids)
    assert "Be brief.<|im_end|>\n<|im_start|>user\n" in text and text.count("<|im_start|>") == 3
    assert len(example.ids) == 80 and tally.cases == {Case.SHORTENED: 1}


def test_many_calls_of_one_turn_lose_the_oldest(chatml: Make, tmp_path: Path) -> None:
    tokenizer = chatml.tokenizer  # type: ignore[attr-defined]
    steps = [ANSWER, {"role": "tool", "content": "it was seen in the den"}] * 9
    [example], tally = read(chatml(100), tmp_path, {"messages": [ASKED, *steps, LAST]})
    runs = learned(tokenizer, example)
    assert 1 < len(runs) < 10 and set(runs[:-1]) == {"jumps over the dog.<|im_end|>"} and "home" in runs[-1]
    assert len(example.ids) == 100 and tally.cases == {Case.SHORTENED: 1}


def test_what_is_learned_from_end_to_end_is_cut_where_turns_begin(chatml: Make, tmp_path: Path) -> None:
    """And nothing of it is lost."""
    chat = {"messages": [ASKED, {"role": "assistant", "content": "dog " * 60}, {"role": "tool", "content": "fox"}]}
    examples, tally = read(chatml(50, on_prompts=True), tmp_path, chat)
    [whole], _ = read(chatml(on_prompts=True), tmp_path, chat)
    assert [token for example in examples for token in example.ids] == whole.ids and tally.cases == {Case.PIECES: 1}


def test_conversations_as_others_keep_them(chatml: Make, tmp_path: Path) -> None:
    """ShareGPT's names, prompts and completions of messages, and roles under ShareGPT's key."""
    names = {"system": "system", "user": "human", "assistant": "gpt"}
    chat = [SYSTEM, *CHAT]
    sharegpt = [{"from": names[message["role"]], "value": message["content"]} for message in chat]
    [expected], _ = read(chatml(), tmp_path, {"messages": chat})
    for line in (
        {"conversations": sharegpt},
        {"conversations": chat},
        {"conversations": sharegpt[1:], "system": "Be brief."},
    ):
        [example], tally = read(chatml(), tmp_path, {"id": 7, **line})
        assert (example.ids, example.weights) == (expected.ids, expected.weights) and not tally.cases
    tokenizer = chatml.tokenizer  # type: ignore[attr-defined]
    for completion in ([LAST], LAST["content"]):
        [example], _ = read(chatml(), tmp_path, {"prompt": chat[:-1], "completion": completion})
        assert example.ids == expected.ids and learned(tokenizer, example) == learned(tokenizer, expected)[1:]
    with pytest.raises(BadFile, match='message 1 from "narrator"; known are human, user, gpt'):
        read(chatml(), tmp_path, {"conversations": [{"from": "narrator", "value": "a"}]})
    [example], _ = read(
        chatml(), tmp_path, {"conversations": [{**sharegpt[1]}, {**sharegpt[2], "weight": 0}, *sharegpt[3:]]}
    )
    assert len(learned(tokenizer, example)) == 1


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b"{", "is not JSON"),
        (b'{"text": "a"} x', "is not JSON"),
        (b"[" * 100_000, "is not JSON"),
        (b"[1]", "is no JSON object but a list"),
        (b'{"text": "\xff"}', "is not UTF-8: byte 0xff at offset 10"),
        (b'{"instruction": "a", "output": "b"}', "has instruction, output; a line needs"),
        (b"{}", "has nothing; a line needs"),
        (b'{"text": 5}', 'holds a int and no text in "text"'),
        (b'{"text": ""}', 'has an empty "text"'),
        (b'{"prompt": "a", "completion": ""}', 'has an empty "completion"'),
        (b'{"prompt": null, "completion": "a"}', "holds a NoneType"),
        (b'{"messages": []}', "at least one message"),
        (b'{"messages": ["a"]}', 'a message 1 without a "role"'),
        (b'{"messages": [{"role": "user", "content": 5}]}', 'message 1 whose "content" is not text'),
        (b'{"messages": [{"role": "user", "content": "a"}]}', "no answer of the assistant"),
        (b'{"messages": [{"role": "assistant", "content": "a"}]}', "begins with the assistant"),
        (
            b'{"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": " "}]}',
            "empty answer as message 2",
        ),
        (b'{"messages": [{"role": "user", "content": "a"}], "tools": 5}', 'has "tools" that are not a list'),
    ],
)
def test_malformed_lines_are_named_or_skipped(chatml: Make, tmp_path: Path, line: bytes, reason: str) -> None:
    good = {"text": "the fox"}
    with pytest.raises(BadFile) as caught:
        read(chatml(), tmp_path, good, line, good)
    assert "data.jsonl line 2 " in str(caught.value) and reason in str(caught.value)
    assert "--skip-bad" in str(caught.value) and "\n" not in str(caught.value)
    examples, tally = read(chatml(), tmp_path, good, line, good, skip_bad=True)
    assert (len(examples), tally.lines, tally.bad) == (2, 3, 1)
    assert tally.notes(512) == ["1 of 3 lines malformed and skipped."]


def test_what_a_template_refuses_is_a_malformed_line(tmp_path: Path) -> None:
    coder = Coder(tokenizer_of("Mistral", tmp_path), FAMILIES["Mistral"].template, 512)
    chat = [ASKED, {"role": "tool", "content": "x"}, ANSWER]
    with pytest.raises(BadFile, match="line 1 does not fit the model's chat template .*no such role"):
        read(coder, tmp_path, {"messages": chat})


def test_contents_in_parts_and_a_byte_order_mark(chatml: Make, tmp_path: Path) -> None:
    parts = [{"type": "text", "text": "the "}, {"type": "text", "text": "fox?"}]
    chat = [{"role": "user", "content": parts}, ANSWER]
    raw = b"\xef\xbb\xbf" + json.dumps({"messages": chat}).encode() + b"\r"
    examples, _ = read(chatml(), tmp_path, raw, {"messages": [ASKED, ANSWER]})
    assert examples[0].ids == examples[1].ids
    with pytest.raises(BadFile, match="not text"):
        read(chatml(), tmp_path, {"messages": [{"role": "user", "content": [{"type": "image"}]}, ANSWER]})


def test_messages_need_a_template(chatml: Make, tmp_path: Path) -> None:
    coder = Coder(chatml.tokenizer, None, 512)  # type: ignore[attr-defined]
    with pytest.raises(Unsupported, match="no chat template"):
        read(coder, tmp_path, {"messages": CHAT}, skip_bad=True)
    assert len(read(coder, tmp_path, {"prompt": "a", "completion": "b"})[0]) == 1


def test_blank_lines_are_nothing(chatml: Make, tmp_path: Path) -> None:
    lines = {"text": "the fox"}, b"", b" \t\r", {"text": "the dog"}, b"\xc2\xa0", b""
    examples, tally = read(chatml(), tmp_path, *lines)
    assert [example.name.rpartition("line ")[2] for example in examples] == ["1", "4"]
    assert (tally.lines, tally.bad) == (2, 0) and not tally.notes(512)
    with pytest.raises(BadFile, match="is empty"):
        read(chatml(), tmp_path, b"", b"  ")


def test_files_that_are_none(chatml: Make, tmp_path: Path) -> None:
    with pytest.raises(BadFile, match="is empty"):
        read(chatml(), tmp_path)
    for path in (tmp_path / "no.jsonl", tmp_path):
        with pytest.raises(SmidgenError, match="Cannot read"):
            list(chatml().read(path, Tally()))
    (tmp_path / "cut.jsonl.gz").write_bytes(gzip.compress(b'{"text": "the fox"}\n')[:-9])
    with pytest.raises(BadFile, match="Cannot read .* after line"):
        list(chatml().read(tmp_path / "cut.jsonl.gz", Tally()))


def test_gzip_and_lines_that_are_too_long(chatml: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(json_lines, "LONGEST_LINE", 1 << 20)
    long = b'{"text": "' + b"a" * (3 << 20) + b'"}\n'
    (tmp_path / "a.jsonl.gz").write_bytes(gzip.compress(long + b'{"text": "the fox"}'))
    tally = Tally()
    assert len(list(chatml().read(tmp_path / "a.jsonl.gz", tally, skip_bad=True))) == 1
    assert tally.bad == 1
    with pytest.raises(BadFile, match="line 1 is longer than 1 MiB"):
        list(chatml().read(tmp_path / "a.jsonl.gz", Tally()))


def test_lines_are_read_as_they_are_asked_for(chatml: Make, tmp_path: Path) -> None:
    path = tmp_path / "data.jsonl"
    path.write_text('{"text": "the fox"}\nnonsense\n')
    reader = chatml().read(path, Tally())
    assert next(reader).name == f"{path} line 1"
    with pytest.raises(BadFile, match="line 2"):
        next(reader)
