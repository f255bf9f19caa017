"""What a cut cost on text: KL divergence, same top-1 and bits per byte of one model against another.

Which positions count, for a window of BOS and text tokens t₁ … tₙ (n ≤ 511; without BOS, n ≤ 512):

- **KL and same top-1**: the predictions made after each of t₁ … tₙ, the last included, since a divergence needs no
  true next token. The prediction after BOS is left out: it is the same in every window.
- **bits per byte**: the likelihood of each of t₁ … tₙ, given all before it in the window, BOS included; so each text
  token is predicted exactly once, and the bytes are those of the windows' text. Without BOS nothing predicts t₁: it and
  its bytes are left out.

KL is D(original ‖ cut) in nats over the whole vocabulary (Kullback & Leibler 1951; kernel in numerics/divergence.py).
Where one of the models has rows of padding that the other has not, it is over the tokens: padding, which no text
becomes, is left out on both sides and the rest renormalised. What was left out is told (`padding_mass_…`).

Where the vocabulary was cut, the original's distribution is restricted to the tokens that are left, and renormalised,
for KL and same top-1; the probability that it gave to the others is the dropped mass. Predictions are compared where
both models have read the same text (measuring/pairing.py). Bits per byte stay those of each model with its own tokens
and its own whole vocabulary, over the same bytes.

Cost: both models' forward pass over the windows; memory: hidden states of one group of windows and one chunk of the
head, never the logits. Of a model that gives logits only, those of some positions (measuring/expected.py).
"""

import itertools
import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any, TypedDict

import numpy as np
import torch
from torch import Tensor

from smidgen.data.text import Windows
from smidgen.engines.base import LogitScorer, Scorer
from smidgen.errors import SmidgenError, Unsupported
from smidgen.measuring.expected import Chunk, HeadSide, Places, Portion, side_of
from smidgen.measuring.histogram import Histogram, histogram
from smidgen.measuring.pairing import NO_PARTNER, PairedWindows
from smidgen.numerics.divergence import NO_TARGET, Restriction, StreamedDivergence, StreamedSoftmax
from smidgen.progress import Task, track
from smidgen.shapes import Float, Int

_SURENESS = (0.0, 0.25, 0.5, 0.75, 1.0)  # borders of the buckets
_HEAD_ROWS = 4096  # vocabulary entries at a time
_LOGIT_BYTES = 8 * 2**20  # of one chunk of logits of one model; about four such chunks exist at once
_HIDDEN_BYTES = 96 * 2**20  # of the final hidden states of one model


class Sureness(TypedDict):
    """Positions at which the original gave its likeliest token a probability from `least` to below `most`.

    kl_mean, same_top1: of these; None where there are none.
    """

    least: float
    most: float
    tokens: int
    kl_mean: float | None
    same_top1: float | None


@dataclass(frozen=True)
class Divergence:
    """The fidelity figures of one text (DESIGN 5). KL in nats; `tokens` are the positions that KL was averaged over.

    kl_standard_error: of the mean, over windows (neighbouring positions are not independent); None for one window.
    dropped_mass: mean over those positions of the original's probability of tokens that the cut does not have.
    padding_mass_original, padding_mass_cut: the same for rows that no text becomes, where the models differ in them;
    0 where their vocabularies are one, row by row.
    kl_median, kl_p90: most of the mean comes from few positions, which these leave out.
    by_sureness: the same positions by how sure the original was.  kl_histogram: by how much they differ.
    aligned: those positions as a share of all of the original's.  tokens_dropped: share of the original's tokens of
    this text that the cut does not have.
    """

    tokens: int
    windows: int
    bytes: int
    kl_mean: float
    kl_standard_error: float | None
    kl_median: float
    kl_p90: float
    kl_p99: float
    kl_p999: float
    same_top1: float
    bits_per_byte_original: float
    bits_per_byte_cut: float
    dropped_mass: float
    padding_mass_original: float
    padding_mass_cut: float
    aligned: float
    tokens_per_byte_original: float
    tokens_per_byte_cut: float
    tokens_dropped: float
    by_sureness: list[Sureness]
    kl_histogram: Histogram

    def figures(self) -> dict[str, Any]:
        """As in card.json."""
        return asdict(self)


