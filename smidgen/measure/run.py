"""From two opened models and some texts to a card: which windows of the texts, and how far apart the models are.

Models come in through `Subject`, so that nothing here knows a file format or an engine.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from smidgen.data.sources import TextSource
from smidgen.data.text import TextTokenizer, Windows, cut_into_windows, overlap, spread
from smidgen.engines.base import Scorer
from smidgen.errors import SmidgenError, Unsupported, printable
from smidgen.measure.card import Card, Fidelity, ModelFacts, build_card
from smidgen.measure.divergence import compare
from smidgen.progress import say
from smidgen.shapes import Int

DEFAULT_TOKENS = 8192


@dataclass(frozen=True)
class Subject:
    """A model to be measured: what its file is, and something that says what it expects next."""

    facts: ModelFacts
    scorer: Scorer
    vocabulary: Sequence[str]


def measure_subjects(
    original: Subject,
    cut: Subject,
    tokenizer: TextTokenizer,
    sources: Sequence[TextSource],
    *,
    tokens: int = DEFAULT_TOKENS,
    seed: int = 0,
    calibrated_on: Int[Tensor, "batch position"] | None = None,
    speed: Callable[[], Sequence[Mapping[str, Any]]] | None = None,
    steps: Sequence[Mapping[str, Any]] = (),
    cost: Mapping[str, Any] | None = None,
    settings: Mapping[str, Any] | None = None,
) -> Card:
    """Compare two models on about `tokens` tokens of each text, and put all that is known on a card.

    tokenizer: the original's.  calibrated_on: windows that the cut has seen; they are left out while others are left.
    speed: measures the original's file and the cut's; None where it was not wanted. If it fails, the card says why.
    Raises Unsupported where the two do not share one vocabulary.
    """
    started = time.monotonic()
    refuse_other_vocabulary(original, cut)
    fidelity = [_fidelity(original, cut, tokenizer, source, tokens, seed, calibrated_on) for source in sources]
    speeds, reason = _try(speed)
    made = {"seed": seed, "tokens_per_text": tokens, **(settings or {}), "seconds": time.monotonic() - started}
    return build_card(
        original.facts, cut.facts, fidelity,
        steps=steps, speed=speeds, speed_reason=reason, cost=cost, settings=made,
    )  # fmt: skip


def _try(
    speed: Callable[[], Sequence[Mapping[str, Any]]] | None,
) -> tuple[Sequence[Mapping[str, Any]] | None, str]:
    """The speeds, or why there are none: minutes of comparing are not thrown away because an engine refuses a file."""
    if speed is None:
        return None, "not asked for"
    try:
        return speed(), ""
    except SmidgenError as error:
        say(f"Speed could not be measured: {error}")
        return None, str(error)


def refuse_other_vocabulary(original: Subject, cut: Subject) -> None:
    """Raises Unsupported unless token ids mean the same in both models."""
    if list(original.vocabulary) != list(cut.vocabulary):
        names = f"{printable(original.facts.name)} and {printable(cut.facts.name)}"
        raise Unsupported(
            f"{names} have different vocabularies ({len(original.vocabulary)} and {len(cut.vocabulary)} tokens), which "
            "cannot be compared yet. Measure against a model with the same tokenizer."
        )


def held_out(windows: Windows, calibrated_on: Int[Tensor, "batch position"] | None) -> Windows:
    """The windows that are not among those the cut was calibrated on; all of them if none is left."""
    if calibrated_on is None:
        return windows
    known = {row.tobytes() for row in calibrated_on.numpy()}
    unseen = [place for place, row in enumerate(windows.ids.numpy()) if row.tobytes() not in known]
    return windows.take(unseen) if unseen else windows


def _fidelity(
    original: Subject, cut: Subject, tokenizer: TextTokenizer, source: TextSource, tokens: int, seed: int,
    calibrated_on: Int[Tensor, "batch position"] | None,
) -> Fidelity:  # fmt: skip
    windows = spread(held_out(cut_into_windows(source.text, tokenizer), calibrated_on), tokens, seed)
    seen = None if calibrated_on is None else overlap(calibrated_on.tolist(), windows.rows())
    result = compare(original.scorer, cut.scorer, windows, f"Comparing on {source.name}")
    return Fidelity(source.name, source.sha256, result.figures(), source.language, seen)
