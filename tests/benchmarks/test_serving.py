"""How the benchmarks of serving count."""

import asyncio

import httpx2
import pytest

from benchmarks import serving
from benchmarks.serving_clients import Answered, ask
from benchmarks.serving_load import Load, faults, growth, summarize
from smidgen.errors import SmidgenError

CHUNK = b'data: {"choices": [{"delta": {"role": "assistant", "content": ""}}]}\n\n'
TEXT = b'data: {"choices": [{"delta": {"content": "a"}}]}\n\n'
USAGE = b'data: {"choices": [], "usage": {"prompt_tokens": 9, "completion_tokens": 2}}\n\n'
DONE = b"data: [DONE]\n\n"
BROKEN = b'data: {"error": {"message": "ended"}}\n\n'


def asked(status: int, body: bytes, **headers: str) -> Answered:
    async def run() -> Answered:
        answer = httpx2.MockTransport(lambda request: httpx2.Response(status, content=body, headers=headers))
        async with httpx2.AsyncClient(transport=answer, base_url="http://server") as client:
            return await ask(client, "a", 2)

    return asyncio.run(run())


def test_an_answer_is_whole_or_an_error() -> None:
    whole = asked(200, CHUNK + TEXT + TEXT + USAGE + DONE)
    assert whole.first is not None and (whole.tokens, whole.prompt_tokens, whole.error) == (2, 9, None)
    assert asked(200, CHUNK + TEXT).error == "the stream has no end"
    assert "ended" in str(asked(200, CHUNK + TEXT + BROKEN).error)
    full = asked(503, b"busy", **{"Retry-After": "7"})
    assert (full.status, full.retry_after, full.error) == (503, 7, "busy")


def test_ratios_are_those_of_rounds() -> None:
    def turns(*rates: float) -> list[dict[str, float]]:
        return [{"tokens_per_s": rate, "first_token_s": 1 / rate, "prompt_tokens": 100} for rate in rates]

    found = serving.summarize({"llama.cpp's server": turns(100, 50, 10), "smidgen serve": turns(90, 50, 9)})
    assert found["tokens_per_s_ratio"]["median"] == 0.9
    assert found["first_token_s_ratio"]["median"] == pytest.approx(1 / 0.9)


def test_a_turn_with_a_failed_request_is_no_result() -> None:
    transport = httpx2.MockTransport(lambda request: httpx2.Response(500, content=b"no"))

    async def run() -> None:
        async with httpx2.AsyncClient(transport=transport, base_url="http://server") as client:
            await serving.turn(client, 2, 1, 0)

    with pytest.raises(SmidgenError, match="request failed"):
        asyncio.run(run())


def good(first: float) -> Answered:
    return Answered(200, 2 * first, first, 10, 100)


def test_growth_errors_and_unfair_waits_are_faults() -> None:
    memory = [(float(second), 100 + second, 1000) for second in range(101)]
    assert growth(memory, 1)["ratio"] == pytest.approx(190 / 130) and growth(memory, 2)["ratio"] == 1
    full = Answered(503, 0.1, error="busy", retry_after=1)
    calm = Load([[good(1.0), good(1.2)], [good(1.1), full], [good(0.9)]])
    calm.memory = [(float(second), 100, 1000) for second in range(101)]
    assert faults(summarize(calm, 1)) == []
    bad = Load([*calm.answers, [good(9.0)], [Answered(0, 1.0, error="reset")]], memory=memory)
    told = " ".join(faults(summarize(bad, 1)))
    assert "1 errors" in told and "the front grew" in told and "engine" not in told and "longer than others" in told
