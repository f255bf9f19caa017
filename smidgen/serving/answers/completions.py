"""Texts that go on, by llama.cpp's own `/completion` and from token ids, whole or piece by piece.

One request may have several prompts and several answers to each: choice number `prompt · n + answer`. All are written
at the same time. What llama.cpp does not do is done here: `echo`, log-probabilities in the shape of this endpoint,
those of the prompt (scorer.py), and the texts that end an answer, with nothing before them lost.

Without `max_tokens` an answer goes on to the model's own end or to that of the context.
"""

import secrets
import time
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field, replace
from typing import Any

from smidgen.serving.answers.chat import Counts, seed_of, usage
from smidgen.serving.answers.events import Event, events_of
from smidgen.serving.answers.filling import filled
from smidgen.serving.answers.logprobs import UNKNOWN, CompletionShape, TokenEntry, entries_of
from smidgen.serving.answers.model import FINGERPRINT, AnsweringModel
from smidgen.serving.answers.prompt_scores import PromptScores, greedy_token, prompt_scores
from smidgen.serving.answers.prompts import Prompt, prompts_of
from smidgen.serving.answers.side_by_side import interleaved
from smidgen.serving.answers.stopping import Passing
from smidgen.serving.requests.asked import Asked

# Fields that llama.cpp is not told, or in other words.
_OURS = ("prompt", "suffix", "echo", "stop", "max_tokens", "n_predict", "stream")
_PATH = "/completion"


@dataclass(frozen=True)
class _Piece:
    """Something new of one choice. left_out: characters at the beginning of the entries that the text does not have."""

    index: int
    text: str
    entries: list[TokenEntry] = field(default_factory=list)
    finish_reason: str | None = None
    left_out: int = 0


async def complete(model: AnsweringModel, asked: Asked) -> dict[str, Any]:
    """A `text_completion`.

    Raises Refusal for prompts that do not fit and where the engine refuses, EngineEnded where it ends.
    """
    work = _Work(model, asked, await prompts_of(model, asked))
    found: list[list[_Piece]] = [[] for _ in range(work.choices)]
    async with aclosing(work.pieces()) as pieces:
        async for piece in pieces:
            found[piece.index].append(piece)
    choices = [_joined(asked, await work.filled(pieces)) for pieces in found]
    return {**_head(model), "choices": choices, "usage": work.usage()}


async def complete_events(model: AnsweringModel, asked: Asked) -> AsyncGenerator[dict[str, Any]]:
    """`text_completion`s as they come, each with a piece of one choice, the last one with the usage alone.

    Raises as `complete`.
    """
    work = _Work(model, asked, await prompts_of(model, asked))
    head = _head(model)
    shapes = [CompletionShape(asked.logprobs or 0) for _ in range(work.choices)]
    async with aclosing(work.pieces()) as pieces:
        async for piece in pieces:
            yield {**head, "choices": [_choice(asked, piece, shapes[piece.index])]}
    yield {**head, "choices": [], "usage": work.usage()}


def _joined(asked: Asked, pieces: Sequence[_Piece]) -> dict[str, Any]:
    whole = _Piece(
        pieces[0].index,
        "".join(piece.text for piece in pieces),
        [entry for piece in pieces for entry in piece.entries],
        pieces[-1].finish_reason,
        pieces[0].left_out,
    )
    return _choice(asked, whole, CompletionShape(asked.logprobs or 0))


def _choice(asked: Asked, piece: _Piece, shape: CompletionShape) -> dict[str, Any]:
    shown = asked.logprobs is not None and (piece.entries or piece.finish_reason is None)
    logprobs = shape.of(piece.entries, piece.left_out) if shown else None
    return {"index": piece.index, "text": piece.text, "logprobs": logprobs, "finish_reason": piece.finish_reason}


def _head(model: AnsweringModel) -> dict[str, Any]:
    return {
        "id": f"cmpl-{secrets.token_hex(12)}", "object": "text_completion", "created": int(time.time()),
        "model": model.name, "system_fingerprint": FINGERPRINT,
    }  # fmt: skip


