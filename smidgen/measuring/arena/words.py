"""What a ranking says, in the words that the terminal and the page share."""

from collections.abc import Mapping, Sequence
from math import ceil, floor, log10
from typing import Any

from smidgen.errors import printable
from smidgen.measuring.figures import percent, whole

_MOST_NAMES = 6  # in a sentence


def headline(ranking: Mapping[str, Any]) -> str:
    """Who is first, whether that is sure, and who has no score."""
    scored = [one for one in ranking["models"] if one["score"] is not None]
    if len(scored) < 2:
        return "These votes are too one-sided for scores: no two models have won against each other."
    others = [shown_name(one["model"]) for one in ranking["models"] if one["score"] is None]
    missing = f" Without a score, since their votes are one-sided: {_listed(others)}." if others else ""
    return _first(scored, ranking) + missing


def _first(scored: Sequence[Mapping[str, Any]], ranking: Mapping[str, Any]) -> str:
    pair = next(pair for pair in ranking["neighbours"] if pair["told_apart"] is not None)
    second = shown_name(scored[1]["model"])
    leads = f"{shown_name(scored[0]['model'])} is first with {points(scored[0]['score'])} points"
    if pair["told_apart"]:
        return f"{leads}, and told apart from the next, {second}."
    if pair["more_votes"] is None:
        return f"{leads}, and {second} is its equal, as it seems."
    more = whole(_about(pair["more_votes"]))
    return f"{leads}, but not told apart from {second}: that takes about {more} more votes."


def _listed(names: Sequence[str]) -> str:
    more = len(names) - _MOST_NAMES
    return ", ".join(names[:_MOST_NAMES]) + (f" and {more} more" if more > 0 else "")


def reasons(ranking: Mapping[str, Any]) -> list[str]:
    """Why models have no score, or no interval."""
    return [f"{shown_name(one['model'])}: {one['reason']}." for one in ranking["models"] if one["reason"]]


def interval_words(one: Mapping[str, Any]) -> str:
    """The interval of a model, or its bound."""
    low, high = one["interval"]
    if low is None and high is None:
        return "not known" if one["score"] is None else "fixed"
    if low is None:
        return f"below {points(high)}"
    return f"above {points(low)}" if high is None else f"{points(low)} to {points(high)}"


def verdict(pair: Mapping[str, Any]) -> str:
    """Whether two neighbours are told apart, and what it takes."""
    if pair["told_apart"]:
        return "told apart"
    if pair["more_votes"] is None:
        return "equal, as it seems: no votes would"
    return f"about {whole(_about(pair['more_votes']))} more votes"


def judge_lines(judge: Mapping[str, Any] | None) -> list[str]:
    """What the judge model did, and how far it can be trusted; nothing where there was none."""
    if judge is None:
        return []
    name, pairs = shown_name(judge["model"]), whole(judge["comparisons"])
    lines = [f"Judge: {name}. It saw {pairs} pairs of answers in both orders."]
    if judge["comparisons"]:
        changed = _share(judge["changed_with_order"], judge["judged"])
        lines.append(
            f"changed its mind with the order: {changed} (counted as ties; "
            f"for the first answer both times: {whole(judge['first_both_times'])})"
        )
        lines.append(f"verdict not understood: {_share(judge['unparsed'], judge['comparisons'])} (not counted)")
    if judge["identical"]:
        lines.append(f"the same answer word for word: {whole(judge['identical'])} (ties, not shown to the judge)")
    if judge["too_long"]:
        lines.append(f"too long for a model: {whole(judge['too_long'])} (not counted)")
    return [*lines, *judge["notes"]]


def _share(count: int, of: int) -> str:
    return f"{whole(count)} of {whole(of)}" + (f", {percent(count / of)}" if of else "")


def votes_lines(ranking: Mapping[str, Any]) -> list[str]:
    """How many votes there were, and how many were left out."""
    votes = ranking["votes"]
    bad = f", {whole(votes['both_bad'])} of them because both were bad" if votes["both_bad"] else ""
    lines = [f"Votes: {whole(votes['counted'])}; ties: {whole(votes['ties'])}{bad}. A tie is half a win for each side."]
    if votes["left_out"]:
        lines.append(f"Votes on other models, left out: {whole(votes['left_out'])}.")
    if votes["skipped"]:
        lines.append(f"Rows that are of no use, left out: {whole(votes['skipped'])}.")
    return lines


def anchor_words(ranking: Mapping[str, Any]) -> str:
    """Where the scale begins."""
    name, score = ranking["anchor"]["model"], ranking["anchor"]["score"]
    where = "the mean of the ranked models is" if name is None else f"{shown_name(name)} is put at"
    return f"{where} {score:g}"


def points(value: float, signed: bool = False) -> str:
    """Whole points; a difference with its sign."""
    rounded = round(value) + 0
    sign = "+" if signed and rounded > 0 else ""
    return f"{sign}{rounded}".replace("-", "−")


def _about(count: int) -> int:
    """Two digits are all that such an estimate has; rounded up."""
    step = 10 ** max(0, floor(log10(max(count, 1))) - 1)
    return ceil(count / step) * step


def shown_name(name: str) -> str:
    """A model's name, which comes from strangers, made harmless and not too long."""
    return printable(name, 60)
