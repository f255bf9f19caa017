"""Where in a conversation, as a chat template writes it, the answers stand.

Which tokens these are is found by rendering: the template writes the conversation up to an answer, with the words that
begin an answer, and once more with the answer; what the second has more is learned from. That holds for every template
that writes messages in order. Where a template's words that begin an answer go further than the answers in it do (a
"<think>" that is put there for the model), the answer begins where the two part.

Two things make it necessary to take a conversation apart, into one example for each answer, as the model would see it:
- A later message changes how an earlier one is written (some drop the reasoning of all answers but the last).
- The template leaves out some of what an answer says, mostly its reasoning. Then the answer is written as it was given,
  between the words that the template puts around an answer, behind a conversation as the template writes it.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import takewhile
from os.path import commonprefix
from typing import Any

from smidgen.data.messages import REASONING, BadLine, Chat, reasoning_of
from smidgen.data.rendering import MARK, Renderer
from smidgen.data.tally import Case, Tally

_TAG = re.compile(r"</?[^<>\s]{1,40}>|\[/?[A-Z_]{1,40}\]")
_THINK, _THOUGHT = "<think>", "</think>"


@dataclass(frozen=True)
class Coded:
    """Tokens of one example.

    answers: where in them answers stand, and how much each counts.  muted: where a message stands that is not to be
    learned, though all else is.  head: how many tokens at the start have to stay if others go.
    """

    ids: list[int]
    answers: list[tuple[int, int, float]]
    muted: list[tuple[int, int]] = field(default_factory=list)
    head: int = 0


class Answers:
    """The answers of one conversation that are to be learned by one model.

    tally: what happens to them is counted there.
    """

    def __init__(self, renderer: Renderer, chat: Chat, tally: Tally) -> None:
        self._renderer, self._tokenizer, self._chat, self._tally = renderer, renderer.tokenizer, chat, tally
        self._texts: dict[tuple[int, bool], str] = {}

    def coded(self) -> list[Coded]:
        """One for the whole conversation, or one for each answer (see the module).

        Raises BadLine where the template refuses the conversation, or writes it in no way that can be followed.
        """
        chat = self._chat
        learned = [place for place in chat.answers if chat.weights[place] and self._says_anything(place)]
        whole = self._text(len(chat.messages))
        ids = self._renderer.ids(whole)
        spans = [self._span(place, whole, ids) for place in learned]
        given = [self._as_given(place) for place in learned]
        if any(one is None and self._begins_otherwise(place) for place, one in zip(learned, given, strict=True)):
            self._tally.happened(Case.BEGUN)
        found = [(*span, chat.weights[place]) for place, span in zip(learned, spans, strict=True) if span is not None]
        if len(found) == len(learned) and not any(given):
            return [Coded(ids, found, self._muted(ids))]
        if chat.has_system and self._span(learned[0], self._text(learned[0] + 1), None) is None:
            # A template that puts the system message into the last question has no place for it once that is answered.
            return Answers(self._renderer, chat.folded(), self._tally).coded()
        return [one or self._alone(place) for place, one in zip(learned, given, strict=True)]

    def _alone(self, place: int) -> Coded:
        """The conversation up to an answer, which alone is learned."""
        whole = self._text(place + 1)
        ids = self._renderer.ids(whole)
        span = self._span(place, whole, ids)
        if span is None:
            raise BadLine(
                "does not suit the model's chat template, which writes a question otherwise once it is answered"
            )
        return Coded(ids, [(*span, self._chat.weights[place])], self._muted(ids, place))

    def _span(self, place: int, whole: str, ids: list[int] | None) -> tuple[int, int] | None:
        """Where in `ids`, the tokens of `whole`, an answer stands, the token that ends it included.

        None where `whole` does not hold the conversation up to there as it was written when the answer came.
        """
        asked, answered = self._text(place, asks=True), self._text(place + 1)
        shared = len(commonprefix([asked, answered]))
        if shared < self._end_of_question(place) or not whole.startswith(asked[:shared]):
            return None
        tokens = self._renderer.ids(answered)
        ids = tokens if ids is None else ids
        start, stop = common(self._renderer.ids(asked), ids), common(tokens, ids)
        if not all(self._is_ending(token) for token in tokens[stop:]):  # some write an end of text after the last
            return None
        return start, self._end_of_turn(ids, start, stop)

    def _end_of_question(self, place: int) -> int:
        """Characters of what is asked up to the template's words that begin an answer; all where it has no such."""
        asked = self._text(place, asks=True)
        try:
            return len(commonprefix([asked, self._text(place)]))
        except BadLine:  # some refuse a conversation that ends without an answer
            return len(asked)

    def _begins_otherwise(self, place: int) -> bool:
        """Whether the template's words that begin an answer are not in the answer as it is written."""
        asked = self._text(place, asks=True)
        shared = len(commonprefix([asked, self._text(place + 1)]))
        return shared >= self._end_of_question(place) and bool(asked[shared:].strip())

    def _end_of_turn(self, ids: Sequence[int], start: int, stop: int) -> int:
        """The place after the token at which generation will stop. What follows it, often a newline, is never written.

        `stop` where no such token ends the answer.
        """
        tail = len(list(takewhile(self._is_ending, reversed(ids[start:stop]))))
        ends = (place + 1 for place in range(stop - tail, stop) if ids[place] in self._tokenizer.eos_ids)
        return next(ends, stop)

    def _is_ending(self, token: int) -> bool:
        return token in self._tokenizer.eos_ids or not self._tokenizer.piece(token).strip()

    def _muted(self, ids: list[int], stop: int | None = None) -> list[tuple[int, int]]:
        """Where in `ids` the messages stand that are not to be learned, with what the template writes around them."""
        places = [place for place, weight in enumerate(self._chat.weights[:stop]) if not weight]
        texts = [(self._text(place) if place else "", self._text(place + 1)) for place in places]
        return [(common(self._renderer.ids(one), ids), common(self._renderer.ids(two), ids)) for one, two in texts]

    # -- what a template leaves out ----------------------------------------------------------------------------------

    def _says_anything(self, place: int) -> bool:
        """Whether anything of an answer is written, where its calls of tools are not."""
        message = self._chat.messages[place]
        if "tool_calls" not in message:
            return True
        without = {key: value for key, value in message.items() if key != "tool_calls"}
        if self._renderer.text([*self._chat.messages[:place], without], False, self._chat.tools) != self._text(
            place + 1
        ):
            return True
        self._tally.happened(Case.NO_CALLS)
        return bool(message["content"].strip() or reasoning_of(message))

    def _as_given(self, place: int) -> Coded | None:
        """The answer with what the template leaves out of it; None where that is nothing, or cannot be put there."""
        message, answered = self._chat.messages[place], self._text(place + 1)
        written = answered[self._end_of_question(place) :]
        wanted = _all_said(message)
        if wanted.strip() in written or all(part.strip() in written for part in _TAG.split(wanted)):
            return None
        put = self._put(wanted, answered, place)
        if put is None:
            self._tally.happened(Case.CHANGED)
            return None
        prompt, answer = put
        ids = self._renderer.ids(prompt + answer)
        start = common(self._renderer.ids(prompt), ids)
        self._tally.happened(Case.GIVEN)
        span = start, self._end_of_turn(ids, start, len(ids)), self._chat.weights[place]
        return Coded(ids, [span], self._muted(ids, place))

    def _put(self, wanted: str, answered: str, place: int) -> tuple[str, str] | None:
        """What is asked, and all that is to be said behind it, its end included.

        None where what the template writes is not a part of that.
        """
        around = self._around(place)
        if around is None or not answered.endswith(around[1]):
            return None
        begun, end = around
        visible = answered[begun:].removesuffix(end).strip()
        if not wanted.strip().endswith(visible):
            thought, marked, _ = wanted.partition(_THOUGHT)
            if not marked:
                return None
            wanted = f"{thought}{_THOUGHT}\n\n{visible}"  # what the template writes of calls stays
        if wanted.startswith(_THINK) and not self._knows_reasoning():
            return None
        prompt, answer = _behind(self._text(place, asks=True), begun, wanted)
        return prompt, answer + end

    def _around(self, place: int) -> tuple[int, str] | None:
        """How many characters of what is asked stand before every answer, and what the template writes behind one."""
        chat, asked = self._chat, self._text(place, asks=True)
        plain = {key: value for key, value in chat.messages[place].items() if key not in (*REASONING, "tool_calls")}
        probe = [*chat.messages[:place], {**plain, "content": MARK}]
        before, found, behind = self._renderer.text(probe, False, chat.tools).rpartition(MARK)
        shared = len(commonprefix([asked, before]))
        return (shared, behind) if found and shared >= self._end_of_question(place) else None

    def _knows_reasoning(self) -> bool:
        """Whether the model marks its reasoning in the commonest way."""
        return any(mark in self._renderer.template or mark in self._tokenizer.tokens for mark in (_THINK, _THOUGHT))

    def _text(self, stop: int, asks: bool = False) -> str:
        """The messages up to one. asks: with the words that begin an answer."""
        key = stop, asks
        if key not in self._texts:
            self._texts[key] = self._renderer.text(self._chat.messages[:stop], asks, self._chat.tools)
        return self._texts[key]


def _all_said(message: dict[str, Any]) -> str:
    """All that an answer says: its content, behind the reasoning that stands beside it."""
    thought, content = reasoning_of(message).strip(), message["content"]
    if not thought or thought in content:
        return content
    return f"{_THINK}\n{thought}\n{_THOUGHT}\n\n{content.lstrip()}"


def _behind(asked: str, begun: int, answer: str) -> tuple[str, str]:
    """A prompt and what is to be said behind it. begun: characters of the prompt that stand before every answer.

    Where the answer begins with the words that the prompt adds to those, they are the prompt's.
    """
    words = asked[begun:].strip()
    if words and answer.lstrip().startswith(words):
        return asked, answer.lstrip().removeprefix(words).lstrip("\n")
    return asked[:begun], answer


def common(one: Sequence[int], other: Sequence[int]) -> int:
    """How many tokens two texts begin alike with."""
    pairs = zip(one, other, strict=False)
    return next((place for place, (a, b) in enumerate(pairs) if a != b), min(len(one), len(other)))
