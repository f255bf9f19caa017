"""From two opened models and some texts to a card: which windows of the texts, and how far apart the models are.

Models come in through `Subject`, so that nothing here knows a file format or an engine.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from copy import copy
from dataclasses import dataclass, replace
from typing import Any, Generic, TypeVar

from torch import Tensor

from smidgen.data.sources import TextSource
from smidgen.data.text import Windows, cut_again, cut_into_windows, overlap, spread, window_length
from smidgen.engines.base import LogitScorer, Scorer
from smidgen.errors import SmidgenError
from smidgen.measuring.card import KV_COST, Card, build_card
from smidgen.measuring.divergence import compare
from smidgen.measuring.facts import NOT_KNOWN, Fidelity, Making, ModelFacts
from smidgen.measuring.pairing import PairedWindows, PieceTokenizer, kept_tokens, pair_windows
from smidgen.progress import say
from smidgen.shapes import Int

_S = TypeVar("_S", bound=Scorer | LogitScorer, covariant=True)

DEFAULT_TOKENS = 8192
NOISE_TOKENS = 1024
OTHER_TOKENS = 1024  # of a text in a language that the cut was not asked to keep


@dataclass(frozen=True)
class Subject(Generic[_S]):
    """A model to be measured: what its file is, and something that says what it expects next.

    vocabulary: the texts of its tokens by id, None for rows that no text becomes.
    """

    facts: ModelFacts
    scorer: _S
    vocabulary: Sequence[str | None]


@dataclass(frozen=True)
class Keeping:
    """How the cut keeps keys and values of what it has read.

    kind: f16, q8_0, q4_0.  bytes_per_token, bytes_per_token_f16: of all layers, so and in float16.
    unrounded: makes the cut once more with a float cache, to see what rounding costs; None where nothing is rounded.
    """

    kind: str
    bytes_per_token: int
    bytes_per_token_f16: int
    unrounded: Callable[[], Scorer] | None = None


@dataclass(frozen=True)
class Texts:
    """What two models are compared on: about `tokens` of each of the sources, drawn with `seed`.

    not_asked: texts in languages that the cut was not asked to keep; about `OTHER_TOKENS` of each.
    calibrated_on: windows that the cut has seen, in the original's tokens; they are left out while others are left.
    """

    sources: Sequence[TextSource]
    not_asked: Sequence[TextSource] = ()
    tokens: int = DEFAULT_TOKENS
    seed: int = 0
    calibrated_on: Int[Tensor, "batch position"] | None = None


def measure_subjects(
    original: Subject[Scorer],
    cut: Subject[Scorer | LogitScorer],
    tokenizer: PieceTokenizer,
    texts: Texts,
    *,
    cut_tokenizer: Callable[[], PieceTokenizer] | None = None,
    noisy: Callable[[], Scorer] | None = None,
    keeping: Keeping | None = None,
    speed: Callable[[], Sequence[Mapping[str, Any]]] | None = None,
    making: Making = NOT_KNOWN,
    settings: Mapping[str, Any] | None = None,
) -> Card:
    """Compare two models on some texts, and put all that is known on a card.

    tokenizer: the original's.  cut_tokenizer: builds the cut's, where its vocabulary is another.
    noisy: the original once more, computed in 16 bits: how far it is from itself is the floor of all figures.
    keeping: how the cut keeps keys and values, which its scorer does already; None where that is not known.
    speed: measures the original's file and the cut's; None where it was not wanted. If it fails, the card says why.
    Raises Unsupported where the cut's tokens are not among the original's.
    """
    started = time.monotonic()
    reading = _Reading(original, cut, tokenizer, cut_tokenizer)
    fidelity = [_fidelity(reading, texts, source) for source in texts.sources]
    few = replace(texts, tokens=min(texts.tokens, OTHER_TOKENS))
    fidelity += [_fidelity(reading, few, source, asked=False) for source in texts.not_asked]
    floor = None if noisy is None else _noise_floor(reading, texts, noisy)
    kept = None if keeping is None else _kept_keys(reading, texts, fidelity, keeping)
    speeds, reason = _try(speed)
    drawn = {"seed": texts.seed, "tokens_per_text": texts.tokens, "tokens_per_window": reading.length}
    made = {**drawn, **(settings or {}), "seconds": time.monotonic() - started}
    return build_card(
        original.facts, cut.facts, fidelity,
        making=making, noise_floor=floor, kv=kept, speed=speeds, speed_reason=reason, settings=made,
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


class _Reading:
    """Two models, and how each of them reads text. Raises Unsupported where they do not belong together."""

    def __init__(
        self, original: Subject[Scorer], cut: Subject[Scorer | LogitScorer], tokenizer: PieceTokenizer,
        cut_tokenizer: Callable[[], PieceTokenizer] | None,
    ) -> None:  # fmt: skip
        self.original, self.cut, self.tokenizer = original, cut, tokenizer
        contexts = original.scorer.config.context_length, cut.scorer.config.context_length
        self.length = window_length(*contexts)
        self._kept = self._cut_tokenizer = None
        if list(original.vocabulary) != list(cut.vocabulary):
            names = original.facts.name, cut.facts.name
            self._kept = kept_tokens(original.vocabulary, cut.vocabulary, names)
            self._cut_tokenizer = None if cut_tokenizer is None else cut_tokenizer()

    def with_cut(self, scorer: Scorer) -> "_Reading":
        """The same with the cut computed otherwise."""
        other = copy(self)
        other.cut = replace(self.cut, scorer=scorer)
        return other

    def pair(self, windows: Windows, text: str) -> Windows | PairedWindows:
        """The windows as both models read them; as they are where the two read alike.

        Where the cut needs more tokens for one of them than it knows positions, all of them are cut into shorter ones.
        """
        if self._kept is None:
            return windows
        if self._cut_tokenizer is None:
            raise ValueError("models of different vocabularies need the cut's tokenizer")
        pairs = pair_windows(windows, text, self.tokenizer, self._cut_tokenizer, self._kept)
        longest, known = pairs.cut.ids.shape[1], max(self.length, self.cut.scorer.config.context_length)
        if longest <= known:
            return pairs
        shorter = max(2, windows.ids.shape[1] * known // longest)
        return self.pair(cut_again(windows, text, self.tokenizer, shorter), text)


def _noise_floor(reading: _Reading, texts: Texts, noisy: Callable[[], Scorer]) -> dict[str, Any] | None:
    """What computing in 16 bits alone does to the original, on some of the text: less than that is no difference."""
    if not texts.sources:
        return None
    source = texts.sources[0]
    whole = cut_into_windows(source.text, reading.tokenizer, reading.length)
    windows = spread(whole, NOISE_TOKENS, texts.seed)
    found = compare(reading.original.scorer, noisy(), windows, "Comparing the original with itself")
    figures = {key: getattr(found, key) for key in ("tokens", "kl_mean", "kl_median", "kl_p99", "same_top1")}
    return {"text": source.name, "rounding": "bfloat16 after each layer", **figures}


def _kept_keys(reading: _Reading, texts: Texts, fidelity: Sequence[Fidelity], keeping: Keeping) -> dict[str, Any]:
    """`kv` of a card. What rounding costs is told by the same windows of the first text, with and without."""
    sizes = {"bytes_per_token": keeping.bytes_per_token, "bytes_per_token_f16": keeping.bytes_per_token_f16}
    told: dict[str, Any] = {"type": keeping.kind, **sizes, **dict.fromkeys(KV_COST)}
    if keeping.unrounded is None:
        return told | {"reason": "keys and values are not rounded"}
    if not texts.sources:
        return told | {"reason": "no text was compared"}
    source, plain = texts.sources[0], reading.with_cut(keeping.unrounded())
    without = _fidelity(plain, texts, source, label="The same with a float cache")
    rounded, usual = (one.figures["kl_mean"] for one in (fidelity[0], without))
    if rounded is None or usual is None:
        return told | {"reason": "no text was compared"}
    return told | {
        "text": source.name, "tokens": without.figures["tokens"], "kl_mean": rounded, "kl_mean_f16": usual,
        "kl_difference": rounded - usual, "reason": None,
    }  # fmt: skip


def held_out(windows: Windows, calibrated_on: Int[Tensor, "batch position"] | None) -> Windows:
    """The windows that are not among those the cut was calibrated on; all of them if none is left."""
    if calibrated_on is None:
        return windows
    known = {row.tobytes() for row in calibrated_on.numpy()}
    unseen = [place for place, row in enumerate(windows.ids.numpy()) if row.tobytes() not in known]
    return windows.take(unseen) if unseen else windows


def _fidelity(
    reading: _Reading, texts: Texts, source: TextSource, *, asked: bool = True, label: str | None = None
) -> Fidelity:
    known = texts.calibrated_on
    whole = cut_into_windows(source.text, reading.tokenizer, reading.length)
    windows = spread(held_out(whole, known), texts.tokens, texts.seed)
    seen = None if known is None else overlap(known.tolist(), windows.rows())
    pairs = reading.pair(windows, source.text)
    result = compare(reading.original.scorer, reading.cut.scorer, pairs, label or f"Comparing on {source.name}")
    return Fidelity(source.name, source.sha256, result.figures(), source.language, seen, asked, source.self_written)
