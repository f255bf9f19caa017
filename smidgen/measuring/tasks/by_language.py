"""Tasks that come in many languages: which is which, an even sample of them, and where a cut lost most.

A cut forgets the languages that its calibration saw least of, and a score over all of them hides that.
"""

import random
import re
from collections.abc import Callable, Hashable, Mapping, Sequence

from smidgen.measuring.tasks.paired import PairedScore, compare_items

# The harness's names end with the language, or have a subject behind it.
_LANGUAGE = re.compile(
    r"(?:mgsm_(?:direct|native_cot|en_cot)|belebele|global_mmlu_full|global_mmlu|xcopa|xnli|xquad|xwinograd|"
    r"xstorycloze|paws|m_mmlu)_([a-z]{2,3}(?:_[A-Z][a-z]{3})?)(?:_.+)?"
)


def language_of(task: str) -> str | None:
    """The language in a task's name as the harness writes it (`de`, `deu_Latn`); None where there is none."""
    found = _LANGUAGE.fullmatch(task)
    return None if found is None else found[1]


def draw(
    sizes: Mapping[str, int], limit: int | None, seed: int, kind: Callable[[str, int], Hashable] | None = None
) -> dict[str, list[int]]:
    """Numbers of items by task: all, or so many in all, drawn at random and asked in order.

    sizes: how many items each task has.  kind: what an item is to be spread over, its task's language if not given.
    Each language gets the same share, the rest goes to languages drawn at random. Within a language each item is as
    likely as any other.
    """
    by_kind: dict[Hashable, list[tuple[str, int]]] = {}
    for task, size in sizes.items():
        for number in range(size):
            by_kind.setdefault(language_of(task) if kind is None else kind(task, number), []).append((task, number))
    generator = random.Random(seed)
    pools = list(by_kind.values())
    shares = _even_shares([len(pool) for pool in pools], limit, generator)
    chosen: dict[str, list[int]] = {task: [] for task in sizes}
    for pool, share in zip(pools, shares, strict=True):
        for task, number in pool if share == len(pool) else sorted(generator.sample(pool, share)):
            chosen[task].append(number)
    return {task: sorted(numbers) for task, numbers in chosen.items()}


def _even_shares(sizes: Sequence[int], limit: int | None, generator: random.Random) -> list[int]:
    """So many of each, together `limit` where there are as many; what a small one lacks the others give."""
    if limit is None or limit >= sum(sizes):
        return list(sizes)
    shares = [0] * len(sizes)
    left = limit
    while left:
        unfilled = [place for place, size in enumerate(sizes) if shares[place] < size]
        each = left // len(unfilled)
        if each == 0:
            for place in generator.sample(unfilled, left):
                shares[place] += 1
            return shares
        for place in unfilled:
            more = min(each, sizes[place] - shares[place])
            shares[place] += more
            left -= more
    return shares


def compare_languages(
    tasks: Sequence[str], original: Sequence[bool], cut: Sequence[bool], chance: float | None
) -> dict[str, PairedScore]:
    """The score of each language, the one that lost most first; empty where there are fewer than two.

    tasks: the task of each item.  original, cut: whether each answer was right.
    """
    places: dict[str, list[int]] = {}
    for place, task in enumerate(tasks):
        language = language_of(task)
        if language is not None:
            places.setdefault(language, []).append(place)
    if len(places) < 2:
        return {}
    scores = {
        language: compare_items([original[place] for place in own], [cut[place] for place in own], chance)
        for language, own in places.items()
    }
    return dict(sorted(scores.items(), key=lambda entry: (entry[1]["difference"], entry[0])))


def too_few_note(chosen: Mapping[str, Sequence[int]], limit: int | None) -> list[str]:
    """That a limit leaves languages without items, if it does."""
    counts: dict[str, int] = {}
    for task, numbers in chosen.items():
        language = language_of(task)
        if language is not None:
            counts[language] = counts.get(language, 0) + len(numbers)
    without = sum(count == 0 for count in counts.values())
    if limit is None or not without:
        return []
    return [f"{limit} items are too few for {len(counts)} languages: {without} of them were not asked"]
