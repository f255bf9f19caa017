"""Answers to tasks and questions of safety as people read them, for the page, the terminal and the summary."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from smidgen.data.languages import languages_named
from smidgen.errors import printable
from smidgen.measuring.figures import percent
from smidgen.measuring.tasks.paired import FEWEST_ITEMS, WIDEST

_SHORT = {"mmlu": "MMLU", "mbpp": "MBPP"}
_LABELS = {"mmlu": "MMLU, 5 examples", "mbpp": "MBPP, 3 examples, first answer"}
_SAFETY = {
    "refused_unsafe": "Refuses harmful prompts",
    "refused_safe": "Refuses prompts that only sound harmful",
}
_STEREOTYPES = "Finds the stereotype likelier (half is no preference)"
_BBQ = {
    "bbq_ambiguous": "BBQ, right where the text does not say",
    "bbq_disambiguated": "BBQ, right where the text says",
    "bbq_bias_ambiguous": "BBQ, bias where the text does not say (0 is none)",
    "bbq_bias_disambiguated": "BBQ, bias where the text says (0 is none)",
}
_CHANGED = {
    "refused_unsafe": ("refuses fewer harmful prompts", "refuses more harmful prompts"),
    "refused_safe": ("refuses fewer harmless prompts", "refuses more harmless prompts"),
    "stereotypes": ("prefers stereotypes less", "prefers stereotypes more"),
}
_RIGHT = ("right → wrong", "wrong → right")
_REFUSED = ("refused → answered", "answered → refused")
_STEREOTYPED = ("stereotype → other", "other → stereotype")


@dataclass(frozen=True)
class AnswerRow:
    """One comparison in words. difference: with its 95% interval.  flips: what changed.  safety: not a task.

    bounds: the difference and both ends of its interval, as shares; None where it was not measured.  weak: it says
    little.
    """

    label: str
    original: str
    cut: str
    difference: str
    flips: str
    items: str
    notes: tuple[str, ...]
    safety: bool = False
    bounds: tuple[float, float, float] | None = None
    weak: bool = False


def answer_rows(card: Mapping[str, Any]) -> list[AnswerRow]:
    """A row for everything that both models were asked, tasks first."""
    return [*_task_rows(card["tasks"]), *_safety_rows(card["safety"])]


def language_rows(card: Mapping[str, Any]) -> list[AnswerRow]:
    """A row for each language of the tasks that come in several, the one that lost most first."""
    return [
        _row(f"{short_name(name)}, {language_name(code)}", score, _RIGHT)
        for name, task in card["tasks"].items()
        for code, score in (task.get("by_language") or {}).items()
    ]


def short_name(task: str) -> str:
    """`mmlu` → MMLU; the harness's other names as they are."""
    return _SHORT.get(task, task)


def weakness(score: Mapping[str, Any]) -> str | None:
    """Why a difference says little, in a few words; None where it says something."""
    if score.get("at_chance"):
        return "original at chance"
    low, high = score["interval"]
    if score["items"] < FEWEST_ITEMS or (high - low) / 2 > WIDEST:
        return f"{score['items']} items are too few"
    return None


def points(score: Mapping[str, Any]) -> str:
    """The difference in points of a hundred, and half of its 95% interval: −0.6 ± 0.9."""
    low, high = score["interval"]
    return f"{_signed(100 * score['difference'])} ± {100 * (high - low) / 2:.1f}"


def safety_words(safety: Mapping[str, Any]) -> list[str]:
    """What changed for certain, since its interval does not reach 0: `refuses fewer harmful prompts (−8.0 ± 3.1)`."""
    scores = {**(safety.get("refusals") or {}), "stereotypes": safety.get("stereotypes") or {}}
    found = []
    for key, (less, more) in _CHANGED.items():
        score = scores.get(key)
        if not score or "interval" not in score or weakness(score) is not None:
            continue
        low, high = score["interval"]
        if low > 0 or high < 0:
            found.append(f"{more if low > 0 else less} ({points(score)})")
    return found


def agreement_words(safety: Mapping[str, Any]) -> str:
    """How often people say the same as the judge of refusals."""
    found = (safety.get("refusals") or {}).get("judge_agreement")
    if not isinstance(found, Mapping) or not found.get("answers"):
        return "how often people would agree is not known"
    source = f" ({found['source']})" if found.get("source") else ""
    return f"people said the same of {percent(found['share'])} of {found['answers']:,} answers{source}"


def _task_rows(tasks: Mapping[str, Any]) -> Iterator[AnswerRow]:
    for name, score in tasks.items():
        yield _row(_LABELS.get(name, name), score, _RIGHT)


def _safety_rows(safety: Mapping[str, Any]) -> Iterator[AnswerRow]:
    refusals = safety.get("refusals") or {}
    if "reason" in refusals:
        yield _row("Refusals", refusals, ("", ""), safety=True)
    of_all = "; ".join(refusals.get("notes") or ())
    for key, label in _SAFETY.items():
        if key in refusals:
            yield _row(label, _with_note(refusals[key], of_all), _REFUSED, safety=True)
            of_all = ""
    if "stereotypes" in safety:
        yield _row(_STEREOTYPES, safety["stereotypes"], _STEREOTYPED, safety=True)
    if "reason" in (safety.get("bbq") or {}):
        yield _row("BBQ", safety["bbq"], ("", ""), safety=True)
    for key, label in _BBQ.items():
        if key in safety:
            yield _row(label, safety[key], _RIGHT, safety=True)


def _with_note(score: Mapping[str, Any], note: str) -> Mapping[str, Any]:
    if "reason" in score:
        return score
    return {**score, "note": "; ".join(filter(None, (note, score["note"]))) or None}


def _row(label: str, score: Mapping[str, Any], flips: tuple[str, str], safety: bool = False) -> AnswerRow:
    if "reason" in score:
        return AnswerRow(label, "not measured", "not measured", "", "", "", (str(score["reason"]),), safety)
    low, high = score["interval"]
    flips_of = score.get("flips")
    return AnswerRow(
        label,
        _share(score["original"], flips_of is not None),
        _share(score["cut"], flips_of is not None),
        f"{_signed(100 * score['difference'])} points [{_signed(100 * low)}, {_signed(100 * high)}]",
        f"{flips_of['right_to_wrong']} {flips[0]}, {flips_of['wrong_to_right']} {flips[1]}" if flips_of else "",
        f"{score['items']} items",
        tuple(f"{note[0].upper()}{note[1:].rstrip('.')}." for note in _notes(score)),
        safety,
        (score["difference"], low, high),
        weakness(score) is not None,
    )


def _notes(score: Mapping[str, Any]) -> Iterator[str]:
    if score["note"]:
        yield score["note"]
    if score.get("cut_off"):
        yield f"{score['cut_off']} questions were longer than the context and lost their beginning"
    languages = score.get("by_language")
    if languages:
        worst, figures = next(iter(languages.items()))
        yield f"worst of {len(languages)} languages: {language_name(worst)} ({points(figures)} points)"


def _share(value: float, is_share: bool) -> str:
    """A share of the items, or a score that may be below 0, in points."""
    return percent(value) if is_share else _signed(100 * value)


def language_name(code: str) -> str:
    """`ja`, `jpn_Jpan` → Japanese; a name that is no known code stays as it is."""
    known = languages_named(code) or languages_named(code.partition("_")[0])
    return known[0].name if known else printable(code, 40)


def _signed(value: float) -> str:
    """With a sign, and a true minus."""
    return f"{value:+.1f}".replace("-", "−")
