"""Many clients at `smidgen serve` for minutes: whether it errs, grows, or lets somebody wait longer than others.

    python -m benchmarks.serving_load smollm2-135m-instruct [--clients 64] [--minutes 5] [--parallel 4]

Each client asks again as soon as it has its answer: chats of 20 to 200 words, for 8 to 48 tokens. Where the server is
full it waits as long as `Retry-After` says. One request in twenty is left after its first second, as impatient people
do. Said are the answers by status, the memory of the front and of the engine after warming up (the first fifth) and at
the end, and how long each client waited for its first token.

Exit code 1: an error but 429 and 503, memory that grew by more than 5%, or a client that waited on average more than
twice as long as the median client did.
"""

import argparse
import asyncio
import os
import random
import sys
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from statistics import mean, median
from typing import Any

import httpx2

from benchmarks import options as shared
from benchmarks import record
from benchmarks.serving_clients import Answered, ask, client_of, engine_of, prompt_of, resident_bytes, smidgen_serve
from smidgen.errors import SmidgenError
from smidgen.progress import track

_FULL = (429, 503)
_IMPATIENT, _LEAVES_AFTER_S = 0.05, 1.0
_LOOK_EVERY_S = 2.0
_WARM_UP, _MOST_GROWTH, _MOST_UNFAIR = 0.2, 1.05, 2.0


@dataclass
class Load:
    """What happened. left: requests that their clients did not wait for.  memory: seconds, front, engine."""

    answers: list[list[Answered]]
    left: int = 0
    memory: list[tuple[float, int, int]] = field(default_factory=list)


async def client(http: httpx2.AsyncClient, number: int, load: Load) -> None:
    """One client, until it is cancelled."""
    generator = random.Random(number)
    while True:
        prompt, tokens = prompt_of(generator, generator.randint(20, 200)), generator.randint(8, 48)
        if generator.random() < _IMPATIENT:
            try:
                async with asyncio.timeout(_LEAVES_AFTER_S):
                    await ask(http, prompt, tokens)
            except TimeoutError:
                load.left += 1
            continue
        answer = await ask(http, prompt, tokens)
        load.answers[number].append(answer)
        if answer.status in _FULL:
            await asyncio.sleep(answer.retry_after)


async def look(front: int, load: Load, began: float, end: float) -> None:
    """Write down the memory now and then."""
    with track("load", int(end - began)) as task:
        while (now := time.perf_counter()) < end:
            engine = engine_of(front)
            if engine is None:
                raise SmidgenError("the engine is gone.")
            load.memory.append((now - began, resident_bytes(front), resident_bytes(engine)))
            await asyncio.sleep(_LOOK_EVERY_S)
            task.advance(int(_LOOK_EVERY_S))


async def put_under_load(front: int, address: str, options: argparse.Namespace) -> Load:
    """All clients at the same time."""
    load = Load([[] for _ in range(options.clients)])
    began = time.perf_counter()
    async with client_of(address) as http:
        clients = [asyncio.create_task(client(http, number, load)) for number in range(options.clients)]
        await look(front, load, began, began + 60 * options.minutes)
        for one in clients:
            one.cancel()
        ended = await asyncio.gather(*clients, return_exceptions=True)
    failed = [error for error in ended if not isinstance(error, asyncio.CancelledError)]
    if failed:
        raise SmidgenError(f"{len(failed)} clients failed, the first with {failed[0]!r}")
    return load


