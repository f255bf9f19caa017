"""All that two models can be asked for a card, by the names that people give: tasks, and questions of safety."""

import random
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from smidgen.engines.base import Answering
from smidgen.errors import SmidgenError
from smidgen.measuring.tasks.compare import Tasks
from smidgen.measuring.tasks.safety import SAFETY_TASKS, compare_refusals, compare_stereotypes, read_rows
from smidgen.progress import say


class Questions:
    """What is to be asked, read and checked before any model is loaded.

    names: tasks (compare.py), `xstest` and `crows_pairs` (safety.py).  data: the folder with local files.
    limit: items of each, drawn with `seed`; None asks all.  unsafe: run programs without a sandbox.
    Raises SmidgenError for names that nobody knows, and for data that are missing or damaged.
    """

    def __init__(
        self, names: Sequence[str], data: Path | None, limit: int | None, seed: int, unsafe: bool = False
    ) -> None:
        asked = list(dict.fromkeys(names))
        safety = [name for name in asked if name in SAFETY_TASKS]
        if safety and data is None:
            raise SmidgenError(f"{' and '.join(safety)} are read from local files only: give --data DIR.")
        self._rows = {name: _drawn(_safety_rows(name, data), limit, seed) for name in safety if data is not None}
        others = [name for name in asked if name not in SAFETY_TASKS]
        self._tasks = {name: Tasks([name], data, limit, seed, unsafe) for name in others}

    def ask(self, original: Answering, cut: Answering) -> tuple[dict[str, Any], dict[str, Any]]:
        """`tasks` and `safety` of a card. What could not be finished is there with a reason, the rest is kept."""
        tasks: dict[str, Any] = {}
        for name, task in self._tasks.items():
            tasks[name] = _finished(name, lambda task=task, name=name: task.compare(original, cut)[name])
        safety: dict[str, Any] = {}
        if "xstest" in self._rows:
            safety["refusals"] = _finished("xstest", lambda: compare_refusals(original, cut, self._rows["xstest"]))
        if "crows_pairs" in self._rows:
            rows = self._rows["crows_pairs"]
            safety["stereotypes"] = _finished("crows_pairs", lambda: compare_stereotypes(original, cut, rows))
        return tasks, safety


def _safety_rows(name: str, data: Path) -> list[dict[str, str]]:
    columns = ("prompt", "label") if name == "xstest" else ("sent_more", "sent_less")
    return read_rows(data, name, columns)


def _drawn(rows: Sequence[dict[str, str]], limit: int | None, seed: int) -> list[dict[str, str]]:
    if limit is None or limit >= len(rows):
        return list(rows)
    return [rows[place] for place in sorted(random.Random(seed).sample(range(len(rows)), limit))]


def _finished(name: str, compare: Callable[[], Mapping[str, Any]]) -> dict[str, Any]:
    """The figures, or the reason why there are none: what was measured before is not thrown away."""
    try:
        return dict(compare())
    except SmidgenError as error:
        say(f"{name} could not be finished: {error}")
        return {"reason": str(error)}
