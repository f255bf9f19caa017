"""Tasks of the harness put to two models: the same items, some at a time, with one bar for both."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache, partial
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

from smidgen.engines.base import Answering
from smidgen.errors import SmidgenError
from smidgen.measuring.tasks.portions import Both, ask_both, in_portions
from smidgen.progress import Task, track

if TYPE_CHECKING:
    from lm_eval.tasks import TaskManager

    from smidgen.measuring.tasks.harness import Item

# Items that an engine that dies loses. Fewer choices would read the examples of a subject too often.
_CHOICES_AT_ONCE, _TEXTS_AT_ONCE = 100, 20
_MOST_PORTIONS = 50  # the harness goes through all of its items for each


def require_harness() -> None:
    """Raises SmidgenError where the extra is not installed."""
    try:
        version("lm_eval")
    except ImportError as error:
        raise SmidgenError(
            "tasks are asked by lm-evaluation-harness, which is not installed: pip install 'smidgen[eval]'"
        ) from error
    _silence()


def harness_name() -> str:
    """For cards."""
    return f"lm-evaluation-harness {version('lm_eval')}"


@cache
def task_manager() -> "TaskManager":
    """The harness's index of its tasks, which takes seconds to read."""
    from lm_eval.tasks import TaskManager

    return TaskManager()


def _silence() -> None:
    """We show progress ourselves, and what the harness and its friends warn of is about their own files."""
    import datasets
    from lm_eval.api import task
    from tqdm import tqdm

    for name in ("lm_eval", "huggingface_hub", "datasets"):
        logging.getLogger(name).setLevel(logging.ERROR)
    datasets.disable_progress_bars()
    task.tqdm = partial(tqdm, disable=True)


@dataclass(frozen=True)
class Asking:
    """What is to be asked. tasks: of the harness, by name.  chosen: numbers of items, by task."""

    name: str
    tasks: Mapping[str, Any]
    chosen: Mapping[str, Sequence[int]]

    @property
    def items(self) -> int:
        """How many there are."""
        return sum(map(len, self.chosen.values()))

    def questions(self) -> list[Mapping[str, Any]]:
        """The chosen items as the harness has them, in order."""
        found: list[Mapping[str, Any]] = []
        for name, numbers in self.chosen.items():
            documents = self.tasks[name].eval_docs if numbers else []
            found += [documents[number] for number in numbers]
        return found

    def answers(self, original: Answering, cut: Answering) -> "tuple[Both[Item], int]":
        """What both answer, and how many questions of both together lost their beginning."""
        from smidgen.measuring.tasks.harness import EngineLM, answer_items

        are_texts = any(task.OUTPUT_TYPE == "generate_until" for task in self.tasks.values())
        size = max(_TEXTS_AT_ONCE if are_texts else _CHOICES_AT_ONCE, -(-self.items // _MOST_PORTIONS))
        portions = [_by_task(part) for part in in_portions(self._places(), size)]
        with track(f"{self.name}, both models", 2 * self.items) as progress:
            models = [EngineLM(model, self.name, progress) for model in (original, cut)]

            def ask(lm: EngineLM, portion: Mapping[str, Sequence[int]]) -> "list[Item]":
                return answer_items(lm, self.tasks, portion)

            both = ask_both(portions, partial(ask, models[0]), partial(ask, models[1]))
            _finish(progress)
        return both, sum(lm.cut_off for lm in models)

    def _places(self) -> list[tuple[str, int]]:
        return [(name, number) for name, numbers in self.chosen.items() for number in numbers]


def _finish(progress: Task) -> None:
    """What an engine did not count, since it had answered it before."""
    if progress.done < progress.total:
        progress.skip(progress.total - progress.done)


def _by_task(places: Sequence[tuple[str, int]]) -> dict[str, list[int]]:
    found: dict[str, list[int]] = {}
    for name, number in places:
        found.setdefault(name, []).append(number)
    return found