def summarize(load: Load, minutes: float) -> dict[str, Any]:
    """The object that is saved."""
    answers = [answer for found in load.answers for answer in found]
    good = [answer for answer in answers if answer.status == 200 and answer.error is None]
    errors = [answer for answer in answers if answer.error is not None and answer.status not in _FULL]
    waits = [
        [answer.first for answer in found if answer.first is not None and answer.error is None]
        for found in load.answers
    ]  # fmt: skip
    means = [mean(one) for one in waits if one]
    return {
        "answers": len(good), "by_status": dict(Counter(str(answer.status) for answer in answers)),
        "left_by_their_clients": load.left, "errors": len(errors), "first_errors": [one.error for one in errors[:5]],
        "tokens_per_s": sum(answer.tokens for answer in good) / (60 * minutes),
        "clients_without_an_answer": sum(not one for one in waits),
        "first_token_s": record.spread([wait for one in waits for wait in one]),
        "first_token_s_by_client": record.spread(means),
        "answers_by_client": record.spread([len(one) for one in waits]),
        "memory": {name: growth(load.memory, place) for name, place in (("front", 1), ("engine", 2))},
    }  # fmt: skip


def growth(memory: Sequence[tuple[float, int, int]], place: int) -> dict[str, float]:
    """Median bytes in the fifth after warming up and in the last fifth, and their ratio."""
    whole = memory[-1][0]

    def of(first: float, last: float) -> float:
        return median(one[place] for one in memory if first * whole <= one[0] <= last * whole)

    before, after = of(_WARM_UP, 2 * _WARM_UP), of(1 - _WARM_UP, 1)
    return {"after_warm_up_bytes": before, "at_the_end_bytes": after, "ratio": after / before}


def faults(found: dict[str, Any]) -> list[str]:
    """What is not as it should be."""
    waits = found["first_token_s_by_client"]
    told = [f"{found['errors']} errors: {found['first_errors']}"] if found["errors"] else []
    told += [f"the {name} grew" for name, one in found["memory"].items() if one["ratio"] > _MOST_GROWTH]
    if found["clients_without_an_answer"] or waits["highest"] > _MOST_UNFAIR * waits["median"]:
        told.append("some clients waited much longer than others")
    return told


def show(result: dict[str, Any]) -> str:
    """The table."""
    wait, count = result["first_token_s_by_client"], result["answers_by_client"]
    rows = [
        ("answers; tokens/s", f"{result['answers']}; {result['tokens_per_s']:.1f}"),
        ("by status", ", ".join(f"{status}: {number}" for status, number in result["by_status"].items())),
        ("errors", result["errors"]),
        ("mean wait of a client, s", f"{wait['median']:.1f} ({wait['lowest']:.1f}-{wait['highest']:.1f})"),
        ("answers of a client", f"{count['median']:.0f} ({count['lowest']:.0f}-{count['highest']:.0f})"),
    ]
    for name, one in result["memory"].items():
        before, after = one["after_warm_up_bytes"] / 1e6, one["at_the_end_bytes"] / 1e6
        rows.append((f"memory of the {name}, MB", f"{before:.1f} → {after:.1f} ({one['ratio']:.3f})"))
    return record.table(("what", "found"), rows)


def main(arguments: Sequence[str] | None = None) -> None:
    """The command."""
    parser = shared.parser_of(__doc__, "serving_load.json")
    parser.add_argument("model", help="name or file")
    parser.add_argument("--clients", type=int, default=64)
    parser.add_argument("--minutes", type=float, default=5)
    parser.add_argument("--parallel", type=int, default=4, help="answers at a time")
    parser.add_argument("--queue", type=int, default=64, help="that may wait")
    parser.add_argument("--ctx-size", type=int, default=1024)
    options = parser.parse_args(arguments)
    words = [options.model, "--parallel", options.parallel, "--queue", options.queue, "--ctx-size", options.ctx_size]
    with smidgen_serve(*map(str, words), "--threads", str(options.threads)) as (front, address):
        load = asyncio.run(put_under_load(front, address, options))
    given = {key: getattr(options, key) for key in ("model", "clients", "minutes", "parallel", "queue", "threads")}
    found = summarize(load, options.minutes)
    result = {**record.facts(), **given, "load_average_at_the_end": os.getloadavg()[0], **found}
    shared.finish(options.output, result, show(result))
    if told := faults(found):
        sys.exit("\n".join(told))


if __name__ == "__main__":
    main()
