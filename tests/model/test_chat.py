"""Chat templates: the families' styles by hand, transformers' own rendering, system messages, and hostile templates."""

import re
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

from smidgen.errors import BadFile, SmidgenError
from smidgen.formats.gguf.reader import GGUFFile
from smidgen.model import chat
from smidgen.model.chat import (
    chat_template,
    fold_system,
    refuse_hostile_chat,
    refuse_hostile_template,
    render_chat,
    takes_system_role,
)
from smidgen.model.tokenizer import Tokenizer

CHATML = """\
{% for message in messages %}
    {% if loop.first and message.role != 'system' %}
        {{- '<|im_start|>system\\nDefault.<|im_end|>\\n' -}}
    {% endif %}
{{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>\\n' -}}
{% endfor %}
{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"""

GEMMA_2 = (
    "{{ bos_token }}{% if messages[0]['role'] == 'system' %}{{ raise_exception('no system role here') }}{% endif %}"
    "{% for message in messages %}"
    "{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('roles must alternate') }}{% endif %}"
    "{% set role = 'model' if message['role'] == 'assistant' else message['role'] %}"
    "{{ '<start_of_turn>' + role + '\n' + message['content'] | trim + '<end_of_turn>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{'<start_of_turn>model\n'}}{% endif %}"
)

GEMMA_3 = """\
{{ bos_token }}
{%- if messages[0].role == 'system' -%}
    {%- if messages[0].content is string -%}
        {%- set prefix = messages[0].content + '\\n\\n' -%}
    {%- else -%}
        {%- set prefix = messages[0].content[0].text + '\\n\\n' -%}
    {%- endif -%}
    {%- set turns = messages[1:] -%}
{%- else -%}
    {%- set prefix = '' -%}
    {%- set turns = messages -%}
{%- endif -%}
{%- for message in turns -%}
    {%- set role = 'model' if message.role == 'assistant' else message.role -%}
    {{ '<start_of_turn>' + role + '\\n' + (prefix if loop.first else '') }}
    {%- if message.content is string -%}
        {{ message.content | trim }}
    {%- elif message.content is iterable -%}
        {%- for part in message.content -%}
            {%- if part.type == 'image' -%}{{ '<start_of_image>' }}
            {%- elif part.type == 'text' -%}{{ part.text | trim }}
            {%- endif -%}
        {%- endfor -%}
    {%- endif -%}
    {{ '<end_of_turn>\\n' }}
{%- endfor -%}
{%- if add_generation_prompt -%}{{ '<start_of_turn>model\\n' }}{%- endif -%}
"""

LLAMA_3 = (
    "{% set loop_messages = messages %}{% for message in loop_messages %}"
    "{% set content = '<|start_header_id|>' + message['role'] + '<|end_header_id|>\n\n'"
    " + message['content'] | trim + '<|eot_id|>' %}"
    "{% if loop.index0 == 0 %}{% set content = bos_token + content %}{% endif %}{{ content }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}"
)

MISTRAL = (
    "{{ bos_token }}{% for message in messages %}"
    "{% if message.role == 'user' %}{{ ' [INST] ' + message.content + ' [/INST]' }}"
    "{% elif message.role == 'assistant' %}{{ ' ' + message.content + eos_token }}{% endif %}{% endfor %}"
)

WITH_EXTRAS = """\
{% set ns = namespace(turns=0) %}
{% for message in messages %}
    {% if message.role == 'tool' %}{% continue %}{% endif %}
    {% set ns.turns = ns.turns + 1 %}
{{ message | tojson }}
    {% generation %}{{ message.content }}{% endgeneration %}

    {% if ns.turns == 2 %}{% break %}{% endif %}
{% endfor %}
{{ strftime_now('%Y') | length }} {{ tools is none }} {{ undefined_name }}{{ '-' * 3 }} {{ range(3) | list }}"""

