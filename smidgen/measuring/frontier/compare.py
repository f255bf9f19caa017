"""What several cuts of one original cost, side by side: which of them are on the frontier, and which to take.

A cut is on the frontier of a text where no other is as small and loses as little on that text, or less in one of both.
Loss is the mean KL divergence. Where a cut has fewer tokens than the original, KL is over the tokens that it has, which
are not the same for all; then loss is told by bits per byte, which count the whole text.

Only what is the same for all is compared: the original, and texts of which the same passages were read. Cards do not
name their passages, but these show in three figures that depend on them and the original alone: the number of windows
and of bytes, and the original's own bits per byte.

Two losses differ clearly where they are more than two standard errors of their difference apart. That is careful: both
are means over the same windows, so most of their chance is shared.
"""

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from smidgen.errors import SmidgenError
from smidgen.measuring.frontier.cards import ReadCard, Score, Text
from smidgen.measuring.frontier.speeds import Speeds, compare_speeds
from smidgen.measuring.verdict import closeness

MOST_CUTS = 26  # each has a letter in the pictures
_SAME_BITS = 1e-3  # relative: other threads and versions add in another order, other passages are further apart
_CLEAR = 2.0  # standard errors
_SEEN = 0.05  # share of a text from which on its figures flatter, as on the card


@dataclass(frozen=True)
class Beaten:
    """A cut that is not on the frontier: `by` is no larger and loses no more on the text that decides.

    clear: whether the difference is more than chance.  better_on: other texts, on which the cut loses less even so.
    """

    by: ReadCard
    clear: bool
    better_on: tuple[str, ...]


@dataclass(frozen=True)
class Comparison:
    """cards: by size.  texts: names of those that all were measured on; `text` is the one that decides, on which most
    is lost.  measured: for each of these names, the figures of each cut.  scores: the same for tasks and safety.
    by_bits: whether loss is told by bits per byte.  beaten: for each cut, None on the frontier.
    notes: what was left out, and why.
    """

    cards: tuple[ReadCard, ...]
    texts: tuple[str, ...]
    text: str
    measured: Mapping[str, tuple[Text, ...]]
    by_bits: bool
    beaten: tuple[Beaten | None, ...]
    scores: Mapping[str, tuple[Score, ...]]
    speeds: Speeds
    notes: tuple[str, ...]

    @property
    def deciding(self) -> tuple[Text, ...]:
        return self.measured[self.text]

    def frontier(self) -> list[tuple[ReadCard, Text]]:
        """The cuts on it, smallest first."""
        rows = zip(self.cards, self.deciding, self.beaten, strict=True)
        return [(card, text) for card, text, beaten in rows if beaten is None]

    def loss(self, text: Text) -> float:
        return _loss(text, self.by_bits)


def compare_cards(cards: Sequence[ReadCard]) -> Comparison:
    """Raises SmidgenError for fewer than two cards or too many, other originals, and where no text is shared."""
    refuse_count(len(cards))
    _refuse_other_originals(cards)
    measured, notes = _shared_texts(cards)
    by_bits = any(text.trimmed for card in cards for text in card.texts)
    deciding = max(measured, key=lambda name: sum(_lost(text, by_bits) for text in measured[name]))
    beaten = tuple(_beaten(place, cards, measured, deciding, by_bits) for place in range(len(cards)))
    scores, unshared = _shared_scores(cards)
    return Comparison(
        tuple(cards), tuple(measured), deciding, measured, by_bits, beaten, scores, compare_speeds(cards),
        (*notes, *unshared),
    )  # fmt: skip


def refuse_count(cuts: int) -> None:
    """Raises SmidgenError for fewer than two cuts or too many. Can be asked before their cards are read."""
    if not 2 <= cuts <= MOST_CUTS:
        raise SmidgenError(f"--compare needs 2 to {MOST_CUTS} cuts, each with its card; here are {cuts}.")


def on_frontier(sizes: Sequence[int], losses: Sequence[float]) -> list[bool]:
    """Of each place, whether no other is as small and loses as little, or less in one of both."""
    return [
        not any(_beats((sizes[other], losses[other]), (size, loss)) for other in range(len(sizes)) if other != place)
        for place, (size, loss) in enumerate(zip(sizes, losses, strict=True))
    ]