class _Work:
    """All answers of one request."""

    def __init__(self, model: AnsweringModel, asked: Asked, prompts: Sequence[Prompt]) -> None:
        self._model, self._asked, self._prompts = model, asked, prompts
        self.choices = len(prompts) * asked.n
        self._counts = [Counts(len(prompts[index // asked.n].ids)) for index in range(self.choices)]

    def usage(self) -> dict[str, int]:
        """What was read, each prompt once, and written."""
        return usage(sum(len(prompt.ids) for prompt in self._prompts), self._counts)

    async def filled(self, pieces: Sequence[_Piece]) -> list[_Piece]:
        """All pieces of one choice, with the log-probabilities of its answer that were still to be asked for."""
        echo, answer = (pieces[:1], pieces[1:]) if self._asked.echo else ([], pieces)
        entries = [entry for piece in answer for entry in piece.entries]
        if self._asked.logprobs is None or all(entry.logprob is not None for entry in entries):
            return [*pieces]
        prompt = self._prompts[pieces[0].index // self._asked.n]
        entries = await filled(self._model, prompt.ids, entries, self._asked.logprobs)
        text = "".join(piece.text for piece in answer)
        return [*echo, replace(answer[-1], text=text, entries=entries)]

    async def pieces(self) -> AsyncGenerator[_Piece]:
        """What is new of the choices, as it comes."""
        scores: list[PromptScores | None] = [None] * len(self._prompts)
        if self._asked.echo and self._asked.logprobs is not None:
            scores = [*await prompt_scores(self._model, self._prompts, self._asked.logprobs)]
        answers = [self._answer(index, scores[index // self._asked.n]) for index in range(self.choices)]
        async with aclosing(interleaved(answers, self._model.upstream.slots)) as pieces:
            async for piece in pieces:
                yield piece

    async def _answer(self, index: int, scores: PromptScores | None) -> AsyncGenerator[_Piece]:
        prompt = self._prompts[index // self._asked.n]
        echo = _Piece(index, prompt.text) if self._asked.echo else None
        if echo and scores:
            echo = replace(echo, entries=scores.entries, left_out=scores.left_out)
        if self._asked.max_tokens == 0:
            yield replace(echo or _Piece(index, ""), finish_reason="length")
            return
        passing = Passing[TokenEntry](self._asked.stop)
        reason, shown, ready = None, "", list[TokenEntry]()
        async with aclosing(self._events(index, prompt, scores)) as events:
            async for event in events:
                if echo:  # now that the engine has accepted the request
                    yield echo
                    echo = None
                text, entries, reason = self._read(event, self._counts[index])
                shown, ready = passing.pass_on(text, entries)
                reason = "stop" if passing.found else reason
                if reason is not None:
                    break
                if shown or ready:
                    yield _Piece(index, shown, ready)
        if not passing.found:
            rest, more = passing.rest()
            shown, ready = shown + rest, ready + more
        yield _Piece(index, shown, ready, reason)

    def _events(self, index: int, prompt: Prompt, scores: PromptScores | None) -> AsyncGenerator[Event]:
        """llama.cpp's, or of the one token that the scores of the prompt already tell."""
        written = None if scores is None else greedy_token(self._model, self._asked, scores)
        if written is not None:
            return written
        room = self._model.upstream.context - len(prompt.ids)
        body = {key: value for key, value in self._asked.body.items() if key not in _OURS}
        body |= {
            "prompt": prompt.ids, "stream": True, "return_tokens": True,
            "n_predict": room if self._asked.max_tokens is None else min(room, self._asked.max_tokens),
        }  # fmt: skip
        body |= seed_of(self._asked, index % self._asked.n)
        return events_of(self._model.upstream, _PATH, body, is_last=lambda event: bool(event.get("stop")))

    def _read(self, event: Event, counts: Counts) -> tuple[str, list[TokenEntry], str | None]:
        """The text and tokens of one event, and why the answer ended where it did."""
        before, counts.written = counts.written, event.get("tokens_predicted", counts.written)
        text, found = event["content"], event.get("completion_probabilities") or []
        reason = None
        if event.get("stop"):
            reason = "length" if event["stop_type"] == "limit" else "stop"
        elif not self._end_ids.isdisjoint(event.get("tokens") or ()):
            text, reason = "", "stop"  # one of those that llama.cpp does not know
        if self._asked.logprobs is None:
            return text, [], reason
        entries = entries_of(self._model, found, counts.written - before, self._asked.logprobs)
        # llama.cpp leaves control tokens out of the text.
        entries = [replace(one, shown=False) if one.id in self._control else one for one in entries]
        if reason == "stop":
            entries = [self._end_entry(entries)]
        elif reason is not None:
            entries += [UNKNOWN] * (counts.written - before - len(entries))
        return text, entries, reason

    @property
    def _end_ids(self) -> frozenset[int]:
        tokenizer = self._model.facts.tokenizer
        return frozenset() if tokenizer is None else tokenizer.eos_ids

    @property
    def _control(self) -> frozenset[int]:
        tokenizer = self._model.facts.tokenizer
        return frozenset() if tokenizer is None else tokenizer.control

    def _end_entry(self, entries: Sequence[TokenEntry]) -> TokenEntry:
        """Of the token that ended the text, which does not have it. llama.cpp tells nothing of it in a stream."""
        if entries:
            return replace(entries[-1], shown=False)
        tokenizer = self._model.facts.tokenizer
        name = "" if tokenizer is None or tokenizer.eos_id is None else tokenizer.token_text(tokenizer.eos_id)
        return TokenEntry(None, name.encode(), None, None, shown=False)
