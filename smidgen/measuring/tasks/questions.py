"""All that two models can be asked for a card, by the names that people give: tasks, and questions of safety."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from smidgen.engines.base import Answering
from smidgen.errors import SmidgenError, printable
from smidgen.measuring.tasks.bbq import BBQ
from smidgen.measuring.tasks.by_language import draw
from smidgen.measuring.tasks.compare import Tasks, refuse_unknown
from smidgen.measuring.tasks.local_files import LocalFiles
from smidgen.measuring.tasks.safety import compare_refusals, compare_stereotypes, read_pairs, read_prompts
from smidgen.progress import say

_LOCAL_SAFETY = {"xstest": read_prompts, "crows_pairs": read_pairs}
_SAFETY = (*_LOCAL_SAFETY, "bbq")


class Questions:
    """What is to be asked, read and checked before any model is loaded.

    names: tasks (compare.py), `xstest` and `crows_pairs` (safety.py), `bbq` (bbq.py); `NAME:N` limits one to N items.
    data: the folder with local files.  limit: items of each other, drawn with `seed`; None asks all.
    unsafe: run programs without a sandbox.
    Raises SmidgenError for names that nobody knows, and for data that are missing or damaged.
    """

    def __init__(
        self, names: Sequence[str], data: Path | None, limit: int | None, seed: int, unsafe: bool = False
    ) -> None:
        limits: dict[str, int | None] = {}
        for task, own in (_limited(name, limit) for name in names):
            if limits.setdefault(task, own) != own:
                raise SmidgenError(f"{printable(task, 60)} is asked for twice, with different limits; name it once.")
        asked = list(limits)
        others = [name for name in asked if name not in _SAFETY]
        if others:
            refuse_unknown(others, data)
        local = [name for name in asked if name in _LOCAL_SAFETY]
        if local and data is None:
            raise SmidgenError(f"{' and '.join(local)} are read from local files only: give --data DIR.")
        self._files = {name: LocalFiles(data) for name in local if data is not None}
        self._rows = {
            name: _drawn(_LOCAL_SAFETY[name](files), limits[name], seed) for name, files in self._files.items()
        }
        self._bbq = BBQ(data, limits["bbq"], seed) if "bbq" in asked else None
        self._tasks = {name: Tasks([name], data, limits[name], seed, unsafe) for name in others}

    def ask(self, original: Answering, cut: Answering) -> tuple[dict[str, Any], dict[str, Any]]:
        """`tasks` and `safety` of a card. What could not be finished is there with a reason, the rest is kept."""
        tasks: dict[str, Any] = {}
        for name, task in self._tasks.items():
            tasks[name] = _finished(name, lambda task=task, name=name: task.compare(original, cut)[name])
        safety: dict[str, Any] = {}
        for name, key, compare in (
            ("xstest", "refusals", compare_refusals), ("crows_pairs", "stereotypes", compare_stereotypes)
        ):  # fmt: skip
            if name in self._rows:
                rows, notes = self._rows[name], self._files[name].notes
                safety[key] = _finished(
                    name, lambda compare=compare, rows=rows, notes=notes: compare(original, cut, rows, notes)
                )
        if self._bbq is not None:
            found = _finished("bbq", lambda bbq=self._bbq: bbq.compare(original, cut))
            safety |= {"bbq": found} if "reason" in found else found
        return tasks, safety


def _limited(name: str, limit: int | None) -> tuple[str, int | None]:
    """A name and its limit: `mbpp:100` has one of its own. Raises SmidgenError for one that is no positive number."""
    task, colon, own = name.partition(":")
    if not colon:
        return name, limit
    if not (own.isascii() and own.isdigit() and 0 < int(own[:10])):
        raise SmidgenError(
            f"{printable(repr(name), 60)}: a number of items is expected behind the colon, as in mbpp:100."
        )
    return task, int(own[:10])


def _drawn(rows: Sequence[dict[str, str]], limit: int | None, seed: int) -> list[dict[str, str]]:
    """So many rows. Where they are labelled, each label has the same share."""
    kinds = [row.get("label") for row in rows]
    chosen = draw({"": len(rows)}, limit, seed, lambda _, number: kinds[number])[""]
    return [rows[number] for number in chosen]


def _finished(name: str, compare: Callable[[], Mapping[str, Any]]) -> dict[str, Any]:
    """The figures, or the reason why there are none: what was measured before is not thrown away."""
    try:
        return dict(compare())
    except SmidgenError as error:
        say(f"{name} could not be finished: {error}")
        return {"reason": str(error)}
