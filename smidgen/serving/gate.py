"""What is judged and hidden on the way in and out: the guard (guard/judging.py) and redaction (guard/redaction.py)."""

from collections.abc import AsyncIterator, Callable
from contextlib import aclosing
from dataclasses import dataclass, field, replace
from typing import Any

import anyio

from smidgen.serving.guard.answers import Shape, refusal_chunks, refusal_completion, refuse_choices, with_extension
from smidgen.serving.guard.judging import Decision, Guard, refuses
from smidgen.serving.guard.redaction import Redactor
from smidgen.serving.guard.streaming import guarded
from smidgen.serving.refusals import Refusal
from smidgen.serving.requests.asked import Asked

Events = AsyncIterator[dict[str, Any]]
_EMBEDDINGS = "/v1/embeddings"
_KINDS: dict[str, Shape] = {"/v1/chat/completions": "chat", "/v1/completions": "text"}


@dataclass(frozen=True)
class Gate:
    """guard: None judges nothing.  redactor: None hides nothing of prompts."""

    guard: Guard | None = None
    redactor: Redactor | None = None

    def refuse_unjudged(self, asked: Asked) -> None:
        """Raises Refusal for endpoints whose texts would pass by the guard, or whose prompts would not be redacted."""
        if (self.guard or self.redactor) and asked.path not in _KINDS:
            why = (
                "its texts would pass by the guard"
                if self.guard
                else "personal data in its prompts would not be hidden"
            )
            raise Refusal(f"{asked.path} is off here, because {why}; use /v1/chat/completions.", 501)

    async def redacted(self, asked: Asked) -> tuple[Asked, dict[str, int]]:
        """The request without what tells who somebody is, and how often which kind was hidden."""
        redactor = self.redactor
        if redactor is None or asked.path not in (*_KINDS, _EMBEDDINGS):
            return asked, {}
        if asked.path == _EMBEDDINGS:
            inputs, counts = await anyio.to_thread.run_sync(redactor.prompt, list(asked.inputs))
            return replace(_with(asked, input=inputs), inputs=tuple(inputs)), counts
        if asked.messages is not None:
            messages, counts = await anyio.to_thread.run_sync(redactor.messages, asked.messages)
            return _with(asked, messages=messages), counts
        prompts, counts = await anyio.to_thread.run_sync(redactor.prompt, list(asked.prompts))
        return replace(_with(asked, prompt=prompts), prompts=tuple(prompts)), counts

    async def admit(
        self, asked: Asked, name: str, redacted: dict[str, int], count: Callable[[Decision], None]
    ) -> "Pass":
        """The guard's word on what was asked.  name: of the model that answers.  count: called with each decision."""
        found: list[Decision] = []
        if self.guard is not None:
            if asked.messages is not None:
                found = await self.guard.judge_prompt(asked.messages)
            else:
                for prompt in asked.prompts:
                    if not isinstance(prompt, str):
                        raise Refusal(
                            "the guard reads texts; send the prompt as text, not as token ids.", param="prompt"
                        )
                    found += await self.guard.judge("prompt", [], prompt)
        for decision in found:
            count(decision)
        return Pass(self.guard, asked, name, _KINDS[asked.path], found, redacted, count)


def _with(asked: Asked, **texts: Any) -> Asked:
    """The request with other texts, wherever it has them."""
    messages = texts.get("messages", asked.messages)
    return replace(asked, messages=messages, body={**asked.body, **texts}, given={**asked.given, **texts})


@dataclass(frozen=True)
class Pass:
    """A request that was looked at. decisions: on the prompt.  redacted: what was hidden of it."""

    guard: Guard | None
    asked: Asked
    name: str
    kind: Shape
    decisions: list[Decision]
    redacted: dict[str, int]
    count: Callable[[Decision], None] = field(repr=False)

    @property
    def refused(self) -> bool:
        """Whether the model is not to see the prompt."""
        return refuses(self.decisions)

    def refusal(self) -> dict[str, Any]:
        """A whole answer that says so."""
        return with_extension(refusal_completion(self.kind, self.name, self.decisions), [], self.redacted)

    async def refusal_events(self) -> Events:
        """The same as a stream."""
        for chunk in refusal_chunks(self.kind, self.name, self.decisions):
            yield with_extension(chunk, [], self.redacted)

    async def whole(self, answer: dict[str, Any]) -> dict[str, Any]:
        """An answer as it may go out: judged, and with what was decided."""
        if self.guard is None:
            return with_extension(answer, [], self.redacted)
        found = await self._judged_choices(self.guard, answer)
        for decision in found:
            self.count(decision)
        return with_extension(refuse_choices(answer, found), self.decisions + found, self.redacted)

    async def events(self, events: Events) -> Events:
        """The events of an answer as they may go out: none before it was judged. The first tells of the prompt."""
        first = True
        async with aclosing(self._judged(events)) as judged:  # pyright: ignore[reportArgumentType]
            async for event in judged:
                yield with_extension(event, self.decisions, self.redacted) if first else event
                first = False

    async def _judged(self, events: Events) -> Events:
        async with aclosing(events) as unjudged:  # pyright: ignore[reportArgumentType]
            chunks = unjudged if self.guard is None else self._guarded(self.guard, unjudged)
            async for event in chunks:
                yield event

    async def _judged_choices(self, guard: Guard, answer: dict[str, Any]) -> list[Decision]:
        """Each choice beside what it answers."""
        found: list[Decision] = []
        for choice in answer["choices"]:
            alone = {**answer, "choices": [choice]}
            decided = await guard.judge_answer(self._before(choice["index"]), alone)
            several = len(answer["choices"]) > 1
            found += [replace(one, choice=choice["index"] if several else None) for one in decided]
        return found

    def _before(self, index: int) -> list[dict[str, Any]]:
        """The conversation that choice `index` goes on with."""
        if self.asked.messages is not None:
            return self.asked.messages
        return [{"role": "user", "content": self.asked.prompts[index // self.asked.n]}]

    def _guarded(self, guard: Guard, events: Events) -> Events:
        async def judge(index: int, text: str) -> list[Decision]:
            return await guard.judge("answer", self._before(index), text)

        def count(decisions: list[Decision]) -> None:
            for decision in decisions:
                self.count(decision)

        choices = self.asked.n * max(1, len(self.asked.prompts))
        return guarded(events, judge, choices=choices, on_decisions=count)
