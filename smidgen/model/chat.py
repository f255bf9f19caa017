"""Chat messages to the text a model was trained on, by the template in its own file.

The template is a Jinja program from a stranger. It runs as transformers runs it, so that every template in
circulation renders the same (`apply_chat_template`: an immutable sandbox, trimmed blocks, loop controls,
`raise_exception`, `strftime_now`, a `tojson` that leaves HTML characters alone), and on a budget that transformers
does not have: whatever it does costs what it takes in time and memory, and where the budget ends it is stopped (see
`templates`). A model can have several templates: the default one, and others by name.

Encode the result with `tokenizer.encode(text, add_bos=tokenizer.adds_bos, parse_special=True)`: many templates
write the BOS themselves, and the tokenizer sees to it that there is one. Text in a message that spells a control
token then becomes that token, as in every engine that renders before it tokenizes.
"""

from collections.abc import Mapping, Sequence
from functools import cache, lru_cache
from typing import Any

import jinja2
from jinja2.exceptions import SecurityError

from smidgen.errors import BadFile, SmidgenError, printable
from smidgen.model.templates import MOST_TEMPLATES
from smidgen.model.templates.budget import LONGEST_TEXT, MOST_WORK, budget, weigh
from smidgen.model.templates.sandbox import Sandbox

Message = Mapping[str, Any]  # at least "role" and "content"

DEFAULT_TEMPLATE = "default"
LONGEST_TEMPLATE = 1 << 20  # characters; the longest in use have about 30,000

_KEY = "tokenizer.chat_template"
_LONGEST_REASON = 1000  # characters of an error that are looked at
_PROBE_WORK = MOST_WORK // 16  # for a chat of a few words; templates in use take a hundredth of it

_ASKED = {"role": "user", "content": "a question"}
_ANSWERED = {"role": "assistant", "content": "an answer"}
_CALL = {"id": "abcdefghi", "type": "function", "function": {"name": "look_up", "arguments": {"word": "a"}}}
_CALLED = {"role": "assistant", "content": "", "tool_calls": [_CALL]}
_RETURNED = {"role": "tool", "name": "look_up", "tool_call_id": "abcdefghi", "content": "found"}
_LOOK_UP = {
    "name": "look_up",
    "description": "Looks up a word.",
    "parameters": {"type": "object", "properties": {"word": {"type": "string"}}, "required": ["word"]},
}
_NOTHING = {"messages": [], "tools": None, "documents": None, "add_generation_prompt": True}
_SPECIALS = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "pad_token": "<pad>"}
_PROBES: tuple[dict[str, Any], ...] = (
    {"messages": [_ASKED]},
    {"messages": [{"role": "system", "content": "a system message"}, _ASKED, _ANSWERED, _ASKED]},
    {"messages": [_ASKED, _CALLED, _RETURNED], "tools": [{"type": "function", "function": _LOOK_UP}]},
    {"messages": [{"role": "user", "content": [{"type": "text", "text": "a question"}]}, _ANSWERED]},
)


def chat_templates(metadata: Mapping[str, Any]) -> dict[str, str]:
    """All templates in a GGUF file's metadata by name, the default one first. Raises BadFile for too many of them."""
    named = {key.removeprefix(f"{_KEY}."): text for key, text in metadata.items() if key.startswith(f"{_KEY}.")}
    found = {DEFAULT_TEMPLATE: metadata.get(_KEY) or named.get(DEFAULT_TEMPLATE)}
    found |= {name: text for name, text in named.items() if name != DEFAULT_TEMPLATE}
    if len(found) > MOST_TEMPLATES:
        raise BadFile(f"the model has {len(found)} chat templates, more than {MOST_TEMPLATES}; get it from its maker.")
    return {name: text for name, text in found.items() if isinstance(text, str) and text.strip()}


