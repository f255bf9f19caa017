"""Chat templates in the style of each family: the text that transformers' apply_chat_template gives, to the character,
and its ids, the whole way from a folder through metadata to `encode`, with exactly one BOS at the start.
"""

import json
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

from smidgen.errors import SmidgenError
from smidgen.formats.hf.tokenizer import tokenizer_metadata, write_tokenizer
from smidgen.model.chat import chat_template, fold_system, render_chat, takes_system_role
from smidgen.model.tokenizer import Tokenizer
from tests.model.test_chat import CHATML, GEMMA_2, GEMMA_3, LLAMA_3
from tests.tiny_tokenizers import (
    LLAMA3,
    QWEN2,
    SPACE,
    added,
    byte_level_json,
    sentencepiece_json,
    split_at,
    template,
    write_folder,
)

LLAMA_2 = """\
{%- if messages[0].role == 'system' -%}
    {%- set turns = messages[1:] -%}
    {%- set opening = '<<SYS>>\\n' + messages[0].content.strip() + '\\n<</SYS>>\\n\\n' -%}
{%- else -%}
    {%- set turns = messages -%}
    {%- set opening = '' -%}
{%- endif -%}
{%- for message in turns -%}
    {%- if (message.role == 'user') != (loop.index0 % 2 == 0) -%}
        {{ raise_exception('user and assistant must take turns') }}
    {%- endif -%}
    {%- if message.role == 'user' -%}
        {{ bos_token + '[INST] ' + (opening if loop.first else '') + message.content.strip() + ' [/INST]' }}
    {%- else -%}
        {{ ' ' + message.content.strip() + ' ' + eos_token }}
    {%- endif -%}
{%- endfor -%}
"""

MISTRAL = """\
{%- set system = messages[0].content if messages[0].role == 'system' else none -%}
{%- set turns = messages[1:] if system is not none else messages -%}
{{- bos_token -}}
{%- for message in turns -%}
    {%- if message.role == 'user' -%}
        {%- if loop.last and system is not none -%}
            {{- '[INST] ' + system + '\\n\\n' + message.content + '[/INST]' -}}
        {%- else -%}
            {{- '[INST] ' + message.content + '[/INST]' -}}
        {%- endif -%}
    {%- elif message.role == 'assistant' -%}
        {{- ' ' + message.content | trim + eos_token -}}
    {%- else -%}
        {{- raise_exception('no such role here: ' + message.role) -}}
    {%- endif -%}
{%- endfor -%}
"""

PHI_3 = (
    "{% for message in messages %}{% if message['role'] in ['system', 'user', 'assistant'] %}"
    "{{ '<|' + message['role'] + '|>\n' + message['content'] + '<|end|>\n' }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% else %}{{ eos_token }}{% endif %}"
)

PHI_4 = (
    "{% for message in messages %}{{ '<|' + message['role'] + '|>' + message['content'] + '<|end|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% else %}{{ eos_token }}{% endif %}"
)

SMOLLM_3 = """\
{%- set thinks = enable_thinking is not defined or enable_thinking -%}
{%- set asked = messages[0].content if messages[0].role == 'system' else '' -%}
{{- '<|im_start|>system\\n## Metadata\\n\\nToday: ' + strftime_now('%B %Y') + '\\n' -}}
{{- 'Reasoning: ' + ('/think' if thinks else '/no_think') + '\\n\\n## Instructions\\n\\n' -}}
{{- (asked | trim or 'Help as well as you can.') + '<|im_end|>\\n' -}}
{%- for message in messages -%}
    {%- if message.role == 'assistant' -%}
        {{- '<|im_start|>assistant\\n' + ('' if thinks else '<think>\\n\\n</think>\\n') -}}
        {{- message.content.lstrip('\\n') + '<|im_end|>\\n' -}}
    {%- elif message.role != 'system' -%}
        {{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>\\n' -}}
    {%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}{%- endif -%}
"""

QWEN_3 = """\
{%- if messages[0].role == 'system' %}
    {{- '<|im_start|>system\\n' + messages[0].content + '<|im_end|>\\n' }}
{%- endif %}
{%- set last = namespace(user=0) %}
{%- for message in messages[::-1] %}
    {%- if message.role == 'user' and not last.user %}{%- set last.user = messages|length - loop.index0 %}{%- endif %}
{%- endfor %}
{%- for message in messages if message.role != 'system' %}
    {%- set content = message.content if message.content is string else '' %}
    {%- if '</think>' in content %}{%- set content = content.split('</think>')[-1].lstrip('\\n') %}{%- endif %}
    {{- '<|im_start|>' + message.role + '\\n' + content + '<|im_end|>' + '\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\\n' }}
    {%- if enable_thinking is defined and enable_thinking is false %}{{- '<think>\\n\\n</think>\\n\\n' }}{%- endif %}
{%- endif %}"""

