"""The events of an answer that the engine streams, and its refusals in OpenAI's shape."""

import json
import re
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from typing import Any

from smidgen.errors import EngineEnded, printable
from smidgen.serving.refusals import Refusal
from smidgen.serving.upstream import Answer, Upstream

Event = dict[str, Any]
_LONGEST_REASON = 500  # characters of the engine's words
_ITS_OWN_FAULT = re.compile("compute|memory|decode|batch|slot|shutting down", re.IGNORECASE)  # of its status 500


async def events_of(
    upstream: Upstream, path: str, body: dict[str, Any], is_last: Callable[[Event], bool]
) -> AsyncGenerator[Event]:
    """The events of one streamed request, up to the last one. Closing the generator cancels the request.

    Raises Refusal with the engine's words where it refuses, EngineEnded where the stream breaks off before its last
    event.
    """
    async with upstream.exchange("POST", path, body) as answer:
        if answer.status != 200:
            raise refusal_of(answer.status, await answer.read())
        async for line in _lines(answer):
            if line.startswith(b"data: {"):
                event = json.loads(line[len(b"data: ") :])
                if "error" in event:
                    raise refusal_of(500, line[len(b"data: ") :])
                yield event
                if is_last(event):
                    return
            elif line.startswith(b"error: "):
                raise refusal_of(500, line[len(b"error: ") :])
    raise EngineEnded("the engine broke off its answer to this request; try again.")


async def _lines(answer: Answer) -> AsyncIterator[bytes]:
    """Whole lines; what stands behind the last line break is no line, for it was cut off."""
    rest = b""
    async for piece in answer.pieces():
        *lines, rest = (rest + piece).split(b"\n")
        for line in lines:
            yield line.rstrip(b"\r")


def refusal_of(status: int, body: bytes) -> Refusal:
    """What the engine said to a request that it did not carry out.

    llama.cpp answers with 500 where a request made it raise an exception, too: such are the client's mistakes.
    """
    try:
        found = json.loads(body)
        error = found.get("error", found)
        message, status = str(error["message"]), int(error.get("code") or status)
    except (ValueError, KeyError, TypeError, AttributeError):
        return Refusal("the engine failed without a word of why; try again.", max(500, status))
    if "n_ctx" in error:
        return too_long(error.get("n_prompt_tokens"), error["n_ctx"])
    told = f"the engine did not carry out this request: {printable(message.strip() or 'no reason', _LONGEST_REASON)}"
    if status == 503:
        return Refusal(told, 503, retry_after=1)
    if status == 501:
        return Refusal(told, 501)
    if status >= 500 and _ITS_OWN_FAULT.search(message):
        return Refusal(told, 500)
    return Refusal(told, 400)


def too_long(tokens: int | None, context: int, param: str | None = None) -> Refusal:
    """A prompt that leaves no room in the context."""
    return Refusal(
        f"the prompt has {'more' if tokens is None else tokens} tokens, which leaves no room in this model's context "
        f"of {context} tokens; shorten it.",
        param=param,
        code="context_length_exceeded",
    )
