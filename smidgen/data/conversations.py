"""Examples to learn from, from JSON Lines: conversations, prompts with their completions, or plain text.

    {"messages": [{"role": "user", "content": …}, {"role": "assistant", "content": …}, …]}
    {"prompt": …, "completion": …}
    {"text": …}

A model that has a chat template sees conversations, and prompts with completions too, as its template writes them, for
this is how it will be asked. Learned from are the assistant's words and the token that ends them; the rest is read.

Which tokens these are is found by rendering: the template writes the conversation up to an answer, with the words that
begin an answer, and once more with the answer; what the second has more is learned from. That holds for every template
that writes messages in order. Where a later message changes how an earlier one is written (some drop the reasoning of
all answers but the last), the conversation becomes one example for each answer, each as the model would see it.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path
from typing import Any

from smidgen.data import json_lines
from smidgen.errors import BadFile, SmidgenError, Unsupported, printable
from smidgen.model.chat import fold_system, render_chat
from smidgen.model.tokenizer import Tokenizer

_SHAPES = 'a line needs "messages", or "prompt" and "completion", or "text"'


@dataclass(frozen=True)
class Example:
    """Tokens of one text.  weights: how much it counts to predict each of them; 0 for those that are only read.

    name: file and line.
    """

    ids: list[int]
    weights: list[float]
    name: str


@dataclass
class Tally:
    """What became of the lines that were read.

    bad: skipped.  shortened: prompts that lost their beginning.  dropped: answers longer than the context.
    pieces: texts that were cut into several.  size: bytes that were read.
    """

    lines: int = 0
    examples: int = 0
    bad: int = 0
    shortened: int = 0
    dropped: int = 0
    pieces: int = 0
    size: int = 0

    def notes(self, context: int) -> list[str]:
        """What a person should know, a line each."""
        cases = {
            "malformed and skipped": self.bad,
            f"longer than the context of {context} tokens: their prompts lost their beginning": self.shortened,
            f"left out, their answers do not fit a context of {context} tokens (--context)": self.dropped,
            f"longer than {context} tokens and cut into pieces": self.pieces,
        }
        return [f"{count} of {self.lines} lines {what}." for what, count in cases.items() if count]


class _BadLine(ValueError):
    """What is wrong with a line, to be said after its name."""


@dataclass(frozen=True)
class _Coded:
    """ids, and the spans of them that are answers."""

    ids: list[int]
    answers: list[tuple[int, int]]


class Coder:
    """From the object of a line to examples, for one model.

    template: the model's chat template, None if it has none or is not to be used for prompts with completions
    (`chat=False` keeps it for messages).  context: tokens of the longest example.  on_prompts: learn from all of it.
    """

    def __init__(
        self, tokenizer: Tokenizer, template: str | None, context: int, on_prompts: bool = False, chat: bool = True
    ) -> None:
        self._tokenizer, self._template = tokenizer, template
        self._context, self._on_prompts, self._chat = context, on_prompts, chat

    def read(self, path: Path, tally: Tally, skip_bad: bool = False) -> Iterator[Example]:
        """The examples of a file, in order, read as they are asked for.

        Raises BadFile, with the line's number, at the first malformed line unless `skip_bad`; Unsupported for messages
        where the model has no chat template.
        """

        def malformed(message: str) -> None:
            tally.lines += 1
            tally.bad += 1
            if not skip_bad:
                json_lines.stop(message)

        before, lines = tally.size, tally.lines
        for line in json_lines.objects(path, malformed):
            name, tally.size = f"{printable(path)} line {line.number}", before + line.end
            try:
                found = list(self._examples(line.value, name, tally))
            except _BadLine as error:
                malformed(f"{name} {error}.")
                continue
            tally.lines += 1
            tally.examples += len(found)
            yield from found
        if tally.lines == lines:
            raise BadFile(f"{printable(path)} is empty. {_SHAPES.capitalize()}.")

    # -- the kinds of lines ------------------------------------------------------------------------------------------

    def _examples(self, value: Mapping[str, Any], name: str, tally: Tally) -> Iterator[Example]:
        if "messages" in value:
            if self._template is None:
                raise Unsupported(
                    f"{name} has messages, but this model has no chat template (it is a base model). Give prompt and "
                    "completion, or text, or tune an instruct model."
                )
            coded = self._conversation(_messages(value))
        elif "prompt" in value and "completion" in value:
            coded = self._completion(_text(value, "prompt", may_be_empty=True), _text(value, "completion"))
        elif "text" in value:
            yield from self._pieces(_text(value, "text"), name, tally)
            return
        else:
            keys = printable(", ".join(map(str, value)) or "nothing", 80)
            raise _BadLine(f"has {keys}; {_SHAPES}")
        for one in coded:
            yield from self._fitted(one, name, tally)

    def _completion(self, prompt: str, completion: str) -> list[_Coded]:
        if self._template is not None and self._chat:
            messages = [{"role": "user", "content": prompt}, {"role": "assistant", "content": completion}]
            return self._conversation(messages)
        ids = [*self._encode(prompt + completion, False), *self._end()]
        return [_Coded(ids, [(_common(self._encode(prompt, False), ids), len(ids))])]

    def _pieces(self, text: str, name: str, tally: Tally) -> Iterator[Example]:
        """A plain text, cut where it is longer than the context; each piece begins as the text does."""
        ids = [*self._encode(text, False), *self._end()]
        begin = ids[: self._bos(ids)]
        room = self._context - len(begin)
        starts = range(len(begin), len(ids), room)
        tally.pieces += len(starts) > 1
        for start in starts:
            piece = begin + ids[start : start + room]
            if len(piece) > 1:
                yield Example(piece, [1.0] * len(piece), name)

    def _fitted(self, coded: _Coded, name: str, tally: Tally) -> Iterator[Example]:
        """The example, its prompt without its beginning where it is too long; none where that is not enough."""
        ids = coded.ids
        weights = [1.0 if self._on_prompts else 0.0] * len(ids)
        for start, end in coded.answers:
            weights[start:end] = [1.0] * (end - start)
        if not any(weights[1:]):
            raise _BadLine("has no answer of the assistant to learn from")
        excess, bos = len(ids) - self._context, self._bos(ids)
        if excess > 0:
            first = coded.answers[0][0] if coded.answers else len(ids)
            if first - bos <= excess:
                tally.dropped += 1
                return
            tally.shortened += 1
            ids, weights = ids[:bos] + ids[bos + excess :], weights[:bos] + weights[bos + excess :]
        yield Example(ids, weights, name)

    # -- conversations -----------------------------------------------------------------------------------------------

    def _conversation(self, messages: list[dict[str, Any]]) -> list[_Coded]:
        """One for the whole conversation, or, where its template does not write messages in order, one an answer."""
        answers = [place for place, message in enumerate(messages) if message["role"] == "assistant"]
        if answers and answers[0] == 0:
            raise _BadLine("begins with the assistant; a user's message comes first")
        whole = self._render(messages, False)
        ids = self._encode(whole, True)
        spans = [self._span(messages, place, whole, ids) for place in answers]
        found = [span for span in spans if span is not None]
        if len(found) == len(spans):
            return [_Coded(ids, found)]
        if messages[0]["role"] == "system" and self._span(messages[: answers[0] + 1], answers[0], None, []) is None:
            # A template that puts the system message into the last question has no place for it once that is answered.
            return self._conversation([dict(message) for message in fold_system(messages)])
        return [self._last_answer(messages[: place + 1]) for place in answers]

    def _last_answer(self, messages: list[dict[str, Any]]) -> _Coded:
        whole = self._render(messages, False)
        ids = self._encode(whole, True)
        span = self._span(messages, len(messages) - 1, whole, ids)
        if span is None:
            raise _BadLine(
                "does not suit the model's chat template, which writes a question otherwise once it is answered"
            )
        return _Coded(ids, [span])

    def _span(
        self, messages: list[dict[str, Any]], place: int, whole: str | None, ids: list[int]
    ) -> tuple[int, int] | None:
        """Where in `ids`, the tokens of `whole`, the answer messages[place] stands, the token that ends it included.

        None where `whole` does not hold the conversation up to there as it was written when the answer came.
        whole: None for the conversation up to the answer.
        """
        asked, answered = self._render(messages[:place], True), self._render(messages[: place + 1], False)
        if whole is None:
            whole, ids = answered, self._encode(answered, True)
        if not (answered.startswith(asked) and whole.startswith(asked)):
            return None
        tokens = self._encode(answered, True)
        start, stop = _common(self._encode(asked, True), ids), _common(tokens, ids)
        if not all(self._is_ending(token) for token in tokens[stop:]):  # some write an end of text after the last
            return None
        return start, self._end_of_turn(ids, start, stop)

    def _end_of_turn(self, ids: Sequence[int], start: int, stop: int) -> int:
        """The place after the token at which generation will stop. What follows it, often a newline, is never written.

        `stop` where no such token ends the answer.
        """
        tail = len(list(takewhile(self._is_ending, reversed(ids[start:stop]))))
        ends = (place + 1 for place in range(stop - tail, stop) if ids[place] in self._tokenizer.eos_ids)
        return next(ends, stop)

    def _is_ending(self, token: int) -> bool:
        return token in self._tokenizer.eos_ids or not self._tokenizer.piece(token).strip()

    # -- text and tokens ---------------------------------------------------------------------------------------------

    def _render(self, messages: list[dict[str, Any]], add_generation_prompt: bool) -> str:
        assert self._template is not None
        specials = self._tokenizer.special_texts
        try:
            return render_chat(self._template, messages, specials, add_generation_prompt=add_generation_prompt)
        except SmidgenError as error:
            raise _BadLine(f"does not fit the model's chat template ({printable(error)})") from error

    def _encode(self, text: str, chat: bool) -> list[int]:
        return self._tokenizer.encode(text, add_bos=self._tokenizer.adds_bos, parse_special=chat)

    def _bos(self, ids: Sequence[int]) -> int:
        """How many tokens at the start are BOS: 1 or 0."""
        return int(bool(ids) and ids[0] == self._tokenizer.bos_id)

    def _end(self) -> list[int]:
        """The token that ends a text, if the model has one."""
        end = self._tokenizer.eos_id
        return [] if end is None else [end]


def _common(one: Sequence[int], other: Sequence[int]) -> int:
    """How many tokens two texts begin alike with."""
    pairs = zip(one, other, strict=False)
    return next((place for place, (a, b) in enumerate(pairs) if a != b), min(len(one), len(other)))


def _messages(value: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Checked, with contents as text."""
    found = value["messages"]
    if not isinstance(found, list) or not found:
        raise _BadLine('has "messages" that are not a list with at least one message')
    if value.get("tools"):
        raise _BadLine('has "tools", which smidgen does not show to models yet; leave such examples out')
    messages = []
    for number, message in enumerate(found, 1):
        if not isinstance(message, dict) or not isinstance(message.get("role"), str):
            raise _BadLine(f'has a message {number} without a "role"')
        messages.append({**message, "content": _content(message, number)})
    return messages


def _content(message: Mapping[str, Any], number: int) -> str:
    content = message.get("content")
    if isinstance(content, list) and all(isinstance(part, dict) and part.get("type") == "text" for part in content):
        content = "".join(str(part.get("text", "")) for part in content)
    if not isinstance(content, str):
        raise _BadLine(f'has a message {number} whose "content" is not text')
    if message["role"] == "assistant" and not content.strip():
        raise _BadLine(f"has an empty answer as message {number}")
    return content


def _text(value: Mapping[str, Any], key: str, may_be_empty: bool = False) -> str:
    found = value[key]
    if not isinstance(found, str):
        raise _BadLine(f'holds a {type(found).__name__} and no text in "{key}"')
    if not found.strip() and not may_be_empty:
        raise _BadLine(f'has an empty "{key}"')
    return found