def compare(
    original: Scorer, cut: Scorer | LogitScorer, windows: Windows | PairedWindows, label: str = "measuring"
) -> Divergence:  # fmt: skip
    """Score both models on every window; `PairedWindows` where the cut has not all of the original's tokens.

    Raises as `scored`.
    """
    return scored(original, cut, windows, label).divergence()


@torch.no_grad()
def scored(
    original: Scorer, cut: Scorer | LogitScorer, windows: Windows | PairedWindows, label: str = "measuring"
) -> "Scored":
    """The same with what each window cost.

    Raises Unsupported where the vocabularies are not as the windows say, SmidgenError where a model gives infinities
    or NaN.
    """
    sizes = original.config.vocabulary, cut.config.vocabulary
    pairs = windows if isinstance(windows, PairedWindows) else PairedWindows.same(windows, sizes[0])
    kept = pairs.kept
    if not len(kept.cut) or len(kept.cut) + len(kept.cut_padding) != sizes[1] or int(kept.original[-1]) >= sizes[0]:
        raise Unsupported(
            f"The models have different vocabularies ({sizes[0]} and {sizes[1]} tokens), which do not fit together. "
            "Measure a model against the one that it was made of."
        )
    if len(pairs) == 0:
        raise SmidgenError("There is no text to measure on. Give a longer one.")
    widths = (part.lengths.max() * 4 * model.config.hidden
              for part, model in ((pairs.original, original), (pairs.cut, cut))
              if not isinstance(model, LogitScorer))  # fmt: skip
    group = max(1, _HIDDEN_BYTES // int(max(widths)))
    groups = [pairs.take(range(at, min(at + group, len(pairs)))) for at in range(0, len(pairs), group)]
    with track(label, [cost for part in groups for cost in _costs(original, cut, part)]) as task:
        scores = []
        for part in groups:
            stream = _Stream(original, cut, part, task)
            stream.run(task.advance)
            scores.append(stream.scores())
    return Scored(scores, pairs)


def _costs(original: Scorer, cut: Scorer | LogitScorer, part: PairedWindows) -> list[float]:
    """About what the steps of a group of windows cost: each layer of both models, then each chunk of the vocabulary.

    A model that gives logits only takes as long as the original for its layers, as far as we know.
    """
    tokens, vocabulary = part.original.ids.numel(), original.config.vocabulary
    layers = [tokens * cost for cost in original.layer_operations(part.original.ids.shape[1])]
    hidden = original.config.hidden if isinstance(cut, LogitScorer) else original.config.hidden + cut.config.hidden
    logit = 2.0 * tokens * hidden
    head = [logit * min(_HEAD_ROWS, vocabulary - start) for start in range(0, vocabulary, _HEAD_ROWS)]
    if not isinstance(cut, LogitScorer):
        return layers + [part.cut.ids.numel() * one for one in cut.layer_operations(part.cut.ids.shape[1])] + head
    portions = sum(-(-length // cut.at_once) for length in part.cut.lengths.tolist())
    return layers + [sum(layers) / portions, *(cost / portions for cost in head)] * portions


@dataclass(frozen=True)
class Scored:
    """The scores of all positions of some windows."""

    _groups: "list[_GroupScores]"
    _pairs: PairedWindows

    def divergence(self) -> Divergence:
        """Of all windows together."""
        return _summary(self._groups, self._pairs)

    def by_window(self) -> list[tuple[int, float]]:
        """For each window the positions that count, and the mean of their KL in nats."""
        return [
            (tokens, mean)
            for group in self._groups
            for tokens, mean in zip(group.window_tokens, group.window_means, strict=True)
        ]


@dataclass(frozen=True)
class _GroupScores:
    """Of one group of windows: by position where both models stand at the same byte (BOS left out), and in sum."""

    kl: Float[Tensor, " position"]
    same_top: Tensor  # bool
    sureness: Float[Tensor, " position"]
    dropped_mass: Float[Tensor, " position"]
    padding_mass: Float[Tensor, " position"]
    cut_padding_mass: Float[Tensor, " position"]
    window_tokens: list[int]  # positions in each window that has any
    window_means: list[float]  # of KL
    nats_original: float
    nats_cut: float


class _Stream:
    """The vocabulary on its way past every position of a group of windows.

    Partners go through the kernel together, over the tokens that both models have. Places without a partner are only
    asked how likely the next token was. Where the cut's logits come in portions of places, the vocabulary passes once
    for each of them.
    """

    def __init__(self, original: Scorer, cut: Scorer | LogitScorer, part: PairedWindows, task: Task) -> None:
        self._vocabulary, self._kept = original.config.vocabulary, part.kept
        paired = part.partner != NO_PARTNER
        rows, columns = paired.nonzero(as_tuple=True)
        partners = part.partner[paired]
        targets, cut_targets = _targets(part)
        self._window_of = rows
        self._is_text = (columns > 0) | (not part.original.has_bos)
        self._targets, self._cut_targets = targets[rows, columns], _places(cut_targets[rows, partners], part.kept.cut)
        self._dropped_ids = _left_out(self._vocabulary, part.kept.original, part.kept.padding)
        self._pairs = StreamedDivergence(_places(self._targets, part.kept.original), self._cut_targets)
        self._dropped = StreamedSoftmax(_places(self._targets, self._dropped_ids))
        none = torch.full_like(self._targets, NO_TARGET)
        self._padding, self._cut_padding = StreamedSoftmax(none), StreamedSoftmax(none)
        alone, cut_alone = targets != NO_TARGET, cut_targets != NO_TARGET
        alone[rows, columns] = cut_alone[rows, partners] = False
        self._alone = _Alone(targets[alone])
        self._cut_alone = _Alone(_places(cut_targets[cut_alone], part.kept.cut))
        self._original = HeadSide(original, part.original, Places(rows, columns, alone), task)
        self._cut = side_of(cut, part.cut, Places(rows, partners, cut_alone), task)

    def run(self, advance: Callable[[], None]) -> None:
        """Take the whole vocabulary, chunk by chunk; the cut's tokens among a chunk of the original's are a run."""
        alone = slice(0, len(self._alone))
        for portion in self._cut.portions():
            self._pass(portion, alone, advance)
            alone = slice(0, 0)

    def _pass(self, portion: Portion, alone: slice, advance: Callable[[], None]) -> None:
        """The whole vocabulary past a portion of the cut's places.  alone: the original's own that are asked now."""
        for first in range(0, self._vocabulary, _HEAD_ROWS):
            stop = min(first + _HEAD_ROWS, self._vocabulary)
            chunk = self._original.chunk(torch.arange(first, stop))
            self._alone.add(alone, first, chunk)
            for stream, ids in ((self._dropped, self._dropped_ids), (self._padding, self._kept.padding)):
                begin, end = _among(ids, first, stop)
                if end > begin:
                    _add_one(stream, portion.paired, begin, chunk.only(ids[begin:end] - first))
            begin, end = _among(self._kept.original, first, stop)
            if end > begin:
                cut_chunk = portion.chunk(self._kept.cut[begin:end])
                self._cut_alone.add(portion.alone, begin, cut_chunk)
                chosen = chunk.only(self._kept.original[begin:end] - first)
                for where in _steps(portion.paired):
                    self._pairs.add(where, begin, chosen.paired(where), cut_chunk.paired(where))
            advance()
        for place in range(0, len(self._kept.cut_padding), _HEAD_ROWS):
            cut_chunk = portion.chunk(self._kept.cut_padding[place : place + _HEAD_ROWS])
            self._cut_alone.add(portion.alone, len(self._kept.cut) + place, cut_chunk)
            _add_one(self._cut_padding, portion.paired, place, cut_chunk)

    def scores(self) -> _GroupScores:
        """What came out, once the whole vocabulary has passed."""
        found = self._pairs.finish()
        whole = Restriction.of(found.original_log_likelihood, found.original_log_total, self._dropped, self._padding)
        cut_whole = Restriction.of(found.cut_log_likelihood, found.cut_log_total, self._cut_padding)
        predicted, cut_predicted = self._targets != NO_TARGET, self._cut_targets != NO_TARGET
        kl, window_of = found.kl[self._is_text], self._window_of[self._is_text]
        numbers, counts = window_of.unique(return_counts=True)
        return _GroupScores(
            kl=kl,
            same_top=(found.original_top == found.cut_top)[self._is_text],
            sureness=found.original_sureness[self._is_text],
            dropped_mass=whole.masses[0][self._is_text],
            padding_mass=whole.masses[1][self._is_text],
            cut_padding_mass=cut_whole.masses[0][self._is_text],
            window_tokens=counts.tolist(),
            window_means=[float(kl[window_of == window].mean()) for window in numbers.tolist()],
            nats_original=-float(whole.log_likelihood[predicted].sum()) + self._alone.nats(),
            nats_cut=-float(cut_whole.log_likelihood[cut_predicted].sum()) + self._cut_alone.nats(),
        )


class _Alone:
    """Positions of one model without a partner: only the likelihood of the next token is wanted."""

    def __init__(self, targets: Int[Tensor, " position"]) -> None:
        self._count, self._softmax = len(targets), StreamedSoftmax(targets)

    def __len__(self) -> int:
        return self._count

    def add(self, places: slice, first: int, chunk: Chunk) -> None:
        for where in _steps(places):
            self._softmax.add(where, first, chunk.alone(where))

    def nats(self) -> float:
        return -float(self._softmax.log_likelihood().sum()) if self._count else 0.0


def _add_one(stream: StreamedSoftmax, places: slice, first: int, chunk: Chunk) -> None:
    """What one model expects, at places with a partner, of entries that are not compared."""
    for where in _steps(places):
        stream.add(where, first, chunk.paired(where))


def _steps(places: slice) -> list[slice]:
    """So many positions at a time that a chunk of their logits stays small."""
    step = max(1, _LOGIT_BYTES // (4 * _HEAD_ROWS))
    return [slice(at, min(at + step, places.stop)) for at in range(places.start, places.stop, step)]


def _targets(part: PairedWindows) -> tuple[Int[Tensor, "batch position"], Int[Tensor, "batch _position"]]:
    """The token that follows each place inside its window, for both models; NO_TARGET where none is scored.

    None is after the last place, and before the first that has a partner: BOS, or the end of the first token.
    """
    first = (part.partner != NO_PARTNER).int().argmax(dim=1)
    firsts = first, part.partner[torch.arange(len(part)), first]
    found = []
    for windows, begin in zip((part.original, part.cut), firsts, strict=True):
        targets = torch.full_like(windows.ids, NO_TARGET)
        targets[:, :-1] = windows.ids[:, 1:]
        targets[~windows.real().roll(-1, dims=1)] = NO_TARGET
        targets[:, -1] = NO_TARGET
        targets[torch.arange(targets.shape[1]) < begin[:, None]] = NO_TARGET
        found.append(targets)
    return found[0], found[1]


def _places(targets: Int[Tensor, " position"], ids: Int[Tensor, " ids"]) -> Int[Tensor, " position"]:
    """Targets as places among ascending ids; NO_TARGET for those that are none of them."""
    if not len(ids):
        return torch.full_like(targets, NO_TARGET)
    place = torch.searchsorted(ids, targets).clamp(max=len(ids) - 1)
    return torch.where(ids[place] == targets, place, NO_TARGET)


def _left_out(vocabulary: int, *taken: Int[Tensor, " ids"]) -> Int[Tensor, " others"]:
    """The ids below `vocabulary` that are in none of these."""
    left = torch.ones(vocabulary, dtype=torch.bool)
    for ids in taken:
        left[ids] = False
    return left.nonzero()[:, 0]


def _among(ids: Int[Tensor, " ids"], first: int, stop: int) -> tuple[int, int]:
    """Which places of ascending ids hold those from `first` to before `stop`."""
    begin, end = torch.searchsorted(ids, torch.tensor([first, stop])).tolist()
    return begin, end


def _summary(scores: list[_GroupScores], pairs: PairedWindows) -> Divergence:
    kl, window_means = torch.cat([part.kl for part in scores]), [mean for part in scores for mean in part.window_means]
    nats_original, nats_cut = sum(part.nats_original for part in scores), sum(part.nats_cut for part in scores)
    if not (torch.isfinite(kl).all() and math.isfinite(nats_original) and math.isfinite(nats_cut)):
        raise SmidgenError("A model gave infinite or undefined probabilities: its weights are damaged. Make it anew.")
    scored_bytes, text_bytes = (
        int((pairs.original.text_bytes - left_out).sum()) for left_out in (pairs.unscored, torch.tensor(0))
    )
    if not scored_bytes:
        raise SmidgenError("The text is a single token, which nothing predicts. Give a longer one.")
    bits = 1 / math.log(2) / scored_bytes
    same_top = torch.cat([part.same_top for part in scores])
    middle, high, *tail = np.quantile(kl.numpy(), [0.5, 0.9, 0.99, 0.999])
    return Divergence(
        tokens=len(kl), windows=len(window_means), bytes=scored_bytes,
        kl_mean=float(kl.mean()), kl_standard_error=_standard_error(window_means),
        kl_median=float(middle), kl_p90=float(high),
        kl_p99=float(tail[0]), kl_p999=float(tail[1]),
        same_top1=float(same_top.double().mean()),
        bits_per_byte_original=nats_original * bits, bits_per_byte_cut=nats_cut * bits,
        dropped_mass=float(torch.cat([part.dropped_mass for part in scores]).mean()),
        padding_mass_original=float(torch.cat([part.padding_mass for part in scores]).mean()),
        padding_mass_cut=float(torch.cat([part.cut_padding_mass for part in scores]).mean()),
        aligned=len(kl) / pairs.original.text_tokens,
        tokens_per_byte_original=pairs.original.text_tokens / text_bytes,
        tokens_per_byte_cut=pairs.cut.text_tokens / text_bytes,
        tokens_dropped=_share_dropped(pairs),
        by_sureness=_by_sureness(kl, same_top, torch.cat([part.sureness for part in scores])),
        kl_histogram=histogram(kl),
    )  # fmt: skip


def _by_sureness(
    kl: Float[Tensor, " position"], same_top: Tensor, sureness: Float[Tensor, " position"]
) -> list[Sureness]:
    found = []
    for least, most in itertools.pairwise(_SURENESS):
        here = (sureness >= least) & ((sureness < most) | (most == 1))
        count = int(here.sum())
        found.append(
            Sureness(
                least=least, most=most, tokens=count,
                kl_mean=float(kl[here].mean()) if count else None,
                same_top1=float(same_top[here].double().mean()) if count else None,
            )
        )  # fmt: skip
    return found


def _share_dropped(pairs: PairedWindows) -> float:
    """Of the original's text tokens, those that the cut does not have."""
    text = pairs.original.real()
    text[:, 0] &= not pairs.original.has_bos
    return 1 - float(torch.isin(pairs.original.ids[text], pairs.kept.original).double().mean())


def _standard_error(values: list[float]) -> float | None:
    if len(values) < 2:
        return None
    return float(torch.tensor(values, dtype=torch.float64).std()) / math.sqrt(len(values))