SPECIALS = {"bos_token": "<s>", "eos_token": "</s>"}
SYSTEM = {"role": "system", "content": "Be brief."}
USER = {"role": "user", "content": "Hi <b>\"é\"</b> & 'you'\n"}
CHAT = [USER, {"role": "assistant", "content": "Hello!"}, {"role": "user", "content": "2 + 2?"}]


def test_chatml() -> None:
    assert render_chat(CHATML, [SYSTEM, *CHAT[:2]]) == (
        "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nHi <b>\"é\"</b> & 'you'\n<|im_end|>\n"
        "<|im_start|>assistant\nHello!<|im_end|>\n<|im_start|>assistant\n"
    )
    assert render_chat(CHATML, CHAT[2:], add_generation_prompt=False) == (
        "<|im_start|>system\nDefault.<|im_end|>\n<|im_start|>user\n2 + 2?<|im_end|>\n"
    )


def test_llama_3() -> None:
    assert render_chat(LLAMA_3, [SYSTEM, CHAT[2]], {"bos_token": "<|begin_of_text|>"}) == (
        "<|begin_of_text|><|start_header_id|>system<|end_header_id|>\n\nBe brief.<|eot_id|>"
        "<|start_header_id|>user<|end_header_id|>\n\n2 + 2?<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n"
    )


@pytest.mark.parametrize("template", [GEMMA_2, GEMMA_3])
def test_gemma_with_and_without_system(template: str) -> None:
    turns = "<start_of_turn>user\n{}2 + 2?<end_of_turn>\n<start_of_turn>model\n"
    assert render_chat(template, CHAT[2:], {"bos_token": "<bos>"}) == "<bos>" + turns.format("")
    assert render_chat(template, [SYSTEM, CHAT[2]], {"bos_token": "<bos>"}) == "<bos>" + turns.format("Be brief.\n\n")


def test_which_templates_take_a_system_role() -> None:
    expected = {CHATML: True, GEMMA_2: False, GEMMA_3: True, LLAMA_3: True, MISTRAL: False}
    assert {template: takes_system_role(template, SPECIALS) for template in expected} == expected


def test_a_system_message_that_would_be_dropped_is_folded_in() -> None:
    assert render_chat(MISTRAL, [SYSTEM, CHAT[2]], SPECIALS) == "<s> [INST] Be brief.\n\n2 + 2? [/INST]"


def test_folding() -> None:
    parts = [{"type": "image"}, {"type": "text", "text": "what?"}]
    assert fold_system([SYSTEM]) == [{"role": "user", "content": "Be brief."}]
    assert fold_system([SYSTEM, CHAT[1]]) == [{"role": "user", "content": "Be brief."}, CHAT[1]]
    folded = fold_system([SYSTEM, {"role": "user", "content": parts}])
    assert folded == [
        {"role": "user", "content": [{"type": "text", "text": "Be brief."}, {"type": "text", "text": "\n\n"}, *parts]}
    ]
    assert SYSTEM["content"] == "Be brief."


def test_the_templates_own_refusal_is_the_error() -> None:
    with pytest.raises(SmidgenError, match="roles must alternate"):
        render_chat(GEMMA_2, [USER, USER], SPECIALS)


@pytest.mark.parametrize("template", [CHATML, GEMMA_2, GEMMA_3, LLAMA_3, MISTRAL, WITH_EXTRAS])
@pytest.mark.parametrize("add_generation_prompt", [True, False])
def test_as_transformers_renders(template: str, add_generation_prompt: bool) -> None:
    reference = import_module("transformers.utils.chat_template_utils")
    expected = reference.render_jinja_template(
        [CHAT], chat_template=template, add_generation_prompt=add_generation_prompt, **SPECIALS
    )
    assert render_chat(template, CHAT, SPECIALS, add_generation_prompt=add_generation_prompt) == expected[0][0]


