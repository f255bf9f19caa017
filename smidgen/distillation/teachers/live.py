"""Who a student learns from: something that says, for a batch, what comes next at each position.

A teacher in the same process (`LiveTeacher`) is the whole model in memory, quantized or not on disk; of one that is
large for this machine each matrix is decoded when it is used (`formats.frozen`). It reads a batch once and keeps what
its head reads; logits are made by the loss, a run of positions at a time
(`distillation.objectives.losses`), after the soft cap. Others are made of it: for students with fewer tokens
(`distillation.teachers.restricted`), on disk (`distillation.teachers.cache`).
"""

from typing import Protocol

import torch
from torch import Tensor, nn

from smidgen.distillation.objectives.losses import DenseTarget, Target
from smidgen.distillation.text.batch import Batch
from smidgen.errors import SmidgenError, printable
from smidgen.formats.checkpoint import Checkpoint
from smidgen.formats.frozen import is_small, load_frozen
from smidgen.model.decoder import Decoder
from smidgen.numerics.precision import fast_product_dtype
from smidgen.shapes import Float, Int

_TOKENS_AT_ONCE = 4096  # through the model; bounds attention and feed-forward activations
_ROWS_AT_ONCE = 16_384  # of a matrix, decoded at once


class Teacher(Protocol):
    """Says what comes next."""

    @property
    def vocabulary(self) -> int:
        """Tokens that its targets tell apart: the student's."""
        ...

    def targets(self, batch: Batch) -> Target:
        """Its next-token distributions at every position of a batch, rows laid end to end."""
        ...


class LiveTeacher:
    """A whole model in memory, without gradients.

    quick: matrices are kept, and multiplied, in bfloat16 where that is quick, which rounds a logit by about 0.4%; norms
    and sums are float32 in any case.  device: where it computes, and where batches come from.
    checkpoint: has to stay open.
    """

    def __init__(self, checkpoint: Checkpoint, *, quick: bool = True, device: torch.device | None = None) -> None:
        self.config = checkpoint.config
        self._device = device or torch.device("cpu")
        quickest = fast_product_dtype() if self._device.type == "cpu" else torch.bfloat16
        self._dtype = quickest if quick else torch.float32
        if self._device.type == "cpu" and not is_small(checkpoint):
            self._decoder = load_frozen(checkpoint)
        else:
            self._decoder = _in_memory(checkpoint, self._dtype, self._device)
        self._decoder.embedding.register_forward_hook(_in_float32)
        checkpoint.release()

    @property
    def vocabulary(self) -> int:
        """All its tokens."""
        return self.config.vocabulary

    @property
    def decoder(self) -> Decoder:
        """The model, for whoever watches what happens inside (`distillation.objectives.matching`)."""
        return self._decoder

    @property
    def head(self) -> Float[Tensor, "vocab hidden"]:
        """The output head."""
        return self._decoder.head_weight()

    def targets(self, batch: Batch) -> Target:
        """Of a batch in the teacher's own tokens."""
        if batch.teacher_ids is not None:
            raise SmidgenError(f"the student reads other tokens than the teacher{_of(batch)}: pair their vocabularies")
        hidden = self.hidden_states(batch.ids, batch.apart)
        return DenseTarget(hidden.flatten(0, 1), self.head, self.config.logit_cap)

    @torch.no_grad()
    def hidden_states(
        self, ids: Int[Tensor, "rows position"], documents: Int[Tensor, "rows position"] | None = None
    ) -> Float[Tensor, "rows position hidden"]:
        """What the head reads, float32. A few rows at a time go through the model."""
        at_once = max(1, _TOKENS_AT_ONCE // ids.shape[1])
        parts = [None] * len(ids) if documents is None else documents.split(at_once)
        found = [self._read(rows, part) for rows, part in zip(ids.split(at_once), parts, strict=False)]
        return torch.cat(found)

    def _read(
        self, ids: Int[Tensor, "rows position"], documents: Int[Tensor, "rows position"] | None
    ) -> Float[Tensor, "rows position hidden"]:
        quick = self._dtype is torch.bfloat16
        with torch.autocast(self._device.type, dtype=torch.bfloat16, enabled=quick):
            return self._decoder.hidden_states(ids, documents=documents).float()


def _in_memory(checkpoint: Checkpoint, dtype: torch.dtype, device: torch.device) -> Decoder:
    with torch.device("meta"):  # no memory until the weights are there
        decoder = Decoder(checkpoint.config)
    weights = {name: _weight(checkpoint, name, dtype).to(device) for name in checkpoint.names()}
    decoder.load_state_dict(weights, assign=True)
    return decoder.requires_grad_(False)


def _weight(checkpoint: Checkpoint, name: str, dtype: torch.dtype) -> Float[Tensor, "..."]:
    """A parameter; matrices in `dtype`, decoded a part at a time, all else in float32."""
    shape = checkpoint.shape(name)
    if len(shape) == 1:
        return checkpoint.tensor(name)
    matrix = torch.empty(shape, dtype=dtype)
    for start in range(0, len(matrix), _ROWS_AT_ONCE):
        stop = min(start + _ROWS_AT_ONCE, len(matrix))
        matrix[start:stop] = checkpoint.rows(name, start, stop)
    return matrix


def _in_float32(_: nn.Module, __: object, embedded: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
    """What is added up along the residual stream is float32, whatever the matrices are."""
    return embedded.float()


def _of(batch: Batch) -> str:
    return f" in {printable(batch.name)}" if batch.name else ""
