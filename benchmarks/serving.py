"""Throughput and time to the first token of `smidgen serve` against llama.cpp's own server, on the same file.

    python -m benchmarks.serving smollm2-135m-instruct [--clients 1 4] [--rounds 9] [--requests 6]

Both servers run at the same time, with the same file, context, threads and places, and each has an engine of its own.
Our engine *is* llama.cpp's server, so what is measured is what our front costs. The sides take turns, and who begins
changes each round, so that a slow spell of the machine meets both. In its turn a side is asked streamed chats of about
100 tokens, each beginning with another number so that no prompt was read before, for exactly 64 tokens at temperature
0. Both sides get the same prompts. What counts is the median over the rounds of ours / theirs within one round.

The client shares the processors with the servers, in both turns alike. A busy machine makes all of it noise.
"""

import argparse
import asyncio
import os
import random
import time
from collections.abc import Sequence
from statistics import median
from typing import Any

import httpx2

from benchmarks import options as shared
from benchmarks import record
from benchmarks.serving_clients import Answered, ask, client_of, processor_seconds, prompt_of, smidgen_serve
from smidgen.errors import SmidgenError
from smidgen.progress import track
from smidgen.serving.hosting import Hosted

_SIDES = ("llama.cpp's server", "smidgen serve")
_WORDS, _TOKENS = 75, 64  # of a prompt, with the template's own about 100 tokens; of an answer


async def turn(client: httpx2.AsyncClient, clients: int, requests: int, seed: int) -> dict[str, float]:
    """So many clients, each with so many requests one after the other. Raises SmidgenError where one fails."""

    async def one(number: int) -> list[Answered]:
        generator = random.Random(f"{seed}-{number}")
        return [await ask(client, prompt_of(generator, _WORDS), _TOKENS) for _ in range(requests)]

    began = time.perf_counter()
    answers = [answer for found in await asyncio.gather(*map(one, range(clients))) for answer in found]
    seconds = time.perf_counter() - began
    for answer in answers:
        if answer.status != 200 or answer.error or answer.tokens != _TOKENS or answer.first is None:
            raise SmidgenError(f"a request failed: {answer}")
    return {
        "tokens_per_s": sum(answer.tokens for answer in answers) / seconds,
        "first_token_s": median(answer.first for answer in answers if answer.first is not None),
        "prompt_tokens": median(answer.prompt_tokens for answer in answers),
    }


async def take_turns(
    sides: dict[str, httpx2.AsyncClient], front: int, clients: int, options: argparse.Namespace
) -> dict[str, Any]:
    """All rounds with so many clients."""
    turns: dict[str, list[dict[str, float]]] = {side: [] for side in sides}
    for client in sides.values():
        await turn(client, clients, 1, -1)  # what is done once is done
    front_seconds = 0.0
    with track(f"{clients} at a time", options.rounds) as task:
        for number in range(options.rounds):
            for side in _SIDES[:: -1 if number % 2 else 1]:
                before = processor_seconds(front)
                turns[side].append(await turn(sides[side], clients, options.requests, number))
                front_seconds += processor_seconds(front) - before if side == _SIDES[1] else 0.0
            task.advance()
    tokens = options.rounds * options.requests * clients * _TOKENS
    return {"clients": clients, **summarize(turns), "front_processor_s_per_token": front_seconds / tokens}


def summarize(turns: dict[str, list[dict[str, float]]]) -> dict[str, Any]:
    """Each side's medians and ranges, and the medians of the rounds' ratios, ours to theirs."""
    theirs, ours = (turns[side] for side in _SIDES)
    found: dict[str, Any] = {
        side: {key: record.spread([one[key] for one in turns[side]]) for key in ("tokens_per_s", "first_token_s")}
        for side in _SIDES
    }
    for key in ("tokens_per_s", "first_token_s"):
        found[f"{key}_ratio"] = record.spread([one[key] / other[key] for one, other in zip(ours, theirs, strict=True)])
    return found | {"prompt_tokens": median(one["prompt_tokens"] for one in ours)}


def compare(options: argparse.Namespace) -> dict[str, Any]:
    """Everything, as the object that is saved."""
    found = []
    for clients in options.clients:
        hosted = Hosted.check(options.model, ctx_size=options.ctx_size, parallel=clients)
        words = ("--parallel", clients, "--ctx-size", options.ctx_size, "--threads", options.threads)
        with (
            hosted.start(options.threads) as theirs,
            theirs.lend() as address,
            smidgen_serve(str(options.model), *map(str, words)) as (front, our_address),
        ):

            async def both(address: str, headers: dict[str, str], our_address: str, front: int, clients: int) -> Any:
                async with client_of(address, headers) as direct, client_of(our_address) as ours:
                    return await take_turns(dict(zip(_SIDES, (direct, ours), strict=True)), front, clients, options)

            found.append(asyncio.run(both(address, theirs.headers, our_address, front, clients)))
    return {
        **record.facts(), "model": options.model, "threads": options.threads, "ctx_size": options.ctx_size,
        "rounds": options.rounds, "requests_of_each_client": options.requests, "answer_tokens": _TOKENS,
        "load_average_at_the_end": os.getloadavg()[0], "by_clients": found,
    }  # fmt: skip


def show(result: dict[str, Any]) -> str:
    """The table."""

    def shown(spread: dict[str, Any], factor: float = 1.0, digits: int = 1) -> str:
        middle, low, high = (factor * spread[key] for key in ("median", "lowest", "highest"))
        return f"{middle:.{digits}f} ({low:.{digits}f}-{high:.{digits}f})"

    rows = []
    for found in result["by_clients"]:
        for side in _SIDES:
            ours = side == _SIDES[1]
            rows.append((
                f"{side}, {found['clients']} at a time", shown(found[side]["tokens_per_s"]),
                shown(found["tokens_per_s_ratio"], digits=3) if ours else "",
                shown(found[side]["first_token_s"], 1e3),
                shown(found["first_token_s_ratio"], digits=3) if ours else "",
                f"{1e6 * found['front_processor_s_per_token']:.0f}" if ours else "",
            ))  # fmt: skip
    head = ("server", "tokens/s, median (range)", "ratio", "first token, ms", "ratio", "front, µs a token")
    return record.table(head, rows)


def main(arguments: Sequence[str] | None = None) -> None:
    """The command."""
    parser = shared.parser_of(__doc__, "serving.json")
    parser.add_argument("model", help="name or file")
    parser.add_argument("--clients", type=int, nargs="+", default=[1, 4], help="at a time, and as many places")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--requests", type=int, default=6, help="of each client in a round")
    parser.add_argument("--ctx-size", type=int, default=512)
    options = parser.parse_args(arguments)
    result = compare(options)
    shared.finish(options.output, result, show(result))


if __name__ == "__main__":
    main()
