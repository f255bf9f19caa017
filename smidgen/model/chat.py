"""Chat messages to the text a model was trained on, by the template in its own file.

The template is a Jinja program from a stranger. It runs as transformers runs it, so that every template in
circulation renders the same (`apply_chat_template`: an immutable sandbox, trimmed blocks, loop controls,
`raise_exception`, `strftime_now`, a `tojson` that leaves HTML characters alone), and under bounds that
transformers does not have: on the steps it takes, on `range`, on repetition and on what it writes. What one
expression may allocate (filters that pad, format or join) is not bounded.

Encode the result with `tokenizer.encode(text, add_bos=tokenizer.adds_bos, parse_special=True)`: many templates
write the BOS themselves, and the tokenizer sees to it that there is one. Text in a message that spells a control
token then becomes that token, as in every engine that renders before it tokenizes.
"""

import json
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime
from functools import cache, lru_cache
from types import FrameType
from typing import Any

import jinja2
import jinja2.nodes
from jinja2.exceptions import SecurityError
from jinja2.ext import Extension
from jinja2.parser import Parser
from jinja2.runtime import Context
from jinja2.sandbox import ImmutableSandboxedEnvironment

from smidgen.errors import SmidgenError, printable

Message = Mapping[str, Any]  # at least "role" and "content"

LONGEST_TEMPLATE = 1 << 20  # characters; the longest in use have about 30,000
LONGEST_TEXT = 1 << 24  # characters, of what a template writes or repeats
LONGEST_RANGE = 10_000
MOST_STEPS = 1_000_000  # lines of Python that run while a template renders: a second or two; a long chat takes 20,000


def chat_template(metadata: Mapping[str, Any]) -> str:
    """The template in a GGUF file's metadata. Raises SmidgenError where there is none."""
    template = metadata.get("tokenizer.chat_template")
    if not isinstance(template, str) or not template.strip():
        raise SmidgenError("this model has no chat template (it is a base model); use `smidgen run` instead.")
    return template


def render_chat(
    template: str,
    messages: Sequence[Message],
    specials: Mapping[str, str] | None = None,
    *,
    add_generation_prompt: bool = True,
) -> str:
    """The text of a conversation.

    specials: texts the template may ask for, such as bos_token and eos_token (`Tokenizer.special_texts`).
    add_generation_prompt: end with the words that begin the assistant's answer.
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
    return _render(template, messages, specials, add_generation_prompt)


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
    template: str, messages: Sequence[Message], specials: Mapping[str, str], add_generation_prompt: bool
) -> str:
    given = {"messages": messages, "tools": None, "documents": None, "add_generation_prompt": add_generation_prompt}
    pieces: list[str] = []
    length = 0
    try:
        compiled = _compile(template)
        with _limited_steps():
            for piece in compiled.generate(**(dict(specials) | given)):
                pieces.append(piece)
                length += len(piece)
                if length > LONGEST_TEXT:
                    raise SecurityError(f"it writes more than {LONGEST_TEXT} characters")
    except _TooManySteps:
        raise SmidgenError(
            f"the model's chat template runs for more than {MOST_STEPS} steps; it was stopped."
        ) from None
    except (RecursionError, MemoryError):
        raise SmidgenError("the model's chat template is nested too deep or too large to be used.") from None
    except Exception as error:  # a template is a program and can fail in any way a program can
        reason = " ".join(str(error).split()) or type(error).__name__
        raise SmidgenError(f"the model's chat template cannot render this chat: {printable(reason)}") from error
    return "".join(pieces)


class _TooManySteps(BaseException):
    """Not an Exception, so that no filter can swallow it."""


@contextmanager
def _limited_steps() -> Iterator[None]:
    """Count the lines of Python run in this thread (loops, macros and filters alike) and stop at MOST_STEPS."""
    left = MOST_STEPS

    def count(frame: FrameType, event: str, argument: Any) -> Callable[..., Any]:
        nonlocal left
        left -= 1
        if left < 0:
            raise _TooManySteps
        return count

    outer = sys.gettrace()  # a debugger's or a coverage tool's
    sys.settrace(count)
    try:
        yield
    finally:
        sys.settrace(outer)


@lru_cache(maxsize=16)
def _compile(template: str) -> jinja2.Template:
    if len(template) > LONGEST_TEMPLATE:
        raise SecurityError(f"it has {len(template)} characters, more than {LONGEST_TEMPLATE}")
    return _environment().from_string(template)


class _GenerationBlock(Extension):
    """{% generation %} … {% endgeneration %} marks the assistant's words, for training; here only they count."""

    tags = {"generation"}

    def parse(self, parser: Parser) -> list[jinja2.nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


class _Environment(ImmutableSandboxedEnvironment):
    """The sandbox, with a bound on repetition."""

    intercepted_binops = frozenset({"*", "**"})

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        """Multiply; but no powers, and no repetition beyond LONGEST_TEXT."""
        if operator == "**":
            raise SecurityError("it raises to a power")
        for text, times in ((left, right), (right, left)):
            if isinstance(text, str | list | tuple) and isinstance(times, int) and len(text) * times > LONGEST_TEXT:
                raise SecurityError(f"it repeats a value to more than {LONGEST_TEXT} characters")
        return super().call_binop(context, operator, left, right)


@cache
def _environment() -> _Environment:
    environment = _Environment(
        trim_blocks=True, lstrip_blocks=True, extensions=[_GenerationBlock, "jinja2.ext.loopcontrols"]
    )
    environment.filters["tojson"] = _to_json
    environment.globals["raise_exception"] = _raise_exception
    environment.globals["strftime_now"] = _strftime_now
    environment.globals["range"] = _bounded_range
    del environment.globals["lipsum"]
    return environment


def _to_json(
    value: Any, ensure_ascii: bool = False, indent: Any = None, separators: Any = None, sort_keys: bool = False
) -> str:
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def _raise_exception(message: str) -> None:
    raise jinja2.TemplateError(message)


def _strftime_now(form: str) -> str:
    return datetime.now().strftime(form)


def _bounded_range(*bounds: int) -> range:
    steps = range(*bounds)
    if len(steps) > LONGEST_RANGE:
        raise SecurityError(f"it asks for a range of more than {LONGEST_RANGE}")
    return steps