REPLACE = {"type": "Replace", "pattern": {"String": " "}, "content": SPACE}
METASPACE = {"type": "Metaspace", "replacement": SPACE, "prepend_scheme": "first", "split": False}
NOTHING = {"type": "Sequence", "normalizers": []}


@dataclass(frozen=True)
class Family:
    """A template, the tokenizer.json around it, its settings, and how many BOS a chat of `turns` user messages gets."""

    template: str
    tokenizer: dict[str, Any]
    config: dict[str, Any]
    bos_each_turn: bool = False
    system: bool = True


def sentencepiece(*specials: str, bos: str = "<s>", eos: str = "</s>", **changes: Any) -> dict[str, Any]:
    """A SentencePiece-like tokenizer with these special tokens besides its own."""
    listed = [added(0, "<unk>"), added(1, "<s>"), added(2, "</s>")]
    rstrip = changes.pop("rstrip", False)
    listed += [added(450 + place, text, rstrip=rstrip) for place, text in enumerate(specials)]
    tokenizer = sentencepiece_json(added_tokens=listed, **changes)
    tokenizer["model"]["vocab"] |= {entry["content"]: entry["id"] for entry in listed}
    return json.loads(json.dumps(tokenizer).replace('"<s>"', f'"{bos}"').replace('"</s>"', f'"{eos}"'))


def byte_level(*specials: str, pattern: str = QWEN2, **changes: Any) -> dict[str, Any]:
    tokenizer = byte_level_json(specials=specials, pre_tokenizer=split_at(pattern), **changes)
    tokenizer["model"]["ignore_merges"] = pattern == LLAMA3
    return tokenizer


def config(bos: str | None, eos: str, add_bos: bool) -> dict[str, Any]:
    return {"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": bos, "eos_token": eos, "add_bos_token": add_bos}


TURNS = ("<start_of_turn>", "<end_of_turn>")
GEMMA_TOKENIZER = sentencepiece(*TURNS, bos="<bos>", eos="<eos>", normalizer=REPLACE)
PHI_3_TOKENIZER = sentencepiece("<|system|>", "<|user|>", "<|assistant|>", "<|end|>", rstrip=True, post_processor=None)
CHATML_TOKENS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
PHI_4_TOKENS = ("<|endoftext|>", "<|system|>", "<|user|>", "<|assistant|>", "<|end|>")
LLAMA_3_TOKENIZER = byte_level(
    "<|begin_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>", pattern=LLAMA3,
    post_processor=template("<|begin_of_text|>", begin=336),
)  # fmt: skip
FAMILIES = {
    "Gemma 2": Family(GEMMA_2, GEMMA_TOKENIZER, config("<bos>", "<eos>", True), system=False),
    "Gemma 3": Family(GEMMA_3, GEMMA_TOKENIZER, config("<bos>", "<eos>", True)),
    "Llama 2": Family(LLAMA_2, sentencepiece(), config("<s>", "</s>", True), bos_each_turn=True),
    "Llama 3": Family(LLAMA_3, LLAMA_3_TOKENIZER, config("<|begin_of_text|>", "<|eot_id|>", True)),
    "Mistral": Family(MISTRAL, sentencepiece(), config("<s>", "</s>", True)),
    "Mistral v0.3": Family(
        MISTRAL,
        sentencepiece("[INST]", "[/INST]", normalizer=NOTHING, pre_tokenizer=METASPACE),
        config("<s>", "</s>", True),
    ),
    "Phi-3": Family(PHI_3, PHI_3_TOKENIZER, config("<s>", "<|end|>", False)),
    "Qwen 2": Family(CHATML, byte_level(*CHATML_TOKENS, normalizer={"type": "NFC"}), config(None, "<|im_end|>", False)),
    "Qwen 3": Family(QWEN_3, byte_level(*CHATML_TOKENS, normalizer={"type": "NFC"}), config(None, "<|im_end|>", False)),
    "Phi-4": Family(PHI_4, byte_level(*PHI_4_TOKENS), config("<|endoftext|>", "<|end|>", False)),
    "SmolLM 3": Family(SMOLLM_3, byte_level(*CHATML_TOKENS, pattern=LLAMA3), config(None, "<|im_end|>", False)),
    "SmolLM 2": Family(CHATML, byte_level(*CHATML_TOKENS), config("<|im_start|>", "<|im_end|>", False)),
}