def chat_template(metadata: Mapping[str, Any], name: str | None = None) -> str:
    """The template of this name in a GGUF file's metadata; without a name, the default one or the only one.

    Raises SmidgenError where there is none, or none of this name, or several and no default: with the names there are.
    """
    found = chat_templates(metadata)
    if not found:
        raise SmidgenError("this model has no chat template (it is a base model); use `smidgen run` instead.")
    if name is None and (DEFAULT_TEMPLATE in found or len(found) == 1):
        return next(iter(found.values()))
    if name is not None and (template := found.get(name) or found.get(template_key(name))):
        return template
    listed = ", ".join(printable(there, 64) for there in found)
    if name is None:
        raise SmidgenError(f"this model has several chat templates and no default; choose one of them: {listed}.")
    raise SmidgenError(f"this model has no chat template {printable(repr(name), 64)}; there are: {listed}.")


def template_key(name: str) -> str:
    """The name of a template as metadata keys spell it: letters and digits, like llama.cpp's converter."""
    return "".join(character if character.isascii() and character.isalnum() else "_" for character in name)


def refuse_hostile_template(template: str) -> None:
    """Refuse a template that no other program should be made to run either: llama.cpp has no bounds of its own.

    The bounds are this module's: length, depth, and that a few short chats render within a small budget. What a
    template refuses by itself ("roles must alternate") is no reason. Raises BadFile, in one line.
    """
    try:
        _compile(template)
    except Exception as error:  # Jinja and Python each have several for what they cannot read
        raise BadFile(f"the model's chat template cannot be read: {_reason(error)}.") from None
    for chat in _PROBES:
        try:
            for more in ({}, _SPECIALS, {**_SPECIALS, "add_generation_prompt": False}):
                _generate(template, {**_NOTHING, **chat, **more}, _PROBE_WORK)
        except (SecurityError, RecursionError, MemoryError) as error:
            raise BadFile(f"the model's chat template is refused: {_reason(error)}.") from None
        except Exception:  # a program's own errors, which end there as they end here
            continue


def refuse_hostile_chat(
    template: str, messages: Sequence[Message], specials: Mapping[str, str], tools: Sequence[Any] | None = None
) -> bool:
    """Refuse a conversation that makes a template do more than our bounds allow, before another program renders it.

    What the template refuses by itself passes here, and is refused there. Raises SmidgenError, in one line.
    Returns whether the tools make a difference to what it writes.
    """
    written = []
    for given in (tools, None) if tools else (None,):
        try:
            all_given = {**specials, **_NOTHING, "messages": messages, "tools": given}
            written.append(_generate(template, all_given, _work_for([*messages, {"tools": given}])))
        except (SecurityError, RecursionError, MemoryError) as error:
            raise SmidgenError(f"the model's chat template is stopped at this chat: {_reason(error)}.") from None
        except Exception:  # a program's own errors, which end there as they end here
            return True
    return len(set(written)) > 1


@lru_cache(maxsize=16)
def shows_calls(template: str) -> bool:
    """Whether a template writes earlier calls of tools and what they returned, rather than drop them without a word.

    What a template refuses is not dropped.
    """
    drops = False
    for arguments in ({"word": "a"}, '{"word": "a"}'):
        call = {**_CALL, "function": {"name": "called_back", "arguments": arguments}}
        returned = {"role": "tool", "tool_call_id": _CALL["id"], "content": "found_it"}
        chat = {"messages": [_ASKED, {**_CALLED, "tool_calls": [call]}, returned], "tools": [_LOOK_UP]}
        try:
            written = _generate(template, {**_NOTHING, **_SPECIALS, **chat}, _PROBE_WORK)
        except Exception:  # noqa: S112 - a program's own errors
            continue
        if "called_back" in written and "found_it" in written:
            return True
        drops = True
    return not drops


