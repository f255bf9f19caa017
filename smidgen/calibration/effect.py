"""What a change of some blocks does to the predictions: mean KL(original ‖ changed), asked many times over.

With x the original's logits at a position, y the changed model's and p = softmax x, over the whole vocabulary,

    KL(p ‖ q) = Σ p (x − y) − log Σ eˣ + log Σ eʸ

Of this, all that belongs to the original is computed once. The changed model keeps embedding, final norm and head E, so
that without a soft cap y = E h' is linear in its hidden state, and Σ p y = (Σ p E)·h' is a scalar product with a vector
that is known beforehand: an answer costs one product with the head and one log Σ eʸ. With a soft cap (Gemma 2) the
original's logits are computed again beside the changed ones.

Factors of the products are rounded to bfloat16 where that is quick, logits the same way in every term, so that what is
left of the rounding is a relative error of some thousandths; elsewhere everything is float32. The BOS position, the
same in every text, is left out. Cost: 2 · positions · parameters of the head an answer, twice that with a cap.
"""

from collections.abc import Iterator

import torch
from torch import Tensor

from smidgen.calibration.gradients import scored_positions
from smidgen.calibration.walk import States, Walk
from smidgen.formats.checkpoint import Checkpoint
from smidgen.formats.parts import head_name, load_block, load_exit
from smidgen.model.attention import soft_cap
from smidgen.numerics.precision import fast_product_dtype, quick_products
from smidgen.shapes import Float, Int

_HEAD_ROWS = 4096  # vocabulary entries at a time
_POSITIONS = 256  # positions at a time: their logits with one chunk of the head (4 MB) stay in the caches
_KEPT_BYTES = 2**29  # the head is kept in memory up to this, else decoded anew for every answer


class Effect:
    """The original's predictions on some windows, against which changed models are held.

    most: so many positions at most, evenly spread, are looked at; None for all.
    """

    @torch.no_grad()
    def __init__(
        self, checkpoint: Checkpoint, windows: Int[Tensor, "windows position"], most: int | None = None
    ) -> None:
        """Runs the original once."""
        self._checkpoint = checkpoint
        self._leaving = load_exit(checkpoint)
        self._chosen = _scored_positions(checkpoint, windows, most)
        self._kept: list[Float[Tensor, "rows hidden"]] = []
        walk = Walk(checkpoint, windows)
        for index in range(len(checkpoint.config.layers)):
            walk.advance(load_block(checkpoint, index), index)
            checkpoint.release()
        self._hidden = self._read(walk.states)
        self._remember()

    @property
    def positions(self) -> int:
        """How many positions an answer is the mean of."""
        return len(self._chosen)

    @torch.no_grad()
    def kl(self, states: States) -> float:
        """Mean KL(original ‖ changed) in nats per token.

        states: after the last block of a changed model with the original's final norm and head, float32, untouched.
        """
        hidden = self._read(states)
        capped = self._checkpoint.config.logit_cap is not None
        cross = torch.zeros(len(hidden)) if capped else torch.linalg.vecdot(self._mean_row, hidden)
        log_total = torch.full((len(hidden),), -torch.inf)
        for rows in self._head():
            for at in range(0, len(hidden), _POSITIONS):
                part = slice(at, at + _POSITIONS)
                logits = self._logits(hidden[part], rows)
                if capped:
                    p = self._logits(self._hidden[part], rows).sub_(self._log_total[part, None]).exp_()
                    cross[part] += torch.linalg.vecdot(p, logits)
                log_total[part] = torch.logaddexp(log_total[part], logits.logsumexp(1))
        return float((self._mean_logit - cross - self._log_total + log_total).double().mean().clamp(min=0))

    def _remember(self) -> None:
        """What the answers need of the original: log Σ eˣ, Σ p x and, without a cap, Σ p E."""
        tokens, width = self._hidden.shape
        maximum, total = torch.full((tokens, 1), -torch.inf), torch.zeros(tokens, 1)
        mean_logit, mean_row = torch.zeros(tokens, 1), torch.zeros(tokens, width)
        for rows in self._head():
            for at in range(0, tokens, _POSITIONS):
                part = slice(at, at + _POSITIONS)
                logits = self._logits(self._hidden[part], rows)
                higher = torch.maximum(maximum[part], logits.amax(1, keepdim=True))
                rescale = (maximum[part] - higher).exp()
                weights = (logits - higher).exp_()
                total[part] = total[part] * rescale + weights.sum(1, keepdim=True)
                mean_logit[part] = mean_logit[part] * rescale + (weights * logits).sum(1, keepdim=True)
                with quick_products():
                    mean_row[part] = mean_row[part] * rescale + weights @ rows
                maximum[part] = higher
        self._mean_logit, self._mean_row = (mean_logit / total)[:, 0], mean_row / total
        self._log_total = (maximum + total.log())[:, 0]

    def _read(self, states: States) -> Float[Tensor, "chosen hidden"]:
        """What the head reads at the positions looked at, rounded once as the products round it anyway."""
        return self._leaving(states.flatten(0, 1)[self._chosen]).to(fast_product_dtype()).float()

    def _logits(
        self, hidden: Float[Tensor, "position hidden"], rows: Float[Tensor, "rows hidden"]
    ) -> Float[Tensor, "position rows"]:
        with quick_products():
            return soft_cap(hidden @ rows.T, self._checkpoint.config.logit_cap)

    def _head(self) -> Iterator[Float[Tensor, "rows hidden"]]:
        """The head in chunks of rows, float32, rounded as the products round them anyway."""
        config, dtype = self._checkpoint.config, fast_product_dtype()
        keep = config.vocabulary * config.hidden * dtype.itemsize <= _KEPT_BYTES
        for number, start in enumerate(range(0, config.vocabulary, _HEAD_ROWS)):
            if number < len(self._kept):
                yield self._kept[number].float()
                continue
            stop = min(start + _HEAD_ROWS, config.vocabulary)
            rows = self._checkpoint.rows(head_name(config), start, stop).to(dtype)
            self._checkpoint.release()
            if keep:
                self._kept.append(rows)
            yield rows.float()


def _scored_positions(
    checkpoint: Checkpoint, windows: Int[Tensor, "windows position"], most: int | None
) -> Int[Tensor, " chosen"]:
    """Numbers of the positions looked at, in all windows laid end to end."""
    numbers = scored_positions(checkpoint, windows).flatten().nonzero()[:, 0]
    if most is None or len(numbers) <= most:
        return numbers
    return numbers[torch.linspace(0, len(numbers) - 1, most).round().long()]