def test_smollm2_as_transformers_renders(smollm_path: Path) -> None:
    reference = import_module("transformers.utils.chat_template_utils")
    with GGUFFile.open(smollm_path) as file:
        template, tokenizer = chat_template(file.metadata), Tokenizer.from_gguf(file.metadata)
    specials = tokenizer.special_texts
    assert specials == {
        "bos_token": "<|im_start|>", "eos_token": "<|im_end|>", "unk_token": "<|endoftext|>", "pad_token": "<|im_end|>",
    }  # fmt: skip
    for messages in (CHAT, [SYSTEM, *CHAT], [USER]):
        for prompt in (True, False):
            expected = reference.render_jinja_template(
                [messages], chat_template=template, add_generation_prompt=prompt, **specials
            )
            assert render_chat(template, messages, specials, add_generation_prompt=prompt) == expected[0][0]
    ids = tokenizer.encode(render_chat(template, [USER], specials), add_bos=tokenizer.adds_bos, parse_special=True)
    assert ids[:2] == [1, 9690] and ids.count(1) == 3 and ids.count(2) == 2


def test_one_bos_where_the_template_writes_it(gemma_path: Path) -> None:
    with GGUFFile.open(gemma_path) as file:
        tokenizer = Tokenizer.from_gguf(file.metadata)
    text = render_chat(GEMMA_2, [SYSTEM, CHAT[2]], tokenizer.special_texts)
    assert text.startswith("<bos><start_of_turn>user\n")
    ids = tokenizer.encode(text, add_bos=tokenizer.adds_bos, parse_special=True)
    assert ids[:2] == [2, 105] and ids.count(2) == 1
    assert tokenizer.decode(ids) == text


def test_a_model_without_a_template(gemma_path: Path) -> None:
    with (
        GGUFFile.open(gemma_path) as file,
        pytest.raises(SmidgenError, match="no chat template.*base model.*smidgen run"),
    ):
        chat_template(file.metadata)


HOSTILE = {
    "long loop": "{% for i in range(9999) %}{% for j in range(9999) %}{% endfor %}{% endfor %}",
    "branching recursion": "{% macro f(n) %}{% if n %}{{ f(n - 1) }}{{ f(n - 1) }}{% endif %}{% endmacro %}{{ f(60) }}",
    "endless recursion": "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
    "long range": "{{ range(100001) | list }}",
    "negative range": "{{ range(0, -100001, -1) | list }}",
    "much output": "{% for i in range(9999) %}{{ 'a' * 9999 }}{% endfor %}",
    "repetition": "{{ 'a' * 10000000000 }}",
    "list repetition": "{{ 10000000000 * [0] }}",
    "power": "{{ 10 ** 10 ** 10 }}",
    "doubling": "{% set n = namespace(x='a') %}{% for i in range(60) %}{% set n.x = n.x * 2 %}{% endfor %}",
    "class": "{{ ''.__class__.__mro__[1].__subclasses__() }}",
    "globals": "{{ cycler.__init__.__globals__.os.popen('id').read() }}",
    "environment": "{{ self._TemplateReference__context.environment }}",
    "format": "{{ '{0.__class__.__init__.__globals__}'.format(messages) }}",
    "change messages": "{{ messages.append(1) }}",
    "change a message": "{{ messages[0].update(role='x') }}",
    "include": "{% include '/etc/passwd' %}",
    "import": "{% import 'os' as os %}",
    "syntax": "{% if",
    "deep": "{{ " + "(" * 10_000 + "1" + ")" * 10_000 + " }}",
    "huge": "a" * (1 << 21),
    "undefined": "{{ messages[7].role }}",
    "arithmetic": "{{ 1 / 0 }}",
    "raises lines": "{{ raise_exception('a\\nb' * 1000) }}",
    "not json": "{{ range | tojson }}",
}


@pytest.mark.parametrize("template", HOSTILE.values(), ids=HOSTILE.keys())
def test_hostile_templates_are_one_line_errors(template: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chat, "MOST_WORK", chat.MOST_WORK >> 4)  # so that they end sooner
    messages = [dict(USER)]
    with pytest.raises(SmidgenError) as caught:
        render_chat(template, messages, SPECIALS)
    assert re.fullmatch(r"[^\n]{1,300}", str(caught.value))
    assert messages == [USER]