SYSTEM = {"role": "system", "content": " Be brief,\nand be kind. "}
USER = {"role": "user", "content": "\n Hi <b>\"e\u0301\"</b> & 'you' [INST]  \n"}
CHAT = [USER, {"role": "assistant", "content": " Hello there! "}, {"role": "user", "content": "2 + 2 = ? 日本"}]
CHATS = {"one": [USER], "several": CHAT, "system": [SYSTEM, *CHAT], "system and one": [SYSTEM, USER]}


@dataclass(frozen=True)
class Loaded:
    family: Family
    ours: Tokenizer
    theirs: Any
    template: str

    def render(self, messages: list[dict[str, Any]], prompt: bool) -> str:
        return render_chat(self.template, messages, self.ours.special_texts, add_generation_prompt=prompt)


@pytest.fixture(scope="module", params=FAMILIES)
def loaded(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Loaded:
    """A family's folder as we and as transformers read it."""
    family = FAMILIES[request.param]
    folder = write_folder(
        tmp_path_factory.mktemp("family"),
        tokenizer__json=family.tokenizer,
        tokenizer_config__json=family.config,
        chat_template__jinja=family.template,
    )
    metadata, _ = tokenizer_metadata(folder, 500)
    theirs = import_module("transformers").AutoTokenizer.from_pretrained(folder)
    return Loaded(family, Tokenizer.from_gguf(metadata), theirs, chat_template(metadata))


@pytest.mark.parametrize("prompt", [True, False])
@pytest.mark.parametrize("chat", CHATS.values(), ids=CHATS.keys())
def test_text_and_ids(loaded: Loaded, chat: list[dict[str, Any]], prompt: bool) -> None:
    """A system message goes in front of the user's first where the template takes none; transformers raises there."""
    family, ours = loaded.family, loaded.ours
    messages = chat
    if chat[0]["role"] == "system" and not family.system:
        with pytest.raises(Exception, match="no system role"):
            loaded.theirs.apply_chat_template(chat, tokenize=False)
        messages = fold_system(chat)
    text = loaded.render(chat, prompt)
    assert text == loaded.theirs.apply_chat_template(messages, tokenize=False, add_generation_prompt=prompt)
    ids = ours.encode(text, add_bos=ours.adds_bos, parse_special=True)
    expected = loaded.theirs.apply_chat_template(messages, add_generation_prompt=prompt, return_dict=False)
    assert ids == expected
    if ours.adds_bos:
        users = sum(message["role"] == "user" for message in chat)
        assert ids[0] == ours.bos_id and ids.count(ids[0]) == (users if family.bos_each_turn else 1)


def test_which_families_take_a_system_message(loaded: Loaded) -> None:
    assert takes_system_role(loaded.template, loaded.ours.special_texts) == loaded.family.system


def test_refusals_of_the_template(loaded: Loaded) -> None:
    """What a template refuses is refused with its words, and where one takes any order, so do we."""
    for chat in ([USER, USER], [USER, {"role": "tool", "content": "x"}]):
        try:
            expected = loaded.theirs.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
        except Exception as error:
            with pytest.raises(SmidgenError, match="cannot render this chat") as caught:
                loaded.render(chat, True)
            assert str(error) in str(caught.value)
        else:
            assert loaded.render(chat, True) == expected


def test_the_written_folder_chats_the_same(loaded: Loaded, tmp_path: Path) -> None:
    family = loaded.family
    folder = write_folder(
        tmp_path / "a",
        tokenizer__json=family.tokenizer,
        tokenizer_config__json=family.config | {"chat_template": family.template},
    )
    (tmp_path / "b").mkdir()
    write_tokenizer(tmp_path / "b", tokenizer_metadata(folder, 500)[0])
    assert (tmp_path / "b" / "chat_template.jinja").read_text(encoding="utf-8") == family.template
    theirs = import_module("transformers").AutoTokenizer.from_pretrained(tmp_path / "b")
    for prompt in (True, False):
        expected = loaded.theirs.apply_chat_template(CHAT, add_generation_prompt=prompt, return_dict=False)
        assert theirs.apply_chat_template(CHAT, add_generation_prompt=prompt, return_dict=False) == expected