def _beats(one: tuple[float, float], other: tuple[float, float]) -> bool:
    return one[0] <= other[0] and one[1] <= other[1] and one != other


def _loss(text: Text, by_bits: bool) -> float:
    return text.bits if by_bits else text.kl


def _lost(text: Text, by_bits: bool) -> float:
    """How much more than none, to tell on which text most is lost."""
    return text.bits - text.bits_before if by_bits else text.kl


def nats(text: Text, by_bits: bool) -> float | None:
    """The loss in nats for each of the original's tokens (measuring/verdict.py); None where that is not known."""
    if not by_bits:
        return text.kl
    return math.log(2) * (text.bits - text.bits_before) / text.tokens_per_byte if text.tokens_per_byte else None


def _refuse_other_originals(cards: Sequence[ReadCard]) -> None:
    first = cards[0]
    for card in cards[1:]:
        if card.original_sha256 != first.original_sha256:
            two = (f"{one.name} of {one.original_name} (sha256 {one.original_sha256[:12]})" for one in (first, card))
            raise SmidgenError(
                f"These are cuts of different originals: {', '.join(two)}. Compare cuts of one original."
            )


def _shared_texts(cards: Sequence[ReadCard]) -> tuple[dict[str, tuple[Text, ...]], list[str]]:
    """Name → figures of each cut, for texts of which all have read the same; and what is left out."""
    hashes = list(dict.fromkeys(text.sha256 for card in cards for text in card.texts))
    shared: dict[str, tuple[Text, ...]] = {}
    notes = []
    for sha256 in hashes:
        found = [next((text for text in card.texts if text.sha256 == sha256), None) for card in cards]
        texts = [text for text in found if text is not None]
        name = texts[0].name
        without = [card.name for card, text in zip(cards, found, strict=True) if text is None]
        if without:
            notes.append(f"The text {name} is left out: it was not measured for {_and(without)}.")
        elif other := next((place for place, text in enumerate(texts) if not _same_passages(texts[0], text)), None):
            pair = " and ".join(f"{cards[place].name} ({texts[place].tokens:,} tokens)" for place in (0, other))
            notes.append(f"The text {name} is left out: {pair} were measured on different passages of it.")
        else:
            shared[name if name not in shared else f"{name} ({sha256[:8]})"] = tuple(texts)
    if not shared:
        why = notes[0].replace(" is left out", "") if notes else "None of them was measured on any text."
        advice = "Measure all of them alike: smidgen measure ORIGINAL DIR --text FILE -o DIR/card.json"
        raise SmidgenError(f"These cuts share no text to compare on. {why} {advice}")
    return shared, [*notes, *_flattered(cards, shared)]


def _flattered(cards: Sequence[ReadCard], shared: Mapping[str, tuple[Text, ...]]) -> list[str]:
    return [
        f"{100 * text.seen:.0f}% of the text {name} was also used to make {card.name}, so its figures flatter."
        for name, texts in shared.items()
        for card, text in zip(cards, texts, strict=True)
        if text.seen > _SEEN
    ]


def _same_passages(one: Text, other: Text) -> bool:
    if (one.windows, one.bytes) != (other.windows, other.bytes):
        return False
    return math.isclose(one.bits_before, other.bits_before, rel_tol=_SAME_BITS)


def _shared_scores(cards: Sequence[ReadCard]) -> tuple[dict[str, tuple[Score, ...]], list[str]]:
    """Name → scores of each cut, for what all were asked, with the same items; and what is left out."""
    shared: dict[str, tuple[Score, ...]] = {}
    notes = []
    for name in dict.fromkeys(name for card in cards for name in card.scores):
        without = [card.name for card in cards if name not in card.scores]
        if without:
            notes.append(f"{score_name(name)} is left out: not measured for {_and(without)}.")
            continue
        scores = tuple(card.scores[name] for card in cards)
        items = {(score.items, score.seed, round(score.original, 9)) for score in scores}
        if len(items) > 1:
            counts = ", ".join(f"{card.name} {card.scores[name].items}" for card in cards)
            notes.append(f"{score_name(name)} is left out: the cuts were not asked the same items ({counts}).")
        else:
            shared[name] = scores
    return shared, notes


