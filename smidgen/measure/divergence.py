"""What a cut cost on text: KL divergence, same top-1 and bits per byte of one model against another.

Which positions count, for a window of BOS and text tokens t₁ … tₙ (n ≤ 511; without BOS, n ≤ 512):

- **KL and same top-1**: the predictions made after each of t₁ … tₙ, the last included, since a divergence needs no
  true next token. The prediction after BOS is left out: it is the same in every window.
- **bits per byte**: the likelihood of each of t₁ … tₙ, given all before it in the window, BOS included; so each text
  token is predicted exactly once, and the bytes are those of the windows' text. Without BOS nothing predicts t₁: it and
  its bytes are left out.

KL is D(original ‖ cut) in nats over the whole vocabulary (Kullback & Leibler 1951; kernel in numerics/divergence.py).
Cost: both models' forward pass over the windows; memory: hidden states of one group of windows and one chunk of the
head, never the logits.
"""

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass

import numpy as np
import torch
from torch import Tensor

from smidgen.data.text import Windows
from smidgen.engines.base import Scorer
from smidgen.errors import SmidgenError, Unsupported
from smidgen.numerics.divergence import NO_TARGET, PositionScores, StreamedDivergence, soft_cap_
from smidgen.progress import track
from smidgen.shapes import Float, Int

_HEAD_ROWS = 8192  # vocabulary entries at a time
_LOGIT_BYTES = 32 * 2**20  # of one chunk of logits of one model; about four such chunks exist at once
_HIDDEN_BYTES = 96 * 2**20  # of the final hidden states of one model


@dataclass(frozen=True)
class Divergence:
    """The fidelity figures of one text (DESIGN 5). KL in nats; `tokens` are the positions that KL was averaged over.

    kl_standard_error: of the mean, over windows (neighbouring positions are not independent); None for one window.
    """

    tokens: int
    windows: int
    bytes: int
    kl_mean: float
    kl_standard_error: float | None
    kl_p99: float
    kl_p999: float
    same_top1: float
    bits_per_byte_original: float
    bits_per_byte_cut: float

    def figures(self) -> dict[str, float | int | None]:
        """As in card.json."""
        return asdict(self)


def compare(original: Scorer, cut: Scorer, windows: Windows, label: str = "measuring") -> Divergence:
    """Score both models on every window.

    Raises Unsupported where the vocabularies differ, SmidgenError where a model gives infinities or NaN.
    """
    if original.config.vocabulary != cut.config.vocabulary:
        raise Unsupported(
            f"The models have different vocabularies ({original.config.vocabulary} and {cut.config.vocabulary} "
            "tokens), which cannot be compared yet. Measure against a model with the same tokenizer."
        )
    if len(windows) == 0:
        raise SmidgenError("There is no text to measure on. Give a longer one.")
    windows = windows.trimmed()
    bytes_per_window = windows.ids.shape[1] * 4 * max(original.config.hidden, cut.config.hidden)
    group = max(1, _HIDDEN_BYTES // bytes_per_window)
    groups = [windows.take(range(at, min(at + group, len(windows)))) for at in range(0, len(windows), group)]
    chunks = -(-original.config.vocabulary // _HEAD_ROWS)
    with track(label, len(groups) * (2 + chunks)) as task:
        scores = []
        for part in groups:
            hidden = []
            for model in (original, cut):
                hidden.append(model.hidden_states(part.ids))
                task.advance()
            scores.append(_score(original, cut, hidden[0], hidden[1], part, task.advance))
    return _summary(scores, groups)


def _score(
    original: Scorer, cut: Scorer,
    original_hidden: Float[Tensor, "batch position hidden"], cut_hidden: Float[Tensor, "batch position hidden"],
    windows: Windows, advance: Callable[[], None],
) -> PositionScores:  # fmt: skip
    """Stream the vocabulary past every position of these windows that is not padding (BOS included)."""
    real = _real(windows)
    original_hidden, cut_hidden = original_hidden[real], cut_hidden[real]
    stream = StreamedDivergence(_targets(windows)[real])
    vocabulary, positions = original.config.vocabulary, original_hidden.shape[0]
    step = max(1, _LOGIT_BYTES // (4 * _HEAD_ROWS))
    for first in range(0, vocabulary, _HEAD_ROWS):
        stop = min(first + _HEAD_ROWS, vocabulary)
        original_rows, cut_rows = original.head_rows(first, stop), cut.head_rows(first, stop)
        for at in range(0, positions, step):
            where = slice(at, min(at + step, positions))
            stream.add(
                where, first,
                soft_cap_(original_hidden[where] @ original_rows.T, original.config.logit_cap),
                soft_cap_(cut_hidden[where] @ cut_rows.T, cut.config.logit_cap),
            )  # fmt: skip
        advance()
    return stream.finish()


def _real(windows: Windows) -> Tensor:
    """Which places of the padded windows hold a token: bool [batch position]."""
    return torch.arange(windows.ids.shape[1]) < windows.lengths[:, None]


def _targets(windows: Windows) -> Int[Tensor, "batch position"]:
    """The token that follows each place inside its window; NO_TARGET after the last."""
    targets = torch.full_like(windows.ids, NO_TARGET)
    targets[:, :-1] = windows.ids[:, 1:]
    targets[~_real(windows).roll(-1, dims=1)] = NO_TARGET
    targets[:, -1] = NO_TARGET
    return targets


def _summary(scores: list[PositionScores], groups: list[Windows]) -> Divergence:
    kl, same, window_means = [], [], []
    nats_original = nats_cut = 0.0
    scored_bytes = 0
    for score, windows in zip(scores, groups, strict=True):
        real, targets = _real(windows), _targets(windows)
        is_text = real.clone()
        is_text[:, 0] &= not windows.has_bos
        chosen = is_text[real]
        kl.append(score.kl[chosen])
        same.append((score.original_top == score.cut_top)[chosen])
        window_of = torch.arange(len(windows))[:, None].expand_as(real)[real][chosen]
        window_means += [float(score.kl[chosen][window_of == w].mean()) for w in range(len(windows))]
        predicted = targets[real] != NO_TARGET
        nats_original -= float(score.original_log_likelihood[predicted].sum())
        nats_cut -= float(score.cut_log_likelihood[predicted].sum())
        unscored = 0 if windows.has_bos else windows.first_bytes
        scored_bytes += int((windows.text_bytes - unscored).sum())
    every_kl = torch.cat(kl)
    if not (torch.isfinite(every_kl).all() and math.isfinite(nats_original) and math.isfinite(nats_cut)):
        raise SmidgenError("A model gave infinite or undefined probabilities: its weights are damaged. Make it anew.")
    if not scored_bytes:
        raise SmidgenError("The text is a single token, which nothing predicts. Give a longer one.")
    bits = 1 / math.log(2) / scored_bytes
    tail = np.quantile(every_kl.numpy(), [0.99, 0.999])
    return Divergence(
        tokens=len(every_kl), windows=len(window_means), bytes=scored_bytes,
        kl_mean=float(every_kl.mean()), kl_standard_error=_standard_error(window_means),
        kl_p99=float(tail[0]), kl_p999=float(tail[1]), same_top1=float(torch.cat(same).double().mean()),
        bits_per_byte_original=nats_original * bits, bits_per_byte_cut=nats_cut * bits,
    )  # fmt: skip


def _standard_error(values: list[float]) -> float | None:
    if len(values) < 2:
        return None
    return float(torch.tensor(values, dtype=torch.float64).std()) / math.sqrt(len(values))
