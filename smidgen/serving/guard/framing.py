"""What a guard reads, as token ids: frames around texts of any length, in pieces that fit its context.

Text of people and models stays text: control tokens come from the frame alone (see `Tokenizer.disarm`).
"""

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from smidgen.engines.llama_cpp.engine import Facts
from smidgen.errors import SmidgenError
from smidgen.model.chat import chat_template, render_chat
from smidgen.model.tokenizer import Tokenizer
from smidgen.serving.guard.policies import Policy
from smidgen.serving.guard.protocols import (
    GuardProtocol,
    Kind,
    Part,
    Turn,
    llama_guard_task,
    shieldgemma_parts,
)

ANSWER = 48  # tokens that are kept free for what the guard says
LEAST_ROOM = 96  # tokens for the text to judge; with less, pieces of it would mean nothing
_OVERLAP = 4  # a quarter of each piece is in the next one too
_CHARACTERS = 5  # of a token, at most, in the first guess at what fits

_LLAMA_3 = ("<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>")
_HERE = "\ufffc"  # stands for the message while the chat template is cut in two


class DoesNotFit(SmidgenError):
    """Not even a short text fits the guard's context beside the frame."""


@dataclass(frozen=True)
class Asked:
    """One prompt for the guard.  shortened: earlier messages stand beside the text in part or not at all."""

    ids: list[int]
    shortened: bool


class Framing:
    """How one guard model is asked by its protocol.

    context: tokens that it has for a prompt and its answer.
    violation_id, harmless_id: the tokens that the two words of an answer begin with.
    unsafe_ids: how Llama Guard's answer begins before it names categories.
    Raises SmidgenError for a tokenizer that only llama.cpp knows, and where the two words do not begin with tokens of
    their own.
    """

    def __init__(self, facts: Facts, protocol: GuardProtocol, context: int) -> None:
        if facts.tokenizer is None:
            raise SmidgenError(f"this model cannot be a guard: {facts.foreign or 'its tokenizer is not known'}")
        self._tokenizer, self._protocol, self._context = facts.tokenizer, protocol, context
        self._around = ("", "") if protocol.name == "shieldgemma" else _chat_around(facts, facts.tokenizer)
        self._violation, harmless = protocol.words
        probe = (Policy("a", "a", "a", category="S1"),)
        said = [self._joined(probe, "prompt", (), "a", word) for word in (self._violation, harmless, "unsafe\n")]
        same = len(os.path.commonprefix(said[:2]))
        violation, without, self.unsafe_ids = (ids[same:] for ids in said)
        if not violation or not without:
            words = " and ".join(protocol.words)
            raise SmidgenError(f"this model cannot be a guard: {words} begin with the same token in its vocabulary.")
        self.violation_id, self.harmless_id, self._answered = violation[0], without[0], len(violation)

    def check(self, policies: Sequence[Policy], kind: Kind) -> None:
        """Raises SmidgenError where the policies leave no room for a text."""
        frame = len(self._encode(policies, kind, (), ""))
        if frame + ANSWER + LEAST_ROOM > self._context:
            named = f"policy {policies[0].name}" if len(policies) == 1 else f"the {len(policies)} policies"
            raise DoesNotFit(
                f"the guard has a context of {self._context} tokens, of which its frame with {named} takes {frame}: no "
                "room for a text. Shorten what the policies say, or give the guard a larger context."
            )

    def prompts(self, policies: Sequence[Policy], kind: Kind, turns: Sequence[Turn], text: str) -> Iterator[Asked]:
        """What to ask so that all of a text is judged: one prompt, or one for each of several overlapping pieces.

        turns: the conversation before it, of which as much stands beside it as fits a third of the room.
        """
        text = text.strip()
        room = self._context - ANSWER - len(self._encode(policies, kind, (), ""))
        if self._protocol.name == "shieldgemma":  # it reads an answer with its question, a prompt alone
            turns = [turn for turn in turns if turn.role == "User"][-1:] if kind == "answer" else []
        beside, shortened = self._recent(turns, room // 3)

        def fitting(piece: str) -> list[int] | None:
            ids = self._encode(policies, kind, beside, piece)
            return ids if len(ids) + ANSWER <= self._context else None

        for ids in _in_pieces(text, room * _CHARACTERS, fitting):
            yield Asked(ids, shortened)

    def _encode(self, policies: Sequence[Policy], kind: Kind, turns: Sequence[Turn], text: str) -> list[int]:
        """A prompt. It is encoded with an answer behind it, as in training: some tokenizers look ahead."""
        return self._joined(policies, kind, turns, text, self._violation)[: -self._answered]

    def _joined(
        self, policies: Sequence[Policy], kind: Kind, turns: Sequence[Turn], text: str, answer: str
    ) -> list[int]:
        if self._protocol.name == "shieldgemma":
            question = next((turn.text for turn in reversed(turns) if turn.role == "User"), "")
            parts = shieldgemma_parts(policies[0], kind, text, question)
        else:
            before, after = self._around
            parts = [Part(before), *llama_guard_task(policies, kind, turns, text), Part(after)]
        tokenizer = self._tokenizer
        joined = "".join(tokenizer.disarm(part.text) if part.said else part.text for part in parts)
        return tokenizer.encode(joined + answer, add_bos=tokenizer.adds_bos, parse_special=True, disarmed=True)

    def _recent(self, turns: Sequence[Turn], most: int) -> tuple[list[Turn], bool]:
        """The last messages that fit into so many tokens, the first of them perhaps without its beginning."""
        kept: list[Turn] = []
        for turn in reversed(turns):
            if most < 1:
                return kept, True
            text = turn.text[-most * _CHARACTERS :]
            while text and len(self._tokenizer.encode(text)) > most:
                text = text[-(len(text) * 3 // 4) :] if len(text) > 1 else ""
            if text:
                kept.insert(0, Turn(turn.role, text))
            if len(text) < len(turn.text):
                return kept, True
            most -= len(self._tokenizer.encode(text))
        return kept, False


def _chat_around(facts: Facts, tokenizer: Tokenizer) -> tuple[str, str]:
    """What stands before and after a message to the guard: Llama 3's tokens, or the file's own chat template."""
    spelled = {tokenizer.token_text(token) for token in tokenizer.control}
    if set(_LLAMA_3) <= spelled:
        start, end, turn = _LLAMA_3
        return f"{start}user{end}\n\n", f"{turn}{start}assistant{end}\n\n"
    if not facts.has_chat_template:
        return "", "\n\n"
    rendered = render_chat(chat_template(facts.metadata), [{"role": "user", "content": _HERE}], tokenizer.special_texts)
    before, found, after = rendered.partition(_HERE)
    if not found or _HERE in after:
        raise SmidgenError("this model cannot be a guard: its chat template does not write the message once.")
    return before, after


def _in_pieces(text: str, longest: int, fitting: Callable[[str], list[int] | None]) -> Iterator[list[int]]:
    """What `fitting` makes of the text, whole or in pieces that overlap, of at most `longest` characters.

    Where a piece ends does not depend on what comes after it: a text that grows keeps its pieces.
    """
    start = 0
    while len(text) - start > longest or (ids := fitting(text[start:])) is None:
        size = longest
        while size >= len(text) - start or (ids := fitting(text[start : start + size])) is None:
            size = size * 3 // 4
            if size < 1:
                raise DoesNotFit("a piece of one character does not fit the guard's context")
        yield ids
        start += max(size - size // _OVERLAP, 1)
    yield ids
