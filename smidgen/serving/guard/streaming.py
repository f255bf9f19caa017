"""Streams with a guard: what was not judged is held back, and nothing that was judged harmless is lost or moved.

An answer is judged as it grows, always from its beginning: at the end of a sentence once so many characters wait, in
the middle of one when twice as many do, and when it ends. Its chunks wait in the order in which they came, and go out
from the front as soon as all that stands in them is judged. So with several answers at a time one can wait for another.
"""

import re
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from smidgen.serving.guard.answers import refusal_chunk, with_extension
from smidgen.serving.guard.decisions import Decision, refuses, worst
from smidgen.serving.guard.texts import Transcript

Chunk = dict[str, Any]
Judge = Callable[[int, str], Awaitable[list[Decision]]]

EVERY = 300  # characters that wait before they are judged
_SENTENCE_END = re.compile(r"""(?:[.!?…]["')\]»”]?\s*|[。！？]|\n\s*)$""")


@dataclass
class _Choice:
    """One answer: what it said, how much of that is judged, what was decided."""

    said: Transcript = field(default_factory=Transcript)
    judged: int = 0
    decisions: list[Decision] = field(default_factory=list)
    refused: bool = False
    ended: bool = False

    @property
    def waits(self) -> int:
        return len(self.said.text) - self.judged


@dataclass
class _Held:
    """A chunk that waits.  until: by index, how much of each answer must be judged before it may go."""

    chunk: Chunk
    until: dict[int, int]


async def guarded(
    chunks: AsyncIterator[Chunk],
    judge: Judge,
    *,
    choices: int = 1,
    every: int = EVERY,
    on_decisions: Callable[[list[Decision]], None] | None = None,
) -> AsyncIterator[Chunk]:
    """The chunks of a streamed completion (a chat's or a text's), each as soon as all in it is judged harmless.

    judge: decides on all that the answer of this index has said so far.
    choices: answers that are asked for. When all of them are refused the stream ends, whatever still comes.
    on_decisions: is told of each judgement.
    A refused answer ends in a chunk with the finish_reason "content_filter"; what it said since it was last judged
    harmless never goes out, and what comes of it later is dropped. The last chunk of each answer has the decisions on
    it in the extension field. An error of `chunks` comes through after what waits was judged.
    """
    stream = _Stream(judge, every, on_decisions)
    broken: Exception | None = None
    iterator = aiter(chunks)
    while True:
        try:
            chunk = await anext(iterator)
        except StopAsyncIteration:
            break
        except Exception as error:  # whatever broke it: what is judged harmless still belongs to the client
            broken = error
            break
        for ready in await stream.take(chunk):
            yield ready
        if stream.refusals >= choices:
            return
    for ready in await stream.end():
        yield ready
    if broken is not None:
        raise broken


class _Stream:
    def __init__(self, judge: Judge, every: int, on_decisions: Callable[[list[Decision]], None] | None) -> None:
        self._judge, self._every, self._on_decisions = judge, every, on_decisions
        self._choices: dict[int, _Choice] = {}
        self._held: deque[_Held] = deque()
        self.refusals = 0

    async def take(self, chunk: Chunk) -> list[Chunk]:
        """One chunk comes in; those that may go come out."""
        parts = [one for one in chunk.get("choices") or [] if isinstance(one, Mapping)]
        left = [one for one in parts if not self._of(one).refused]
        if parts and not left:
            return []
        until: dict[int, int] = {}
        for part in left:
            choice = self._of(part)
            choice.said.add(part)
            choice.ended = choice.ended or part.get("finish_reason") is not None
            until[_index(part)] = len(choice.said.text)
        self._held.append(_Held({**chunk, "choices": left} if len(left) < len(parts) else chunk, until))
        ready = []
        for index in {_index(part) for part in left}:
            if self._is_due(self._choices[index]):
                ready += await self._judge_now(index, chunk)
        return ready + self._ready()

    async def end(self) -> list[Chunk]:
        """No more comes: the rest is judged, and goes."""
        ready = []
        for index, choice in self._choices.items():
            if choice.waits and not choice.refused:
                ready += await self._judge_now(index, self._held[-1].chunk)
        return ready + self._ready()

    def _of(self, part: Mapping[str, Any]) -> _Choice:
        return self._choices.setdefault(_index(part), _Choice())

    def _is_due(self, choice: _Choice) -> bool:
        if choice.refused or not choice.waits:
            return False
        if choice.ended or choice.waits >= 2 * self._every:
            return True
        return choice.waits >= self._every and _SENTENCE_END.search(choice.said.text[-8:]) is not None

    async def _judge_now(self, index: int, head: Chunk) -> list[Chunk]:
        """Judge an answer as far as it has come. If it is refused, its last chunk comes out, after what may go."""
        choice = self._choices[index]
        length = len(choice.said.text)
        found = await self._judge(index, choice.said.text)
        choice.decisions = worst([*choice.decisions, *found])  # what was flagged once stays so
        if self._on_decisions is not None:
            self._on_decisions(found)
        if not refuses(found):
            choice.judged = length
            return []
        choice.refused = True
        self.refusals += 1
        self._held = deque(left for held in self._held if (left := _without(held, index, choice.judged)) is not None)
        return [*self._ready(), refusal_chunk(head, index, choice.decisions, begun=choice.judged > 0)]

    def _ready(self) -> list[Chunk]:
        """The chunks at the front in which all is judged."""
        ready = []
        while self._held and all(self._choices[one].judged >= until for one, until in self._held[0].until.items()):
            ready.append(self._with_decisions(self._held.popleft().chunk))
        return ready

    def _with_decisions(self, chunk: Chunk) -> Chunk:
        ended = [one for one in chunk.get("choices") or [] if one.get("finish_reason") is not None]
        decisions = [decision for one in ended for decision in self._of(one).decisions]
        return with_extension(chunk, decisions) if decisions else chunk


def _without(held: _Held, index: int, judged: int) -> _Held | None:
    """A chunk without the part of an answer that was not judged; None where it has no other."""
    if held.until.get(index, 0) <= judged:
        return held
    rest = [one for one in held.chunk["choices"] if _index(one) != index]
    until = {one: length for one, length in held.until.items() if one != index}
    return _Held({**held.chunk, "choices": rest}, until) if rest else None


def _index(part: Mapping[str, Any]) -> int:
    index = part.get("index", 0)
    return index if isinstance(index, int) else 0
