"""A chat template as fixed texts between messages, for programs that cannot run Jinja: found by trying. Torch-free.

Most templates write the same text wherever the same two roles meet: between a question and its answer, between an
answer and the next question. These texts are found by rendering conversations of words that no template has, and are
believed only where they give, to the character, what the template itself writes for other conversations. What depends
on more than the two roles (the date, tools, how long the conversation is) cannot be said so, and `Turns.of` says why.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Self

from smidgen.errors import SmidgenError
from smidgen.model.chat import Message, render_chat

_LONGEST = 16_384  # characters of fixed text; templates in use have some hundred
_MARKS = {"system": "Zqsystemq", "user": "Zquserq", "assistant": "Zqanswerq"}
_START, _END = "", "end"
# Conversations whose texts must come out right, by first letters of roles.
_TRIED = ("u", "uau", "su", "suau", "uauau", "suauau")
_ROLES = {role[0]: role for role in _MARKS}
_TEXTS = ('He said: "1 < 2 & {{ 3 }}"', "two\nlines,\n\n\tand more", "ä 漢 \U0001f600 'x' \\n", "%s {% if %} $1 <b>")


class NotFixed(SmidgenError):
    """A template that writes more than fixed texts. The message says why, as the end of a sentence."""


@dataclass(frozen=True)
class Turns:
    """between: (role before, role after) → the text where they meet. "" is the start of a conversation, "end" where the
    model's answer begins.
    trims: the template takes blanks and line ends from both ends of messages, which fixed texts cannot.
    """

    between: Mapping[tuple[str, str], str]
    trims: bool

    @classmethod
    def of(cls, template: str, specials: Mapping[str, str], begins_with: str = "") -> Self:
        """From a template. specials: as `render_chat` wants them.  begins_with: what the engine puts before every text
        by itself (the text of the BOS token), and is therefore left out.

        Raises NotFixed where the template cannot be said so.
        """
        if "strftime_now" in template:
            raise NotFixed("it writes today's date")

        def write(messages: Sequence[Message]) -> str:
            return render_chat(template, messages, specials).removeprefix(begins_with)

        try:
            between = _meetings(write)
            turns = cls(between, False)
            for text in range(len(_TEXTS)):
                for roles in _TRIED:
                    tried = _conversation(roles, text)
                    if turns.render(tried) != write(tried):
                        raise NotFixed("what it writes depends on more than the roles of two messages")
            blanks = [{"role": "user", "content": " \n a question \n"}]
            return cls(between, turns.render(blanks) != write(blanks))
        except NotFixed:
            raise
        except SmidgenError as error:
            raise NotFixed(f"it fails at an ordinary conversation: {error}") from error

    def render(self, messages: Sequence[Message]) -> str:
        """The text of a conversation, to the beginning of the model's answer."""
        pieces, before = [], _START
        for message in messages:
            pieces += [self.between[before, message["role"]], message["content"]]
            before = message["role"]
        return "".join([*pieces, self.between.get((before, _END), "")])


def _meetings(write) -> dict[tuple[str, str], str]:
    """The texts where two roles meet. Raises NotFixed where the words of a conversation do not come back."""
    found = dict(_met("uau", write))
    found |= dict(_met("su", write))
    found["system", _END] = found["user", _END]
    try:  # a new system message in the middle of a conversation: many templates refuse it
        found |= {("assistant", "system"): dict(_met("uasu", write))["assistant", "system"]}
    except SmidgenError:
        found["assistant", "system"] = _after_an_answer(found)
    if sum(map(len, found.values())) > _LONGEST:
        raise NotFixed("what it writes is too long")
    return found


def _after_an_answer(found: Mapping[tuple[str, str], str]) -> str:
    """What a system message after an answer would begin with, had the template a place for it there."""
    first, later = found[_START, "user"], found["assistant", "user"]
    return later.removesuffix(first) + found[_START, "system"] if later.endswith(first) else found[_START, "system"]


def _met(roles: str, write) -> Iterator[tuple[tuple[str, str], str]]:
    """Render a conversation of marks, and take what stands between them."""
    marks = [f"{_MARKS[_ROLES[letter]]}{place}" for place, letter in enumerate(roles)]
    rest = write([{"role": _ROLES[letter], "content": mark} for letter, mark in zip(roles, marks, strict=True)])
    before = _START
    for letter, mark in zip(roles, marks, strict=True):
        text, there, rest = rest.partition(mark)
        if not there or mark in rest:
            raise NotFixed("it leaves out a message, or writes one twice")
        yield (before, _ROLES[letter]), text
        before = _ROLES[letter]
    yield (before, _END), rest


def _conversation(roles: str, first: int) -> list[Message]:
    """Messages of these roles, with texts that a template might stumble over."""
    texts = [_TEXTS[(first + place) % len(_TEXTS)] for place in range(len(roles))]
    return [{"role": _ROLES[letter], "content": text} for letter, text in zip(roles, texts, strict=True)]