def score_name(name: str) -> str:
    known = {
        "mmlu": "MMLU", "mbpp": "MBPP", "refused_unsafe": "Refusals of harmful prompts",
        "refused_safe": "Refusals of harmless prompts", "stereotypes": "Stereotypes preferred",
        "bbq_ambiguous": "BBQ, unclear context", "bbq_disambiguated": "BBQ, clear context",
    }  # fmt: skip
    return known.get(name, name)


def _beaten(
    place: int, cards: Sequence[ReadCard], measured: Mapping[str, tuple[Text, ...]], deciding: str, by_bits: bool
) -> Beaten | None:
    """By which other cut, the one that loses least of them."""
    texts = measured[deciding]
    mine = cards[place].bytes, _loss(texts[place], by_bits)
    better = [other for other in range(len(cards)) if _beats((cards[other].bytes, _loss(texts[other], by_bits)), mine)]
    if not better:
        return None
    best = min(better, key=lambda other: (_loss(texts[other], by_bits), cards[other].bytes))
    ahead = [name for name, all_of in measured.items() if _loss(all_of[place], by_bits) < _loss(all_of[best], by_bits)]
    return Beaten(cards[best], differs_clearly(texts[place], texts[best], by_bits), tuple(ahead))


def differs_clearly(one: Text, other: Text, by_bits: bool) -> bool:
    """Whether two losses differ by more than chance; taken to do so where the cards have no standard errors."""
    errors = None if by_bits else (one.standard_error, other.standard_error)
    if errors is None or errors[0] is None or errors[1] is None:
        return _loss(one, by_bits) != _loss(other, by_bits)
    return abs(one.kl - other.kl) > _CLEAR * math.hypot(errors[0], errors[1])


def _and(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def closeness_steps(comparison: Comparison) -> list[tuple[str, ReadCard, Text]]:
    """Along the frontier, how each cut predicts, in words: only the smallest cut of which these words are true."""
    words = [
        (closeness(max(0.0, lost)), card, text)
        for card, text in comparison.frontier()
        if (lost := nats(text, comparison.by_bits)) is not None
    ]
    return [next(group) for _, group in itertools.groupby(words, key=lambda one: one[0])]


def as_data(comparison: Comparison) -> dict[str, Any]:
    """What `--json` prints, without the words."""
    cuts = []
    for place, card in enumerate(comparison.cards):
        beaten = comparison.beaten[place]
        cuts.append(
            {
                "name": card.name, "sha256": card.sha256, "bytes": card.bytes, "parameters": card.parameters,
                "bits_per_weight": card.bits_per_weight, "frontier": beaten is None,
                "beaten_by": None if beaten is None else beaten.by.name,
                "clearly": None if beaten is None else beaten.clear,
                "texts": {
                    name: {
                        "tokens": texts[place].tokens, "kl_mean": texts[place].kl,
                        "kl_standard_error": texts[place].standard_error, "same_top1": texts[place].same_top1,
                        "bits_per_byte": texts[place].bits,
                    }
                    for name, texts in comparison.measured.items()
                },
                "tasks": {
                    name: {
                        "share": scores[place].cut, "difference": scores[place].difference,
                        "interval": list(scores[place].interval), "items": scores[place].items,
                    }
                    for name, scores in comparison.scores.items()
                },
                "speed": comparison.speeds.data(card),
            }
        )  # fmt: skip
    first = comparison.cards[0]
    return {
        "schema": 1,
        "original": {
            "name": first.original_name, "sha256": first.original_sha256, "bytes": first.original_bytes,
            "bits_per_byte": {name: texts[0].bits_before for name, texts in comparison.measured.items()},
        },
        "text": comparison.text, "by": "bits_per_byte" if comparison.by_bits else "kl_mean",
        "cuts": cuts, "notes": [*comparison.notes, *comparison.speeds.notes],
    }  # fmt: skip
