"""Two models on the same tasks: which items, whose answers, and what the card says of them."""

from collections.abc import Callable, Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Any, NotRequired

from smidgen.engines.base import Answering
from smidgen.errors import SmidgenError, printable
from smidgen.measuring.tasks.asking import Asking, harness_name, require_harness, task_manager
from smidgen.measuring.tasks.by_language import compare_languages, draw, language_of, too_few_note
from smidgen.measuring.tasks.local_files import LocalFiles
from smidgen.measuring.tasks.paired import PairedScore, compare_items
from smidgen.measuring.tasks.portions import partial_marks, partial_note

if TYPE_CHECKING:
    from smidgen.measuring.tasks.harness import Item

_EXAMPLES = 5  # of changed answers that a card shows
_OWN = ("mbpp", "xstest", "crows_pairs", "bbq")  # names that are not, or not only, the harness's
_GATHERED = {"mgsm": "mgsm_direct_", "global_mmlu": "global_mmlu_", "global_mmlu_full": "global_mmlu_full_"}


class TaskScore(PairedScore):
    """A score and how it was made.

    unparsed: answers of each model that were none, such as a text without a number; they count as wrong.
    cut_off: questions that lost their beginning because the context is too short, of both models together.
    changed: some items whose answer went from right to wrong, with both answers.
    filter: by which of the harness's filters answers were read; None where they are read as they are.
    harness: its name and version.  seed: of the sample; None where all items were asked.
    by_language: the score of each language, the one that lost most first, which `worst_language` names; there for
        several languages only.
    partial, items_asked, partial_reason: there where a model failed midway: only the first items were compared.
    """

    unparsed: dict[str, int]
    cut_off: int
    changed: list[dict[str, str]]
    filter: str | None
    harness: str
    seed: int | None
    by_language: NotRequired[dict[str, PairedScore]]
    worst_language: NotRequired[str]
    partial: NotRequired[bool]
    items_asked: NotRequired[int]
    partial_reason: NotRequired[str]


class Tasks:
    """Tasks by the names that people gave, looked at before any model is loaded.

    names: any of the harness's.  data: a folder with local copies (local_data.py, local_languages.py); tasks that are
    not there are fetched from the hub.  limit: items of each name, drawn with `seed` (by_language.py); None asks all.
    unsafe: run what a model writes without a sandbox.
    Raises SmidgenError for a name that the harness does not know, and for data that are missing or damaged.
    """

    def __init__(
        self, names: Sequence[str], data: Path | None, limit: int | None, seed: int, unsafe: bool = False
    ) -> None:
        require_harness()
        self._seed, self._limit = seed, limit
        self._notes: dict[str, list[str]] = {}
        self._asked: dict[str, Asking] = {}
        for name in names:
            files = None if data is None else LocalFiles(data)
            tasks = _load(name, files, unsafe)
            chosen = draw({one: len(task.eval_docs) for one, task in tasks.items()}, limit, seed)
            self._asked[name] = Asking(name, tasks, chosen)
            self._notes[name] = [*too_few_note(chosen, limit), *([] if files is None else files.notes)]

    def asking(self, name: str) -> Asking:
        """What is asked under a name."""
        return self._asked[name]

    def compare(self, original: Answering, cut: Answering) -> dict[str, TaskScore]:
        """The score of both models on each name."""
        return {name: self._compare(asking, original, cut) for name, asking in self._asked.items()}

    def _compare(self, asking: Asking, original: Answering, cut: Answering) -> TaskScore:
        both, cut_off = asking.answers(original, cut)
        assert [item.key for item in both.original] == [item.key for item in both.cut]
        rights = [item.right for item in both.original], [item.right for item in both.cut]
        only_answer = _only_answer(asking)
        chance = _chance(asking.tasks) if only_answer is None else 1.0
        unparsed = {"original": _unparsed(both.original), "cut": _unparsed(both.cut)}
        languages = compare_languages([item.key[0] for item in both.original], *rights, chance)
        score = compare_items(*rights, chance)
        notes = [
            *partial_note(both, asking.items), *_one_answer_note(only_answer),
            *_unparsed_note(unparsed, score["items"]), *([] if score["note"] is None else [score["note"]]),
            *self._notes[asking.name],
        ]  # fmt: skip
        score["note"] = "; ".join(notes) or None
        found = TaskScore(
            **score, unparsed=unparsed, cut_off=cut_off, changed=_changed(both.original, both.cut),
            filter=_filter(asking.tasks), harness=harness_name(), seed=None if self._limit is None else self._seed,
        )  # fmt: skip
        if languages:
            found |= {"by_language": languages, "worst_language": next(iter(languages))}
        return found | partial_marks(both, asking.items)  # pyright: ignore[reportReturnType]


