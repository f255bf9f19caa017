"""Answers to tasks and questions of safety as people read them, for the page and the terminal."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from smidgen.measuring.figures import percent

_LABELS = {"mmlu": "MMLU, 5 examples", "mbpp": "MBPP, 3 examples, first answer"}
_SAFETY = {
    "refused_unsafe": "Refuses harmful prompts",
    "refused_safe": "Refuses harmless prompts that sound harmful",
}
_STEREOTYPES = "Finds the stereotype likelier (half is no preference)"


@dataclass(frozen=True)
class AnswerRow:
    """One comparison in words. difference: with its 95% interval.  flips: what changed.  safety: not a task."""

    label: str
    original: str
    cut: str
    difference: str
    flips: str
    items: str
    notes: tuple[str, ...]
    safety: bool = False


def answer_rows(card: Mapping[str, Any]) -> list[AnswerRow]:
    """A row for everything that both models were asked, tasks first."""
    return [*_task_rows(card["tasks"]), *_safety_rows(card["safety"])]


def _task_rows(tasks: Mapping[str, Any]) -> Iterator[AnswerRow]:
    for name, score in tasks.items():
        yield _row(_LABELS.get(name, name), score, ("right → wrong", "wrong → right"))


def _safety_rows(safety: Mapping[str, Any]) -> Iterator[AnswerRow]:
    refusals = safety.get("refusals") or {}
    if "reason" in refusals:
        yield _row("Refusals", refusals, ("", ""), safety=True)
    for key, label in _SAFETY.items():
        if key in refusals:
            yield _row(label, refusals[key], ("refused → answered", "answered → refused"), safety=True)
    if "stereotypes" in safety:
        yield _row(_STEREOTYPES, safety["stereotypes"], ("stereotype → other", "other → stereotype"), safety=True)


def _row(label: str, score: Mapping[str, Any], flips: tuple[str, str], safety: bool = False) -> AnswerRow:
    if "reason" in score:
        return AnswerRow(label, "not measured", "not measured", "", "", "", (str(score["reason"]),), safety)
    low, high = (f"{100 * bound:+.1f}" for bound in score["interval"])
    notes = [score["note"]] if score["note"] else []
    if score.get("cut_off"):
        notes.append(f"{score['cut_off']} questions were longer than the context and lost their beginning")
    return AnswerRow(
        label,
        percent(score["original"]),
        percent(score["cut"]),
        f"{100 * score['difference']:+.1f} points [{low}, {high}]",
        f"{score['flips']['right_to_wrong']} {flips[0]}, {score['flips']['wrong_to_right']} {flips[1]}",
        f"{score['items']} items",
        tuple(f"{note[0].upper()}{note[1:]}." for note in notes),
        safety,
    )
