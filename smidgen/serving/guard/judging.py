"""A guard: a small model, run by the same kind of engine, that judges what is asked and what is answered.

It is asked with the whole text, in overlapping pieces where that does not fit its context, and the worst piece counts.
It decides within the time that a policy gives it; where it does not, for whatever reason, that is a decision of its
own: "undecided", and the policy says what follows from it. What it has said is remembered by a keyed hash of the
prompt, so that a conversation that is sent again, and an answer that grows, cost only what is new in them.
"""

import array
import hashlib
import json
import math
import secrets
import time
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import anyio

from smidgen.engines.llama_cpp.engine import Facts
from smidgen.errors import SmidgenError
from smidgen.model.chat import Message
from smidgen.serving.guard.decisions import Decision, Reading, decide, is_refused, refuses, worst
from smidgen.serving.guard.framing import ANSWER, Framing
from smidgen.serving.guard.policies import Policy, with_categories
from smidgen.serving.guard.protocols import GuardProtocol, Kind, Turn, categories_of
from smidgen.serving.guard.texts import choice_texts, message_text
from smidgen.serving.upstream import Upstream

LEAST_SHARE = 0.2  # of the probability that the two words must have: with less, the model does not speak the protocol
_ALTERNATIVES = 64  # tokens whose probabilities the engine reports
_REMEMBERED = 4096  # prompts; each takes about 200 bytes


class _CannotTell(Exception):
    """The guard gave no answer that means anything; the message says why."""