def _load(name: str, data: LocalFiles | None, unsafe: bool) -> Mapping[str, Any]:
    """The harness's tasks behind a name."""
    from smidgen.measuring.tasks.local_data import LOCAL_TASKS, local_tasks
    from smidgen.measuring.tasks.local_languages import is_local, language_tasks
    from smidgen.measuring.tasks.sandbox import Sandbox

    if data is not None and name in LOCAL_TASKS:
        return local_tasks(name, data, lambda: Sandbox(unsafe=unsafe))
    if data is not None and is_local(name, data):
        return language_tasks(name, data)
    if name == "mbpp":
        raise SmidgenError("mbpp needs local data, because its programs run in smidgen's own sandbox: --data DIR.")
    names = _harness_names(name)
    return _without_code(name, fetched(name, lambda: task_manager().load(names)["tasks"]))


def refuse_unknown(names: Sequence[str], data: Path | None) -> None:
    """Raises SmidgenError for the first name that is no task, before anything is read or fetched for another one."""
    from smidgen.measuring.tasks.local_data import LOCAL_TASKS
    from smidgen.measuring.tasks.local_languages import is_local

    require_harness()
    for name in names:
        if name not in LOCAL_TASKS and (data is None or not is_local(name, LocalFiles(data))):
            _harness_names(name)


def _harness_names(name: str) -> list[str]:
    """The harness's own names behind one. Raises SmidgenError, with the nearest names, where there are none."""
    known = task_manager().all_tasks
    if name in known:
        return [name]
    if name in _GATHERED:
        found = [one for one in known if one.startswith(_GATHERED[name]) and language_of(one) is not None]
        return [one for one in found if one == f"{_GATHERED[name]}{language_of(one)}"]
    near = get_close_matches(name, dict.fromkeys((*_OWN, *_GATHERED, *known)), 3)
    advice = f"; did you mean {', '.join(near)}?" if near else "."
    raise SmidgenError(f"the harness knows no task {printable(repr(name), 60)}{advice}")


def fetched(name: str, load: Callable[[], Mapping[str, Any]]) -> Mapping[str, Any]:
    """What `load` fetches. Raises SmidgenError, with what to do, where it cannot."""
    from smidgen.measuring.tasks.local_languages import files_of

    try:
        return load()
    except Exception as error:  # whatever the hub, its client and the data's own reader raise
        local = "DIR/safety/bbq.jsonl" if name == "bbq" else files_of(name)
        advice = "MMLU and MBPP are" if local is None else f"{local} is"
        raise SmidgenError(
            f"the data of {printable(name, 60)} cannot be fetched from the hub ({type(error).__name__}); is the "
            f"network there? {advice} read with --data DIR."
        ) from error


def _without_code(name: str, tasks: Mapping[str, Any]) -> Mapping[str, Any]:
    if any(getattr(task, "UNSAFE_CODE", False) for task in tasks.values()):
        raise SmidgenError(f"{name} runs what a model writes outside of any sandbox; mbpp with --data DIR does not.")
    return tasks


def _chance(tasks: Mapping[str, Any]) -> float | None:
    """What guessing gets: one of the choices where there are some, else nothing."""
    shares = []
    for task in tasks.values():
        if task.OUTPUT_TYPE != "multiple_choice":
            return None
        shares.append(1 / len(task.doc_to_choice(task.eval_docs[0])))
    return sum(shares) / len(shares)


def _only_answer(asking: Asking) -> str | None:
    """The choice that is right in every item; None where there are several, or the items are no choices."""
    found: set[str] = set()
    for name, numbers in asking.chosen.items():
        task = asking.tasks[name]
        if task.OUTPUT_TYPE != "multiple_choice":
            return None
        documents = task.eval_docs if numbers else []
        for number in numbers:
            target = task.doc_to_target(documents[number])
            choices = task.doc_to_choice(documents[number])
            found.add(str(choices[target] if isinstance(target, int) else target))
            if len(found) > 1:
                return None
    return found.pop() if asking.items > 1 and found else None


def _one_answer_note(answer: str | None) -> list[str]:
    if answer is None:
        return []
    shown = printable(answer, 40)
    return [f"every answer is {shown}: a model that always says {shown} would be right"]


def _unparsed(items: "Sequence[Item]") -> int:
    return sum(item.unparsed for item in items)


def _unparsed_note(unparsed: Mapping[str, int], items: int) -> list[str]:
    if not any(unparsed.values()):
        return []
    return [
        f"{unparsed['original']} answers of the original and {unparsed['cut']} of the cut, of {items} each, could not "
        "be read and count as wrong"
    ]


def _changed(original: "Sequence[Item]", cut: "Sequence[Item]") -> list[dict[str, str]]:
    pairs = zip(original, cut, strict=True)
    return [
        {"item": f"{one.key[0]} {one.key[1]}", "original": one.answer, "cut": other.answer}
        for one, other in pairs
        if one.right and not other.right
    ][:_EXAMPLES]


def _filter(tasks: Mapping[str, Any]) -> str | None:
    from smidgen.measuring.tasks.harness import filter_of

    names = [one.name for task in tasks.values() for one in getattr(task, "_filters", ())]
    found = filter_of(names) if names else "none"
    return None if found == "none" else found
