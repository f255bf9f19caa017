"""An engine that answers as a guard model would, from a function of the prompt, with SmolLM2's vocabulary."""

import asyncio
import json
import math
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

from smidgen.engines.llama_cpp.engine import Facts
from smidgen.serving.guard.judging import Guard
from smidgen.serving.guard.policies import Policy
from smidgen.serving.guard.protocols import GuardProtocol, ProtocolName

Says = Callable[[str], float | str | bytes | int | Exception]


class PretendedEngine:
    """says: for a prompt the probability of a violation; or a text, the status, the body or the error in its place.

    asked: the prompts, with control tokens spelled out.  bodies: as they were sent.  seconds: that an answer takes.
    """

    slots = 1

    def __init__(self, facts: Facts, says: Says, words: tuple[str, str], context: int, seconds: float) -> None:
        assert facts.tokenizer is not None
        self.context, self._says, self._tokenizer, self._seconds = context, says, facts.tokenizer, seconds
        self._ids = [facts.tokenizer.encode(word)[0] for word in words]
        self.asked: list[str] = []
        self.bodies: list[dict[str, Any]] = []
        self.open = 0

    @asynccontextmanager
    async def exchange(self, method: str, path: str, body: dict[str, Any] | None) -> AsyncIterator[Any]:
        assert (method, path) == ("POST", "/completion") and body is not None
        assert len(body["prompt"]) + body["n_predict"] <= self.context
        self.asked.append(self._tokenizer.decode(body["prompt"]))
        self.bodies.append(body)
        self.open += 1
        try:
            await asyncio.sleep(self._seconds)
            said = self._says(self.asked[-1])
            if isinstance(said, Exception):
                raise said
            yield _Answer(self._body(said), said if isinstance(said, int) and said > 1 else 200)
        finally:
            self.open -= 1

    def close(self) -> None:
        pass

    def _body(self, said: float | str | bytes) -> bytes:
        if isinstance(said, bytes):
            return said
        if isinstance(said, str):
            return json.dumps({"content": said}).encode()
        shares = zip(self._ids, (said, 1 - said), strict=True)
        listed = [{"id": token, "logprob": math.log(share)} for token, share in shares if share > 0]
        return json.dumps({"content": "", "completion_probabilities": [{"top_logprobs": listed}]}).encode()


class _Answer:
    def __init__(self, body: bytes, status: int) -> None:
        self.status, self.headers, self._body = status, dict[str, str](), body

    async def read(self) -> bytes:
        return self._body

    async def pieces(self) -> AsyncIterator[bytes]:
        yield self._body


def pretended_guard(
    facts: Facts,
    says: Says,
    *policies: Policy,
    protocol: ProtocolName = "shieldgemma",
    context: int = 1024,
    seconds: float = 0.0,
) -> tuple[Guard, PretendedEngine]:
    """A guard, and the engine behind it."""
    spoken = GuardProtocol(protocol, "in a test")
    engine = PretendedEngine(facts, says, spoken.words, context, seconds)
    return Guard(engine, facts, spoken, policies), engine
