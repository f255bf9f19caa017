"""Examples to learn from, from JSON Lines: conversations, prompts with their completions, or plain text.

    {"messages": [{"role": "user", "content": …}, {"role": "assistant", "content": …}, …]}
    {"prompt": …, "completion": …}
    {"text": …}

`messages` has the other forms of conversations. A model that has a chat template sees conversations, and prompts with
completions too, as its template writes them, for this is how it will be asked. Learned from are the assistant's words
and the token that ends them (`answers`); the rest is read.

A conversation that is longer than the context is cut between its turns, into one example for each stretch that fits,
each behind the system message. A single turn that is too long loses the beginning of its question.

A text, or a prompt, that begins as the template begins a chat and holds control tokens is a chat that was rendered
already: what it spells as control tokens is read so. In any other text they are letters.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from smidgen.data import json_lines
from smidgen.data.answers import Answers, Coded, common
from smidgen.data.messages import BadLine, Chat, chat_of
from smidgen.data.rendering import Renderer, spells_control
from smidgen.data.tally import Case, Tally
from smidgen.errors import BadFile, Unsupported, printable
from smidgen.model.tokenizer import Tokenizer

_SHAPES = 'a line needs "messages" (or "conversations"), or "prompt" and "completion", or "text"'


@dataclass(frozen=True)
class Example:
    """Tokens of one text.  weights: how much it counts to predict each of them; 0 for those that are only read.

    name: file and line.
    """

    ids: list[int]
    weights: list[float]
    name: str


class Coder:
    """From the object of a line to examples, for one model.

    template: the model's chat template, None if it has none or is not to be used for prompts with completions
    (`chat=False` keeps it for messages).  context: tokens of the longest example.  on_prompts: learn from all of it,
    but not from messages that say that they are not to be learned.
    """

    def __init__(
        self, tokenizer: Tokenizer, template: str | None, context: int, on_prompts: bool = False, chat: bool = True,
    ) -> None:  # fmt: skip
        self._tokenizer, self._context, self._on_prompts, self._chat = tokenizer, context, on_prompts, chat
        self._renderer = None if template is None else Renderer(template, tokenizer)

    def read(self, path: Path, tally: Tally, skip_bad: bool = False) -> Iterator[Example]:
        """The examples of a file, in order, read as they are asked for.

        Raises BadFile, with the line's number, at the first malformed line unless `skip_bad`; Unsupported for messages
        where the model has no chat template.
        """

        def malformed(message: str) -> None:
            tally.line_skipped()
            if not skip_bad:
                json_lines.stop(message)

        before, lines = tally.size, tally.lines
        for line in json_lines.objects(path, malformed):
            tally.size = before + line.end
            try:
                found = list(self._examples(line.value, line.where, tally))
            except BadLine as error:
                malformed(f"{line.where} {error}.")
                continue
            tally.line_done(len(found))
            yield from found
        if tally.lines == lines:
            raise BadFile(f"{printable(path)} is empty. {_SHAPES.capitalize()}.")

    # -- the kinds of lines ------------------------------------------------------------------------------------------

    def _examples(self, value: Mapping[str, Any], name: str, tally: Tally) -> Iterator[Example]:
        chat = chat_of(value)
        if chat is not None:
            coded = self._conversation(chat, name, tally)
        elif "prompt" in value and "completion" in value:
            prompt, completion = _text(value, "prompt", may_be_empty=True), _text(value, "completion")
            coded = self._completion(prompt, completion, name, tally)
        elif "text" in value:
            yield from self._plain(_text(value, "text"), name, tally)
            return
        else:
            keys = printable(", ".join(map(str, value)) or "nothing", 80)
            raise BadLine(f"has {keys}; {_SHAPES}")
        for one in coded:
            yield from self._fitted(one, name, tally)

    def _completion(self, prompt: str, completion: str, name: str, tally: Tally) -> list[Coded]:
        renderer = self._renderer
        if renderer is not None and renderer.is_rendered(prompt):
            tally.happened(Case.RENDERED)
            ids, start = self._ended(renderer.ids(prompt + completion)), renderer.ids(prompt)
        elif renderer is not None and self._chat:
            messages = [{"role": "user", "content": prompt}, {"role": "assistant", "content": completion}]
            return self._conversation(Chat(messages, [1.0, 1.0]), name, tally)
        else:
            self._warn_of_control(prompt + completion, tally)
            ids, start = [*self._encode(prompt + completion), *self._end()], self._encode(prompt)
        return [Coded(ids, [(common(start, ids), len(ids), 1.0)])]

    def _plain(self, text: str, name: str, tally: Tally) -> Iterator[Example]:
        """A text, all of which is learned."""
        if self._renderer is not None and self._renderer.is_rendered(text):
            tally.happened(Case.RENDERED_TEXT)
            ids = self._ended(self._renderer.ids(text))
        else:
            self._warn_of_control(text, tally)
            ids = [*self._encode(text), *self._end()]
        yield from self._pieces(ids, [1.0] * len(ids), name, tally)

    # -- what is too long --------------------------------------------------------------------------------------------

    def _pieces(self, ids: list[int], weights: list[float], name: str, tally: Tally) -> Iterator[Example]:
        """All of an example, cut where it is longer than the context; each piece begins with its BOS.

        A chat is cut where a turn begins, if one does in the second half of a piece.
        """
        bos = self._bos(ids)
        start, room = bos, self._context - bos
        if len(ids) > self._context:
            tally.happened(Case.PIECES)
        while start < len(ids):
            stop = self._end_of_piece(ids, start, room)
            piece = ids[:bos] + ids[start:stop]
            if len(piece) > 1:
                yield Example(piece, weights[:bos] + weights[start:stop], name)
            start = stop

    def _end_of_piece(self, ids: list[int], start: int, room: int) -> int:
        stop = start + room
        if stop >= len(ids) or self._renderer is None:
            return stop
        begins = (place for place in range(stop, start + room // 2, -1) if ids[place] == self._renderer.opening_token)
        return next(begins, stop)

    def _fitted(self, coded: Coded, name: str, tally: Tally) -> Iterator[Example]:
        """The example, without the oldest of what may go where it is too long; none where that is not enough."""
        ids, weights = coded.ids, self._weights(coded)
        if not any(weights[1:]):
            tally.happened(Case.NOTHING)
            return
        excess = len(ids) - self._context
        if excess <= 0:
            yield Example(ids, weights, name)
        elif self._on_prompts:
            yield from self._pieces(ids, weights, name, tally)
        else:
            yield from self._shortened(coded, weights, excess, name, tally)

    def _weights(self, coded: Coded) -> list[float]:
        weights = [1.0 if self._on_prompts else 0.0] * len(coded.ids)
        for start, end in coded.muted:
            weights[start:end] = [0.0] * (end - start)
        for start, end, weight in coded.answers:
            weights[start:end] = [weight] * (end - start)
        return weights

    def _shortened(self, coded: Coded, weights: list[float], excess: int, name: str, tally: Tally) -> Iterator[Example]:
        """Without `excess` tokens behind its head, or behind its BOS, if an answer is left whole then."""
        last = coded.answers[-1][0]
        for head in (coded.head, self._bos(coded.ids)):
            cut = head + excess
            if cut < last:
                tally.happened(Case.SHORTENED)
                kept = [
                    0.0 if any(start < cut < end for start, end, _ in coded.answers if start <= place < end) else weight
                    for place, weight in enumerate(weights)
                ]
                yield Example(coded.ids[:head] + coded.ids[cut:], kept[:head] + kept[cut:], name)
                return
        tally.happened(Case.DROPPED)

    # -- conversations -----------------------------------------------------------------------------------------------

    def _conversation(self, chat: Chat, name: str, tally: Tally) -> list[Coded]:
        if self._renderer is None:
            raise Unsupported(
                f"{name} has messages, but this model has no chat template (it is a base model). Give prompt and "
                "completion, or text, or tune an instruct model."
            )
        if not chat.answers and not self._on_prompts:
            raise BadLine("has no answer of the assistant to learn from")
        if chat.is_answer(1 if chat.has_system and len(chat.messages) > 1 else 0):
            raise BadLine("begins with the assistant; a user's message comes first")
        if any("tool_calls" in message for message in chat.messages) and not self._is_taken(self._renderer, chat):
            chat = chat.with_arguments_as_text()
        if chat.tools and not self._shows_tools(self._renderer, chat):
            tally.happened(Case.NO_TOOLS)
        return self._cut(self._renderer, chat, tally)

    def _is_taken(self, renderer: Renderer, chat: Chat) -> bool:
        """Whether the template does not refuse the conversation."""
        try:
            renderer.text(chat.messages, False, chat.tools)
        except BadLine:
            return False
        return True

    def _shows_tools(self, renderer: Renderer, chat: Chat) -> bool:
        return renderer.text(chat.messages, False, chat.tools) != renderer.text(chat.messages, False)

    def _cut(self, renderer: Renderer, chat: Chat, tally: Tally) -> list[Coded]:
        """The conversation, or its stretches of whole turns that fit, as examples."""
        turns = chat.turns()
        begin = self._last_stretch(renderer, chat, turns)
        if begin is None:
            found = Answers(renderer, chat, tally).coded()
            if len(turns) == 1 or all(len(one.ids) <= self._context for one in found):
                return [self._with_head(renderer, chat, one) for one in found]
            begin = turns[-1]  # the reasoning that its template leaves out does not fit
        tally.happened(Case.CUT)
        parts = [chat.part(0, begin), chat.part(begin, len(chat.messages))]
        return [one for part in parts if part.answers or self._on_prompts for one in self._cut(renderer, part, tally)]

    def _last_stretch(self, renderer: Renderer, chat: Chat, turns: list[int]) -> int | None:
        """The first message of the longest stretch of last turns that fits; None where all of the conversation does,
        or where it is a single turn.
        """
        if len(turns) == 1 or self._fits(renderer, chat):
            return None
        begin = turns[-1]
        for turn in reversed(turns[1:-1]):
            if not self._fits(renderer, chat.part(turn, len(chat.messages))):
                break
            begin = turn
        return begin

    def _fits(self, renderer: Renderer, chat: Chat) -> bool:
        return len(renderer.ids(renderer.text(chat.messages, False, chat.tools))) <= self._context

    def _with_head(self, renderer: Renderer, chat: Chat, coded: Coded) -> Coded:
        """Where an example is too long: what stands before the first question has to stay."""
        if len(coded.ids) <= self._context:
            return coded
        asked = [*chat.messages[: chat.turns()[0]], {"role": "user", "content": ""}]
        try:
            head = common(renderer.ids(renderer.text(asked, False, chat.tools)), coded.ids)
        except BadLine:
            return coded
        return replace(coded, head=head)

    # -- text and tokens ---------------------------------------------------------------------------------------------

    def _warn_of_control(self, text: str, tally: Tally) -> None:
        if spells_control(self._tokenizer, text):
            tally.happened(Case.SPELLED)

    def _encode(self, text: str) -> list[int]:
        return self._tokenizer.encode(text, add_bos=self._tokenizer.adds_bos)

    def _ended(self, ids: list[int]) -> list[int]:
        """A rendered chat with the token that ends a text, unless it ends with one already, blanks aside."""
        written = (token for token in reversed(ids) if self._tokenizer.piece(token).strip())
        return ids if next(written, None) in self._tokenizer.eos_ids else [*ids, *self._end()]

    def _bos(self, ids: Sequence[int]) -> int:
        """How many tokens at the start are BOS: 1 or 0."""
        marks_turns = self._renderer is not None and not self._renderer.bos
        return int(bool(ids) and ids[0] == self._tokenizer.bos_id and not marks_turns)

    def _end(self) -> list[int]:
        """The token that ends a text, if the model has one."""
        end = self._tokenizer.eos_id
        return [] if end is None else [end]


def _text(value: Mapping[str, Any], key: str, may_be_empty: bool = False) -> str:
    found = value[key]
    if not isinstance(found, str):
        raise BadLine(f'holds a {type(found).__name__} and no text in "{key}"')
    if not found.strip() and not may_be_empty:
        raise BadLine(f'has an empty "{key}"')
    return found
