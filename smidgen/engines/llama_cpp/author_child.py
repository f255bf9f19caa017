"""The process in which llama.cpp writes many documents at once, step by step, for `Author` (see author.py).

As in child.py, the parent writes one line of JSON to stdin, the `Settings`, and reads one line from stdout: `{}`, or
`{"refused": …}` before the process ends. Then each further line is an `Order`; it is answered with a line of JSON for
each of its tokens, the ids that were drawn, one for each row, or with `{"refused": …}`.

Tokens are drawn from the whole vocabulary, each row with random numbers of its own, and all rows go on until the last
step. So every step is a batch of the same rows in the same order, and the ids depend on nothing but the order and the
logits. These are the same for every number of threads: each number is one thread's sum.
"""

import json
import os
import sys
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from smidgen.engines.llama_cpp.child import begin, tell
from smidgen.engines.llama_cpp.library import Rows
from smidgen.engines.llama_cpp.loading import give_back
from smidgen.errors import SmidgenError

_RUN = 512  # tokens whose probabilities are summed before one of them is looked for

Map = Callable[[Callable[[int], int], Iterable[int]], Iterator[int]]


@dataclass(frozen=True)
class Order:
    """What is to be written.

    prompts: token ids, all of one length.  tokens: how many follow each.  temperature: 0 takes the likeliest.
    seed, first_row: what random numbers come from, beside the place of a row among the prompts.
    end_ids, bos_id: a row that drew one of these goes on with that, if there is one.
    """

    prompts: list[list[int]]
    tokens: int
    temperature: float
    seed: int
    first_row: int
    end_ids: list[int]
    bos_id: int | None

    def to_line(self) -> str:
        """As one line of JSON."""
        return json.dumps(asdict(self))


def main() -> None:
    """Load the model, and carry out orders until the parent lets go."""
    answers, settings = begin()
    try:
        rows = Rows(settings.path, settings.parallel, settings.ctx_size, settings.threads, settings.loading)
    except SmidgenError as error:
        print(error, file=sys.stderr, flush=True)  # behind what llama.cpp has said: the parent shows the first
        tell(answers, {"refused": str(error)})
        os._exit(1)
    if settings.loading.given_back:
        give_back(Path(file) for file in settings.files)
    tell(answers, {})
    with ThreadPoolExecutor(settings.threads) as pool:
        for line in sys.stdin:
            try:
                for ids in written(rows, Order(**json.loads(line)), pool.map):
                    tell(answers, {"ids": ids})
            except SmidgenError as error:
                tell(answers, {"refused": str(error)})
    os._exit(0)


def written(rows: Rows, order: Order, each: Map = map) -> Iterator[list[int]]:
    """The ids of one step after the other, a token of each row.  each: as `map`, but it may do several at a time."""
    rows.clear()
    numbered = range(order.first_row, order.first_row + len(order.prompts))
    numbers = [np.random.Generator(np.random.PCG64([order.seed, row])) for row in numbered]
    *before, last = [list(column) for column in zip(*order.prompts, strict=True)]
    for position, column in enumerate(before):
        rows.step(column, position, wanted=False)
    ids, ended = last, [False] * len(last)
    for position in range(len(before), len(before) + order.tokens):
        logits = rows.step(ids, position)

        def drawn(row: int, logits: list[np.ndarray] = logits) -> int:
            return draw(logits[row], order.temperature, numbers[row].random())

        drawn_ids = list(each(drawn, range(len(logits))))
        if order.bos_id is not None:
            drawn_ids = [order.bos_id if end else one for one, end in zip(drawn_ids, ended, strict=True)]
        ids, ended = drawn_ids, [one in order.end_ids for one in drawn_ids]
        yield ids


def draw(logits: np.ndarray, temperature: float, number: float) -> int:
    """The token at which the cumulative sum of softmax(logits / temperature) first exceeds `number`, from [0, 1).

    As `numerics.sampling.draw`: over runs of tokens first, then inside the chosen run, sums in float64.
    Raises SmidgenError where there is no largest logit.
    """
    peak = logits.max()
    if not np.isfinite(peak):
        raise SmidgenError("its logits are not finite numbers")
    if temperature == 0:
        return int(logits.argmax())
    weights = np.zeros(-(-len(logits) // _RUN) * _RUN, np.float32)
    chosen = weights[: len(logits)]
    np.subtract(logits, peak, out=chosen)
    np.exp(np.divide(chosen, np.float32(temperature), out=chosen), out=chosen)
    runs = weights.reshape(-1, _RUN)
    ends = runs.sum(axis=1).astype(np.float64).cumsum()
    target = number * ends[-1]
    run = _first_beyond(target, ends)
    within = runs[run].astype(np.float64).cumsum()
    return run * _RUN + _first_beyond(target - (ends[run - 1] if run else 0.0), within)


def _first_beyond(target: float, sums: np.ndarray) -> int:
    """First place whose cumulative sum exceeds the target; by rounding none may, then the last that adds anything."""
    return min(int(np.searchsorted(sums, target, side="right")), int(np.searchsorted(sums, sums[-1], side="left")))


if __name__ == "__main__":
    main()