def render_chat(
    template: str,
    messages: Sequence[Message],
    specials: Mapping[str, str] | None = None,
    *,
    add_generation_prompt: bool = True,
    tools: Sequence[Any] | None = None,
) -> str:
    """The text of a conversation.

    specials: texts the template may ask for, such as bos_token and eos_token (`Tokenizer.special_texts`).
    add_generation_prompt: end with the words that begin the assistant's answer.
    tools: functions that the model may call, as OpenAI describes them.
    A first message with the role "system" is put in front of the first user message where the template has no system
    role (`takes_system_role` tells). Raises SmidgenError for a template that fails, refuses or exceeds the bounds.
    """
    specials = dict(specials or {})
    for place, message in enumerate(messages):
        if not isinstance(message.get("role"), str):
            raise SmidgenError(
                f"message {place + 1} of the chat has no role; give it a role such as user or assistant."
            )
    if messages and messages[0]["role"] == "system" and not takes_system_role(template, specials):
        messages = fold_system(messages)
    return _render(template, messages, specials, add_generation_prompt, tools)


def takes_system_role(template: str, specials: Mapping[str, str] | None = None) -> bool:
    """Whether a template writes a system message, rather than refuse it (Gemma 2) or drop it without a word."""
    return _takes_system_role(template, tuple(sorted((specials or {}).items())))


@lru_cache(maxsize=16)
def _takes_system_role(template: str, specials: tuple[tuple[str, str], ...]) -> bool:
    mark = "a system message"
    probe = [{"role": "system", "content": mark}, {"role": "user", "content": "a question"}]
    try:
        return mark in _render(template, probe, dict(specials), True)
    except SmidgenError:
        return False


def fold_system(messages: Sequence[Message]) -> list[Message]:
    """The first message, a system message, put in front of the user's that follows, or made a user's if none does."""
    system, *rest = messages
    if not rest or rest[0]["role"] != "user":
        return [{**system, "role": "user"}, *rest]
    before, after = system.get("content"), rest[0].get("content")
    if isinstance(before, str) and isinstance(after, str):
        content: Any = f"{before}\n\n{after}"
    else:
        content = [*_parts(before), {"type": "text", "text": "\n\n"}, *_parts(after)]
    return [{**rest[0], "content": content}, *rest[1:]]


def _parts(content: Any) -> list[Any]:
    """Content as a list of parts, the form that templates of multimodal models read."""
    return list(content) if isinstance(content, list | tuple) else [{"type": "text", "text": str(content or "")}]


def _render(
    template: str, messages: Sequence[Message], specials: Mapping[str, str], add_generation_prompt: bool,
    tools: Sequence[Any] | None = None,
) -> str:  # fmt: skip
    given = {
        **specials,
        **_NOTHING,
        "messages": messages,
        "add_generation_prompt": add_generation_prompt,
        "tools": tools,
    }
    try:
        return _generate(template, given, _work_for([*messages, {"tools": tools}] if tools else messages))
    except (RecursionError, MemoryError) as error:
        raise SmidgenError(f"the model's chat template cannot be used: {_reason(error)}.") from None
    except Exception as error:  # a template is a program and can fail in any way a program can
        raise SmidgenError(f"the model's chat template cannot render this chat: {_reason(error)}") from error


def _work_for(messages: Sequence[Message]) -> int:
    """What a chat may cost: templates in use take a tenth of it at most, whatever its length."""
    with budget(MOST_WORK):
        return min(MOST_WORK, MOST_WORK // 8 + 256 * weigh(messages))


def _generate(template: str, given: Mapping[str, Any], work: int) -> str:
    pieces: list[str] = []
    length = 0
    with budget(work):
        for piece in _compile(template).generate(given):
            pieces.append(piece)
            length += len(piece)
            if length > LONGEST_TEXT:
                raise SecurityError(f"it writes more than {LONGEST_TEXT} characters")
    return "".join(pieces)


def _reason(error: BaseException) -> str:
    if isinstance(error, RecursionError | MemoryError):
        return "it is nested too deep, or calls itself without end"
    return printable(" ".join(str(error)[:_LONGEST_REASON].split()).rstrip(".")) or type(error).__name__


@lru_cache(maxsize=16)
def _compile(template: str) -> jinja2.Template:
    if len(template) > LONGEST_TEMPLATE:
        raise SecurityError(f"it has {len(template)} characters, more than {LONGEST_TEMPLATE}")
    return _sandbox().from_string(template)


@cache
def _sandbox() -> Sandbox:
    return Sandbox()