class Guard:
    """Judges texts by policies.

    upstream: the engine with the guard model.  facts: of its file.
    Raises SmidgenError for a model that cannot be asked, and for policies that it cannot be asked about.
    """

    def __init__(self, upstream: Upstream, facts: Facts, protocol: GuardProtocol, policies: Sequence[Policy]) -> None:
        self._upstream, self.protocol, self.policies = upstream, protocol, with_categories(policies)
        self._framing = Framing(facts, protocol, upstream.context)
        self._memory: OrderedDict[bytes, Reading] = OrderedDict()
        self._key = secrets.token_bytes(32)
        for policy in self.policies:
            if protocol.name == "shieldgemma" and not policy.text.strip():
                raise SmidgenError(f"policy {policy.name} has no text, which ShieldGemma's protocol needs.")
        for role in ("user", "assistant"):
            for asked_as, group in (*self._plan("prompt", role), *self._plan("answer", role)):
                self._framing.check(group, asked_as)

    async def judge(self, kind: Kind, conversation: Sequence[Message], text: str) -> list[Decision]:
        """Judge one text by every policy that applies; after one that refuses it, no further one is asked.

        conversation: the messages before it. An empty text is not judged: there are no decisions.
        """
        role = "user" if kind == "prompt" else "assistant"
        return await self._judge(kind, role, _turns(conversation), text, self._time(kind))

    async def judge_prompt(self, messages: Sequence[Message]) -> list[Decision]:
        """Judge each message of a request, the last first: a client can write all of them, also those of the model.

        There is one decision for each policy, the gravest; its time is for all messages together.
        """
        left, turns = self._time("prompt"), _turns(messages)
        found: list[Decision] = []
        for place in reversed(range(len(messages))):
            role = str(messages[place].get("role"))
            found += await self._judge("prompt", role, turns[:place], turns[place].text, left)
            if refuses(found):
                break
        return worst(found)

    async def judge_answer(self, conversation: Sequence[Message], body: Mapping[str, Any]) -> list[Decision]:
        """Judge every answer in the body of a completion that is not streamed."""
        texts = choice_texts(body)
        found: list[Decision] = []
        for choice, text in texts.items():
            decided = await self.judge("answer", conversation, text)
            found += [replace(one, choice=choice if len(texts) > 1 else None) for one in decided]
        return found

    def _plan(self, kind: Kind, role: str) -> list[tuple[Kind, tuple[Policy, ...]]]:
        """The policies that apply, by what they are asked about together, and whether as a prompt or as an answer.

        Answers that come back in a conversation are asked about as answers again: then they are remembered.
        """
        applying = [policy for policy in self.policies if kind in policy.on]
        answers = [policy for policy in applying if role == "assistant" and "answer" in policy.on]
        prompts = [policy for policy in applying if policy not in answers]
        plan: list[tuple[Kind, tuple[Policy, ...]]] = []
        kinds: tuple[tuple[Kind, list[Policy]], ...] = (("answer", answers), ("prompt", prompts))
        for asked_as, policies in kinds:
            together = [[one] for one in policies] if self.protocol.name == "shieldgemma" else [policies]
            for group in filter(None, together):
                plan.append((asked_as, tuple(group)))
        return plan

    def _time(self, kind: Kind) -> dict[str, float]:
        """Seconds that are left to each policy that applies."""
        return {policy.name: policy.seconds for policy in self.policies if kind in policy.on}

    async def _judge(
        self, kind: Kind, role: str, turns: Sequence[Turn], text: str, left: dict[str, float]
    ) -> list[Decision]:
        found: list[Decision] = []
        if not text.strip():
            return found
        for asked_as, group in self._plan(kind, role):
            found += [replace(one, on=kind) for one in await self._decide(group, asked_as, turns, text, left)]
            if refuses(found):
                break
        return found

    async def _decide(
        self, group: Sequence[Policy], kind: Kind, turns: Sequence[Turn], text: str, left: dict[str, float]
    ) -> list[Decision]:
        """Ask about policies that are asked about together, for as long as one of them has time left."""
        readings: list[Reading] = []
        shortened, why = False, None
        started = time.monotonic()
        with anyio.move_on_after(max(left[policy.name] for policy in group)) as scope:
            try:
                prompts = self._framing.prompts(group, kind, turns, text)
                while (asked := await anyio.to_thread.run_sync(next, prompts, None)) is not None:
                    readings.append(await self._read(asked.ids, group))
                    shortened = asked.shortened
                    if any(is_refused(policy, readings) for policy in group):
                        break
            except (_CannotTell, SmidgenError) as error:
                why = str(error).rstrip(".")
        seconds = time.monotonic() - started
        found = []
        for policy in group:
            late = scope.cancelled_caught or seconds > left[policy.name]
            left[policy.name] = max(left[policy.name] - seconds, 0.0)
            reason = f"it did not within {policy.seconds:g} s" if late else why
            found.append(decide(policy, kind, readings, reason, seconds, shortened))
        return found

    async def _read(self, ids: list[int], group: Sequence[Policy]) -> Reading:
        """What the guard says to one prompt, perhaps from memory."""
        digest = hashlib.blake2b(array.array("q", ids).tobytes(), key=self._key, digest_size=16).digest()
        if digest in self._memory:
            self._memory.move_to_end(digest)
            return self._memory[digest]
        reading = Reading(await self._probability(ids))
        if self.protocol.name == "llama-guard" and reading.probability >= min(one.threshold for one in group):
            reading = replace(reading, violated=await self._violated(ids, group))
        self._memory[digest] = reading
        while len(self._memory) > _REMEMBERED:
            self._memory.popitem(last=False)
        return reading

    async def _probability(self, ids: list[int]) -> float:
        """The probability of the word for a violation against the other one, as the first token of the answer."""
        answer = await self._complete({"prompt": ids, "n_predict": 1, "n_probs": _ALTERNATIVES})
        try:
            listed = answer["completion_probabilities"][0]["top_logprobs"]
            shares = {int(one["id"]): math.exp(min(float(one["logprob"]), 0.0)) for one in listed}
        except (KeyError, IndexError, TypeError, ValueError) as error:
            raise _CannotTell("its engine reported no probabilities") from error
        violation, harmless = (shares.get(one, 0.0) for one in (self._framing.violation_id, self._framing.harmless_id))
        both = violation + harmless
        if not both >= LEAST_SHARE:  # also for what is no number
            words = " nor ".join(self.protocol.words)
            raise _CannotTell(f"it answers neither {words} (both have a probability of {both:.2g} together)")
        return violation / both

    async def _violated(self, ids: list[int], group: Sequence[Policy]) -> tuple[str, ...]:
        """The policies that Llama Guard names once it has said `unsafe`."""
        begun = self._framing.unsafe_ids
        request = {"prompt": [*ids, *begun], "n_predict": ANSWER - len(begun), "stop": ["\n"]}
        named = categories_of(str((await self._complete(request)).get("content", "")), group)
        if not named:
            raise _CannotTell("it finds the text unsafe and names no category that there is")
        return tuple(policy.name for policy in named)

    async def _complete(self, request: dict[str, Any]) -> dict[str, Any]:
        body = {"temperature": 0, "cache_prompt": True, **request}
        async with self._upstream.exchange("POST", "/completion", body) as answer:
            raw = await answer.read()
            if answer.status != 200:
                raise _CannotTell(f"its engine answered with status {answer.status}")
        try:
            read = json.loads(raw)
        except (ValueError, RecursionError) as error:
            raise _CannotTell("its engine gave an answer that cannot be read") from error
        if not isinstance(read, dict):
            raise _CannotTell("its engine gave an answer that cannot be read")
        return read


def _turns(messages: Sequence[Message]) -> list[Turn]:
    return [Turn("Agent" if one.get("role") == "assistant" else "User", message_text(one)) for one in messages]
