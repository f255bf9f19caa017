"""The Modelfile: what Ollama makes of it is what the model's own template writes, or it says why not."""

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from smidgen.formats.gguf.reader import GGUFFile
from smidgen.formats.hub.notices import Licence
from smidgen.model.chat import render_chat
from smidgen.model.tokenizer import Tokenizer
from smidgen.publishing.licence import Licensed
from smidgen.publishing.modelfile import modelfile, write_modelfile
from tests.model.test_chat import CHATML, GEMMA_2, GEMMA_3, LLAMA_3
from tests.parity.test_chat_templates import LLAMA_2, MISTRAL, PHI_3, PHI_4, QWEN_3, SMOLLM_3
from tests.publishing.ollama_stand_in import instructions, render
from tests.tiny_models import GEMMA3_KEYS, write_model

WITH_A_SYSTEM_MESSAGE = (
    "{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}"
    '{{ \'<|im_start|>system\n{"be": """kind"""} }} \\\\ \x07 é<|im_end|>\n\' }}{% endif %}'
    "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
EXACT = {
    "chatml": CHATML, "gemma 2": GEMMA_2, "gemma 3": GEMMA_3, "llama 2": LLAMA_2, "llama 3": LLAMA_3, "phi 3": PHI_3,
    "phi 4": PHI_4, "qwen 3": QWEN_3, "with a system message": WITH_A_SYSTEM_MESSAGE,
}  # fmt: skip
NOT_EXACT = {
    "mistral": (MISTRAL, "depends on more than the roles"),
    "today's date": (SMOLLM_3, "it writes today's date"),
    "drops": ("{% for m in messages %}{{ m.role }}{% endfor %}", "it leaves out a message"),
    "never ends": ("{% for i in range(9999999) %}{% for j in range(9999999) %}x{% endfor %}{% endfor %}", "it fails"),
    "long": ("{{ 'x' * 20000 }}{% for m in messages %}{{ m.role }}{{ m.content }}{% endfor %}", "too long"),
    "broken": ("{% for", "it fails at an ordinary conversation"),
}
CHATS = ("u", "uau", "su", "suau", "uauauau", "uasu", "ua", "sua")


def metadata(template: str | None = None, **more: Any) -> dict[str, Any]:
    """Of a model with the end tokens of several families."""
    tokens = ["<pad>", "</s>", "<s>", "<unk>", "<|im_end|>", "<end_of_turn>", "<|eot_id|>", "<|end|>"]
    tokens += [*(f"<0x{byte:02X}>" for byte in range(256)), "▁"]
    found: dict[str, Any] = {
        "general.architecture": "gemma3", "gemma3.context_length": 32768,
        "tokenizer.ggml.model": "llama", "tokenizer.ggml.tokens": tokens, "tokenizer.ggml.bos_token_id": 2,
        "tokenizer.ggml.scores": -np.arange(len(tokens), dtype=np.float32), "tokenizer.ggml.eos_token_id": 1,
        "tokenizer.ggml.token_type": np.array([3, 3, 3, 2, *[3] * 4, *[6] * 256, 1]),
    }  # fmt: skip
    return found | ({} if template is None else {"tokenizer.chat_template": template}) | more


def chat(roles: str) -> list[dict[str, str]]:
    texts = ['"1" <b> & {{ 2 }}', "two\n\nlines", "é 漢 \U0001f600 \\n", "%}"]
    names = {"s": "system", "u": "user", "a": "assistant"}
    return [{"role": names[role], "content": texts[place % 4]} for place, role in enumerate(roles)]


def value(text: str, name: str) -> str:
    """Of the only instruction of this name."""
    (found,) = [value for instruction, value in instructions(text) if instruction == name]
    return found


@pytest.mark.parametrize("name", EXACT)
def test_ollama_writes_what_the_template_writes(name: str) -> None:
    known = metadata(EXACT[name])
    written = value(modelfile(known, []), "template")
    assert '"""' not in written and written.replace("\n", "").isprintable()
    specials = Tokenizer.from_gguf(known).special_texts
    for roles in ("u", "uau", "su", "suau", "uauauau"):
        expected = render_chat(EXACT[name], chat(roles), specials).removeprefix("<s>")  # llama.cpp puts it there itself
        assert render(written, chat(roles)) == expected, roles


@pytest.mark.parametrize("name", EXACT)
def test_no_message_is_lost_and_a_begun_answer_goes_on(name: str) -> None:
    """Also where the model's own template refuses such a conversation."""
    written = value(modelfile(metadata(EXACT[name]), []), "template")
    for roles in CHATS:
        rest = render(written, chat(roles))
        for message in chat(roles):
            assert message["content"] in rest
            rest = rest.partition(message["content"])[2]
        assert (rest == "") == roles.endswith("a")


@pytest.mark.parametrize("name", NOT_EXACT)
def test_what_cannot_be_written_is_said(name: str) -> None:
    template, why = NOT_EXACT[name]
    text = modelfile(metadata(template), [])
    assert [instruction for instruction, _ in instructions(text)][0] == "from"
    assert "template" not in dict(instructions(text)) and why in text
    assert "Earlier versions hand on bare text" in text and ("parameter", "num_ctx 4096") in instructions(text)


def test_several_templates_without_a_default() -> None:
    named = {"tokenizer.chat_template.one": CHATML, "tokenizer.chat_template.two": CHATML}
    text = modelfile(metadata(**named), [])
    assert "it has several" in text and "template" not in dict(instructions(text))


def test_a_base_model_continues_text() -> None:
    text = modelfile(metadata(), [])
    assert value(text, "template") == "{{ .Prompt }}" and value(text, "from") == "./model.gguf"
    assert value(text, "parameter") == "num_ctx 4096" and "no chat template" in text


def test_end_tokens_and_context() -> None:
    text = modelfile(metadata(CHATML, **{"gemma3.context_length": 512}), [])
    assert [value for name, value in instructions(text) if name == "parameter"] == [
        'stop "</s>"', 'stop "<|im_end|>"', "num_ctx 512"
    ]  # fmt: skip
    assert "The model was made for 512" in text


def test_hints_where_a_template_does_more() -> None:
    assert "takes blanks and line ends" in modelfile(metadata(GEMMA_3), [])
    assert "takes blanks" not in modelfile(metadata(CHATML), [])
    assert "Tools are not in it" in modelfile(metadata(CHATML + "{% if tools %}{{ tools }}{% endif %}"), [])


def test_licences_go_along_whole(tmp_path: Path) -> None:
    """Files as they are; one that would end the instruction is named instead; without any, what the model states."""
    write_model(tmp_path / "model.gguf", "gemma3", GEMMA3_KEYS, {}, others={"tokenizer.chat_template": CHATML})
    terms = 'Terms\n\n  "AS IS"\n\tLICENSE "x"\n# not a comment\nFROM elsewhere "quoted"'
    (tmp_path / "LICENSE").write_text(terms)
    (tmp_path / "NOTICE").write_text('"""\nPARAMETER stop "a"\n')
    for names, expected in (
        (["LICENSE", "NOTICE"], [terms, "NOTICE, in the folder of the model."]),
        ([], ["My 'own' licence (https://example.com)"]),
    ):
        stated = Licence("other", 'My "own" licence', "https://example.com")
        write_modelfile(tmp_path, [Licensed(stated, None, names)] * 2)
        first = (tmp_path / "Modelfile").read_bytes()
        text = first.decode()
        assert [value for name, value in instructions(text) if name == "license"] == expected
        assert str(tmp_path) not in text
        write_modelfile(tmp_path, [Licensed(stated, None, names)] * 2)
        assert (tmp_path / "Modelfile").read_bytes() == first


def test_a_real_model(smollm_path: Path) -> None:
    """Its own system message is there unless another is given; what Ollama would detect leaves it out."""
    with GGUFFile.open(smollm_path) as file:
        text = modelfile(file.metadata, [])
    written = value(text, "template")
    asked = [{"role": "user", "content": "Why?"}]
    assert "You are a helpful AI assistant named SmolLM" in render(written, asked)
    assert "named SmolLM" not in render(written, [{"role": "system", "content": "Be brief."}, *asked])
    assert re.search('^PARAMETER stop "<[|]im_end[|]>"$', text, re.MULTILINE)
