"""Two models on the same tasks: which items, whose answers, and what the card says of them."""

import logging
import random
from collections.abc import Callable, Mapping, Sequence
from difflib import get_close_matches
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

from smidgen.engines.base import Answering
from smidgen.errors import SmidgenError, printable
from smidgen.measuring.tasks.paired import PairedScore, compare_items

_EXAMPLES = 5  # of changed answers that a card shows


class TaskScore(PairedScore):
    """A score and how it was made.

    cut_off: questions that lost their beginning because the context is too short, of both models together.
    changed: some items whose answer went from right to wrong, with both answers.
    harness: its name and version.  seed: of the sample; None where all items were asked.
    """

    cut_off: int
    changed: list[dict[str, str]]
    harness: str
    seed: int | None


def require_harness() -> None:
    """Raises SmidgenError where the extra is not installed."""
    try:
        version("lm_eval")
    except ImportError as error:
        raise SmidgenError(
            "tasks are asked by lm-evaluation-harness, which is not installed: pip install 'smidgen[eval]'"
        ) from error
    _silence()


def _silence() -> None:
    """We show progress ourselves, and what the harness warns of is about its own files."""
    from lm_eval.api import task
    from tqdm import tqdm

    logging.getLogger("lm_eval").setLevel(logging.ERROR)
    task.tqdm = partial(tqdm, disable=True)


class Tasks:
    """Tasks by the names that people gave, looked at before any model is loaded.

    names: `mmlu`, `mbpp` or any of the harness's.  data: a folder with local copies of the first two (local_data.py);
    None fetches from the hub.  limit: items of each name, drawn with `seed`; None asks all.
    unsafe: run what a model writes without a sandbox.
    Raises SmidgenError for a name that the harness does not know, and for data that are missing or damaged.
    """

    def __init__(
        self, names: Sequence[str], data: Path | None, limit: int | None, seed: int, unsafe: bool = False
    ) -> None:
        require_harness()
        self._seed, self._limit = seed, limit
        self._tasks = {name: _load(name, data, unsafe) for name in names}
        self._chosen = {name: _draw(tasks, limit, seed) for name, tasks in self._tasks.items()}

    def compare(self, original: Answering, cut: Answering) -> dict[str, TaskScore]:
        """The score of both models on each name."""
        from smidgen.measuring.tasks.harness import EngineLM, answer_items

        before, after = EngineLM(original, "original"), EngineLM(cut, "cut")
        scores = {}
        for name, tasks in self._tasks.items():
            first, second = (answer_items(lm, tasks, self._chosen[name]) for lm in (before, after))
            scores[name] = self._score(name, first, second, before.cut_off + after.cut_off)
            before.cut_off = after.cut_off = 0
        return scores

    def _score(self, name: str, original: Sequence[Any], cut: Sequence[Any], cut_off: int) -> TaskScore:
        assert [item.key for item in original] == [item.key for item in cut]
        chance = _chance(self._tasks[name])
        score = compare_items([one.right for one in original], [one.right for one in cut], chance)
        changed = [
            {"item": f"{one.key[0]} {one.key[1]}", "original": one.answer, "cut": other.answer}
            for one, other in zip(original, cut, strict=True)
            if one.right and not other.right
        ]
        return TaskScore(
            **score, cut_off=cut_off, changed=changed[:_EXAMPLES],
            harness=f"lm-evaluation-harness {version('lm_eval')}",
            seed=None if self._limit is None else self._seed,
        )  # fmt: skip


def _load(name: str, data: Path | None, unsafe: bool) -> Mapping[str, Any]:
    """The harness's tasks behind a name."""
    from smidgen.measuring.tasks.local_data import LOCAL_TASKS, local_tasks
    from smidgen.measuring.tasks.sandbox import Sandbox

    if data is not None and name in LOCAL_TASKS:
        return local_tasks(name, data, lambda: Sandbox(unsafe=unsafe))
    if name == "mbpp":
        raise SmidgenError("mbpp needs local data, because its programs run in smidgen's own sandbox: --data DIR.")
    from lm_eval.tasks import TaskManager

    manager = TaskManager()
    if name not in manager.all_tasks:
        near = get_close_matches(name, manager.all_tasks, 3)
        advice = f"; did you mean {', '.join(near)}?" if near else "."
        raise SmidgenError(f"the harness knows no task {printable(repr(name), 60)}{advice}")
    return _without_code(name, _fetched(name, lambda: manager.load([name])["tasks"]))


def _fetched(name: str, load: Callable[[], Mapping[str, Any]]) -> Mapping[str, Any]:
    try:
        return load()
    except Exception as error:  # whatever the hub, its client and the data's own reader raise
        raise SmidgenError(
            f"the data of {name} cannot be fetched from the hub ({type(error).__name__}); is the network there? "
            "MMLU and MBPP are read from local files with --data DIR."
        ) from error


def _without_code(name: str, tasks: Mapping[str, Any]) -> Mapping[str, Any]:
    if any(getattr(task, "UNSAFE_CODE", False) for task in tasks.values()):
        raise SmidgenError(f"{name} runs what a model writes outside of any sandbox; mbpp with --data DIR does not.")
    return tasks


def _draw(tasks: Mapping[str, Any], limit: int | None, seed: int) -> dict[str, list[int]]:
    """Numbers of items by task: all, or so many in all, drawn at random and asked in order."""
    every = [(name, number) for name, task in tasks.items() for number in range(len(task.eval_docs))]
    if limit is not None and limit < len(every):
        every = sorted(random.Random(seed).sample(every, limit))
    chosen: dict[str, list[int]] = {name: [] for name in tasks}
    for name, number in every:
        chosen[name].append(number)
    return chosen


def _chance(tasks: Mapping[str, Any]) -> float | None:
    """What guessing gets: one of the choices where there are some, else nothing."""
    shares = []
    for task in tasks.values():
        if task.OUTPUT_TYPE != "multiple_choice":
            return None
        shares.append(1 / len(task.doc_to_choice(task.eval_docs[0])))
    return sum(shares) / len(shares)
