"""A model's chat template and its tokenizer, as what turns conversations into text and tokens."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from smidgen.data.messages import BadLine
from smidgen.errors import SmidgenError, printable
from smidgen.model.chat import render_chat
from smidgen.model.tokenizer import Tokenizer

#: Words that stand for a message while it is found out what a template writes around them.
MARK = "smidgenlooksforthis"


@dataclass(frozen=True)
class Renderer:
    template: str
    tokenizer: Tokenizer

    def text(self, messages: Sequence[Mapping[str, Any]], asks: bool, tools: Sequence[Any] | None = None) -> str:
        """A conversation as the template writes it. asks: with the words that begin an answer.

        Raises BadLine where the template refuses.
        """
        specials = self.tokenizer.special_texts
        try:
            return render_chat(self.template, messages, specials, add_generation_prompt=asks, tools=tools)
        except SmidgenError as error:
            raise BadLine(f"does not fit the model's chat template ({printable(error)})") from error

    def ids(self, text: str) -> list[int]:
        """The tokens of a rendered text."""
        return self.tokenizer.encode(text, add_bos=self.tokenizer.adds_bos, parse_special=True)

    def is_rendered(self, text: str) -> bool:
        """Whether a text is a chat that was rendered already: it begins as the template begins one, and holds control
        tokens. A BOS in front may be there or not.
        """
        begin = text.lstrip().removeprefix(self.bos).lstrip()
        return bool(self.opening) and begin.startswith(self.opening) and spells_control(self.tokenizer, text)

    @cached_property
    def opening(self) -> str:
        """What every chat begins with behind the BOS: a control token, or else a word; empty where that is nothing."""
        token = self.opening_token
        if token is not None:
            return self.tokenizer.token_text(token)
        return next(iter(self._begin.split()), "")

    @cached_property
    def opening_token(self) -> int | None:
        """The control token that every chat begins with behind the BOS, and as a rule every turn."""
        first = next(iter(self.tokenizer.encode(self._begin, parse_special=True)), None)
        return first if first in self.tokenizer.control else None

    @cached_property
    def _begin(self) -> str:
        """What is written before the first question, without a BOS."""
        return self._question.partition(MARK)[0].strip().removeprefix(self.bos).strip()

    @cached_property
    def bos(self) -> str:
        """The text of the BOS; empty where every turn begins with it (SmolLM 2), as it is no more than a mark then."""
        text = self.tokenizer.special_texts.get("bos_token", "")
        return text if self.tokenizer.adds_bos or self._question.count(text) <= 1 else ""

    @cached_property
    def _question(self) -> str:
        """A question, and the words that begin an answer; empty where the template refuses it."""
        try:
            return self.text([{"role": "user", "content": MARK}], True)
        except BadLine:
            return ""


def spells_control(tokenizer: Tokenizer, text: str) -> bool:
    """Whether letters of a text are those of a control token."""
    return tokenizer.disarm(text) != text
