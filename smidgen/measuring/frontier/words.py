"""What a comparison says in plain words: what it shows, which cuts to take, and which not."""

import itertools

from smidgen.measuring.figures import number, percent, size
from smidgen.measuring.frontier.cards import ReadCard, Score, Text
from smidgen.measuring.frontier.compare import Beaten, Comparison, closeness_steps, score_name

_BITS, _KL = "bits per byte", "KL"


def headline(comparison: Comparison) -> str:
    """One sentence for the top of the page."""
    best = [card.name for card, _ in comparison.frontier()]
    first, count = comparison.cards[0], len(comparison.cards)
    start = f"{count} cuts of {first.original_name} ({size(first.original_bytes)})"
    if len(best) == 1:
        return f"{start}: {best[0]} is the smallest and the closest to the original."
    if len(best) == count:
        return f"{start}: each is the best of its size."
    return f"{start}: {len(best)} of them are the best of their size, {count - len(best)} not."


def advice(comparison: Comparison) -> list[str]:
    """Which to take, a sentence each."""
    frontier = comparison.frontier()
    (smallest, least), (closest, best) = frontier[0], frontier[-1]
    if len(frontier) == 1:
        return [f"Take {smallest.name}: no other is as small, and none loses less ({_figures(comparison, least)})."]
    said = []
    for place, (words, card, text) in enumerate(closeness_steps(comparison)):
        which = "the smallest of all, and" if place == 0 else "the smallest that"
        said.append(f"{card.name} ({size(card.bytes)}) is {which} {words} ({_figures(comparison, text)}).")
    if closest.name not in {card.name for _, card, _ in closeness_steps(comparison)}:
        said.append(f"{closest.name} ({size(closest.bytes)}) loses least of all ({_figures(comparison, best)}).")
    return said


def steps(comparison: Comparison) -> list[str]:
    """What more bytes buy, from each cut on the frontier to the next."""
    said = []
    for (before, lost), (after, left) in itertools.pairwise(comparison.frontier()):
        more = size(after.bytes - before.bytes) + " more"
        first, second = (number(comparison.loss(text)) for text in (lost, left))
        said.append(f"From {before.name} to {after.name}: {more} take {_measure(comparison)} from {first} to {second}.")
    return said


def beaten(comparison: Comparison) -> list[str]:
    """The cuts that are not on the frontier, and why."""
    rows = zip(comparison.cards, comparison.deciding, comparison.beaten, strict=True)
    return [_beaten(comparison, card, text, by) for card, text, by in rows if by is not None]


def scores(comparison: Comparison) -> list[str]:
    """Of each task, whether the cuts differ in it; no verdict where the original only guesses."""
    return [f"{score_name(name)}: {_score(comparison, all_of)}" for name, all_of in comparison.scores.items()]


def _beaten(comparison: Comparison, card: ReadCard, text: Text, by: Beaten) -> str:
    other = comparison.deciding[comparison.cards.index(by.by)]
    sizes = "as large as" if card.bytes == by.by.bytes else "larger than"
    mine, least = (number(comparison.loss(one)) for one in (text, other))
    if comparison.loss(text) == comparison.loss(other):
        word = "as good"
    else:
        word = "worse" if by.clear else "not better: the difference is within chance"
    said = f"{card.name} is {sizes} {by.by.name} and {word} ({_measure(comparison)} {mine} against {least})"
    if by.better_on:
        said += f"; but it loses less on {', '.join(by.better_on)}"
    return f"{said}."


def _score(comparison: Comparison, all_of: tuple[Score, ...]) -> str:
    first = all_of[0]
    if first.at_chance:
        return f"the original is at the level of chance ({percent(first.original)}), so differences mean nothing."
    clear = [
        f"{card.name} {100 * score.difference:+.1f} points"
        for card, score in zip(comparison.cards, all_of, strict=True)
        if score.interval[0] > 0 or score.interval[1] < 0
    ]
    rest = "For the others, the difference may be chance." if len(clear) < len(all_of) else ""
    if not clear:
        return f"no cut differs from the original by more than chance ({first.items} items)."
    return f"differs from the original by more than chance: {', '.join(clear)} ({first.items} items). {rest}".rstrip()


def _measure(comparison: Comparison) -> str:
    return _BITS if comparison.by_bits else _KL


def _figures(comparison: Comparison, text: Text) -> str:
    lost = f"{_measure(comparison)} {number(comparison.loss(text))}"
    if comparison.by_bits:
        return f"{lost}, the original's {number(text.bits_before)}"
    return f"{lost}, the same next token {percent(text.same_top1)} of the time"