@pytest.mark.parametrize("message", [{}, {"content": "x"}, {"role": None, "content": "x"}])
def test_messages_need_a_role(message: dict[str, Any]) -> None:
    with pytest.raises(SmidgenError, match="message 2 of the chat has no role"):
        render_chat(CHATML, [USER, message])


def test_a_long_chat_is_within_the_bounds() -> None:
    long = CHAT[:2] * 500 + [{"role": "user", "content": "x" * 1_000_000}]
    for template in (CHATML, GEMMA_2, GEMMA_3, LLAMA_3):
        assert len(render_chat(template, long, SPECIALS)) > 1_000_000


@pytest.mark.parametrize("template", [CHATML, GEMMA_2, GEMMA_3, LLAMA_3, MISTRAL, WITH_EXTRAS, "", "no code"])
def test_good_templates_are_not_refused(template: str) -> None:
    """Nor is Gemma 2's own refusal of a system message a reason."""
    refuse_hostile_template(template)


LOOPS = "".join(f"{{% for {name} in range(10000) %}}" for name in "abc") + "{% endfor %}" * 3
REFUSED = {
    "length": "a" * ((1 << 20) + 1),
    "words": "{{x}}" * 20_000,
    "brackets": "{{ " + "[" * 41 + "]" * 41 + " }}",
    "not": "{{ " + "not " * 101 + "x }}",
    "minus": "{{ " + "- " * 101 + "1 }}",
    "if": "{% if x %}" * 101 + "{% endif %}" * 101,
    "elif": "{% if x %}" + "{% elif x %}" * 101 + "{% endif %}",
    "filters": "{{ x" + " | trim" * 101 + " }}",
    "~": "{{ x" + " ~ x" * 101 + " }}",
    "comparisons": "{{ x" + " == x" * 101 + " }}",
    "if else": "{{ " + "x if x else " * 101 + "x }}",
    "unfinished": "{% if x %}",
    "an unknown filter": "{{ x | urlize }}",
    "loops": LOOPS,
    "endless recursion": "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
    "loops for tools": "{% if tools %}" + LOOPS + "{% endif %}",
    "width": "{{ 'a' | center(100000000) }}",
}


@pytest.mark.parametrize("template", REFUSED.values(), ids=REFUSED.keys())
def test_templates_that_no_engine_should_see(template: str) -> None:
    with pytest.raises(BadFile) as caught:
        refuse_hostile_template(template)
    assert re.fullmatch(r"the model's chat template (is refused|cannot be read): [^\n]{1,300}\.", str(caught.value))


def test_depth_is_far_above_that_of_templates_in_use() -> None:
    refuse_hostile_template(
        "{% if x %}" * 30 + "{{ (((((a ~ b ~ c[0].d | trim | default('x')))))) }}" + "{% endif %}" * 30
    )


@pytest.mark.parametrize("condition", ["bos_token", "eos_token", "not add_generation_prompt", "tools"])
def test_a_template_that_hides_what_it_does(condition: str) -> None:
    with pytest.raises(BadFile, match="refused"):
        refuse_hostile_template("{% if " + condition + " %}" + LOOPS + "{% endif %}{{ messages[0].content }}")


def test_a_template_that_waits_for_one_chat_is_stopped_at_it() -> None:
    template = "{% if messages | length == 9 %}" + LOOPS + "{% endif %}{{ messages[0].content }}"
    refuse_hostile_template(template)
    message = {"role": "user", "content": "a"}
    assert refuse_hostile_chat(template, [message], {}) is False
    with pytest.raises(SmidgenError, match="stopped at this chat"):
        refuse_hostile_chat(template, [message] * 9, {})


def test_whether_tools_are_seen() -> None:
    message, tool = {"role": "user", "content": "a"}, {"type": "function", "function": {"name": "f"}}
    assert refuse_hostile_chat("{% if tools %}{{ tools | tojson }}{% endif %}", [message], {}, [tool])
    assert not refuse_hostile_chat("{{ messages[0].content }}", [message], {}, [tool])
