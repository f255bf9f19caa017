"""Training through the lattice of a quantized file: what is computed with is always exactly what the file holds.

Quantization-aware training with a straight-through estimator (Bengio et al. 2013, https://arxiv.org/abs/1308.3432): the
forward pass uses rounded weights, the backward pass treats rounding as if it were not there. Here "rounded" means the
codes *and stored scales* of the GGUF type, so nothing is lost when the model is packed in the end. Three things learn:

- a *place* for every weight, counted in codes of its format: 2.3 rounds to code 2. The gradient of the weight, times
  the scale, is the gradient of its place. Counting in codes makes one learning rate fit all groups, however large their
  scales are, because with Adam it is the share of a quantization step that a weight can move at once;
- the units of the scales and shifts, relative to where they began. Learned scales as in LSQ (Esser et al. 2020,
  https://arxiv.org/abs/1902.08153, without its extra normalisation, which Adam does); they are rounded to float16 with
  the same straight-through rule, or to what is portable where all scales of a matrix are (`numerics.portable`).
  k-quants keep their groups' integers;
- what is not on a lattice (norms, 16-bit matrices), relative too, rounded to the type it is stored in.

A place begins in the cell of the code that the quantizer chose, where the unquantized weight lies if that is known: so
the error compensation of `quantization.compensate` is the starting point, and weights near the edge of their cell move
first.

Of an embedding it can be enough to train the rows of the tokens that occur (`rows`); its gradient is then sparse.

Memory, for each trained weight: 4 bytes each for place, decoder weight and gradient, 8 for Adam. What is not trained
stays in the file where it is large (`formats.frozen`).
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import replace

import torch
from torch import Tensor

from smidgen.distillation.students.codewords import OnCodewords
from smidgen.formats.checkpoint import Checkpoint
from smidgen.formats.derived import Changed, Packed, Part
from smidgen.formats.frozen import load_frozen
from smidgen.model.decoder import Decoder
from smidgen.model.parameters import is_matrix
from smidgen.numerics import block_types as types
from smidgen.numerics.block_types import BlockType
from smidgen.numerics.codeword_fields import FORMATS
from smidgen.numerics.decode import as_bytes_tensor
from smidgen.numerics.grids import GRIDS
from smidgen.numerics.lattice import Lattice
from smidgen.numerics.portable import kept_kind
from smidgen.shapes import Float, Int, UInt8

_SLAB = 2**24  # weights handled at once beside the whole: bounds what the rounding needs
_STORED = {types.F16: torch.float16, types.BF16: torch.bfloat16, types.F32: torch.float32}
#: Learning rates of what learns relative to where it began, as a share of that of the places: a twentieth is as much of
#: a scale as a place moves of a step. Matrices that are on no lattice have more to learn than scales and norms.
RELATIVE_RATE = 0.05
_OF_FREE_MATRICES = 8
# See `careful_rate`: how far noise carries a place is about 0.6 times this.
_WALK = 0.25


def careful_rate(steps: int) -> float:
    """A learning rate for the places, in codes, for a training of so many steps.

    A place begins in the middle of its cell and flips its code half a code away. Adam moves it by the learning rate at
    most, and by pure noise as a random walk: over T steps of a cosine about 0.6 √T rates far. A code flipped by chance
    adds a whole squared step of error where rounding has a twelfth, and undoes what the quantizer's compensation
    gained. With this rate, chance flips one code in a thousand, and what is consistent many.
    """
    return min(0.05, _WALK / math.sqrt(steps))


class LatticeStudent:
    """A decoder whose weights are always those of a GGUF file with the types of `checkpoint`.

    trained: which parameters learn, by canonical name; None for all.  original: the model that `checkpoint` was
    quantized from, to begin inside the cells where its weights lie; None to begin in the middle.
    rows: of quantized matrices of which only these rows learn.  relative_rate: see `RELATIVE_RATE`.
    """

    movable = False  # what is learned lies beside the decoder

    def __init__(
        self,
        checkpoint: Checkpoint,
        trained: Callable[[str], bool] | None = None,
        original: Checkpoint | None = None,
        rows: Mapping[str, Int[Tensor, " some"]] | None = None,
        relative_rate: float = RELATIVE_RATE,
    ) -> None:
        self._relative_rate = relative_rate
        self._decoder = load_frozen(checkpoint, learned=lambda name: trained is None or trained(name))
        self._learners: dict[str, _OnLattice | OnCodewords | _Relative] = {}
        some = rows or {}
        if "embedding.weight" in some:
            self._decoder.embedding.sparse = True
        for name, parameter in self._decoder.named_parameters():
            kind = checkpoint.kind(name)
            learns = (trained is None or trained(name)) and _is_trained(kind)
            parameter.requires_grad_(learns)
            if learns and kind in GRIDS and parameter.dim() > 1:
                self._learners[name] = _OnLattice(checkpoint, name, original, some.get(name))
            elif learns and kind in FORMATS:
                self._learners[name] = OnCodewords(stored_rows(checkpoint, name), kind)
            elif learns:
                self._learners[name] = _Relative(parameter.detach(), kind)

    @property
    def decoder(self) -> Decoder:
        """The model as the file has it, after `prepare`."""
        return self._decoder

    def tensors(self) -> dict[str, Tensor]:
        """Places under the parameters' names, what is learned beside them as `name:unit` and `name:shift`."""
        return {
            f"{name}{suffix}": value
            for name, learner in self._learners.items()
            for suffix, value in learner.tensors().items()
        }

    def rates(self) -> dict[str, float]:
        """Factors on the learning rate."""

        def rate(learner: _OnLattice | OnCodewords | _Relative, suffix: str, tensor: Tensor) -> float:
            if isinstance(learner, (_OnLattice, OnCodewords)):
                return self._relative_rate if suffix else 1.0
            return self._relative_rate * (_OF_FREE_MATRICES if tensor.dim() > 1 else 1)

        return {
            f"{name}{suffix}": rate(learner, suffix, tensor)
            for name, learner in self._learners.items()
            for suffix, tensor in learner.tensors().items()
        }

    @torch.no_grad()
    def prepare(self) -> None:
        """Round everything to what the file can hold."""
        for name, learner in self._learners.items():
            learner.prepare(self._decoder.get_parameter(name).data)

    @torch.no_grad()
    def collect(self) -> None:
        """The straight-through rule, and the chain rule for the scales."""
        for name, learner in self._learners.items():
            parameter = self._decoder.get_parameter(name)
            if parameter.grad is not None:
                learner.collect(parameter.grad)
                parameter.grad = None
            else:  # a part that this batch had no use for (an expert): it stays where it is
                for tensor in learner.tensors().values():
                    tensor.grad = None

    def parts(self) -> dict[str, Part]:
        """The trained model in the types that it was opened with."""
        return {name: learner.part() for name, learner in self._learners.items()}


class _OnLattice:
    """A matrix in a block format. chosen: its rows that learn, ascending; None for all."""

    def __init__(
        self, checkpoint: Checkpoint, name: str, original: Checkpoint | None, chosen: Int[Tensor, " some"] | None
    ) -> None:
        self._chosen, self._stored = chosen, lambda: stored_rows(checkpoint, name)
        packed = self._stored()
        kind = kept_kind(packed, checkpoint.kind(name))
        self._lattice = Lattice.of(packed if chosen is None else packed[chosen], kind)
        numbers = torch.arange(len(packed)) if chosen is None else chosen
        codes = self._lattice.codes
        self._places = torch.empty(codes.shape)
        for rows in _slabs(codes):
            if original is None:
                self._places[rows] = codes[rows]
            else:
                self._places[rows] = self._first(rows).places(original.gather(name, numbers[rows]))
                original.release()
        self._unit = torch.zeros(self._lattice.unit.shape)
        shift = self._lattice.shift_unit
        self._shift = None if shift is None else torch.zeros(shift.shape)

    def tensors(self) -> dict[str, Tensor]:
        beside = {":unit": self._unit} | ({} if self._shift is None else {":shift": self._shift})
        return {"": self._places} | beside

    def prepare(self, weights: Float[Tensor, "rows cols"]) -> None:
        last = len(GRIDS[self._lattice.kind].levels) - 1
        self._places.clamp_(-0.5, last + 0.5)
        for rows in _slabs(self._places):
            weights[rows if self._chosen is None else self._chosen[rows]] = self._now(rows).weights()

    def collect(self, gradient: Tensor) -> None:
        gradient = self._of_chosen(gradient)
        self._unit.grad = torch.empty_like(self._unit)
        if self._shift is not None:
            self._shift.grad = torch.empty_like(self._shift)
        for rows in _slabs(gradient):
            now, by_group = self._now(rows), gradient[rows].unflatten(1, (-1, self._lattice.group))
            slopes = (by_group * now.levels().view(by_group.shape)).sum(2)
            unit, shift = now.by_unit(slopes, None if self._shift is None else by_group.sum(2))
            self._unit.grad[rows] = unit.mul_(self._lattice.unit[rows])
            if self._shift is not None and shift is not None and self._lattice.shift_unit is not None:
                assert self._shift.grad is not None
                self._shift.grad[rows] = shift.mul_(self._lattice.shift_unit[rows])
            by_group.mul_(now.scale()[:, :, None])
        self._places.grad = gradient

    def part(self) -> Part:
        def packed() -> UInt8[Tensor, "rows bytes"]:
            now = self._now(slice(0, len(self._places))).pack()
            return now if self._chosen is None else self._stored().index_copy_(0, self._chosen, now)

        return Packed(self._lattice.kind.stored, packed)

    def _of_chosen(self, gradient: Tensor) -> Float[Tensor, "some cols"]:
        """The gradient of the rows that learn, from that of the whole matrix, which may be sparse."""
        if self._chosen is None:
            return gradient.to_dense() if gradient.is_sparse else gradient
        if not gradient.is_sparse:
            return gradient[self._chosen]
        entries = gradient.coalesce()
        place = torch.full((gradient.shape[0],), -1)
        place[self._chosen] = torch.arange(len(self._chosen))
        places = place[entries.indices()[0]]
        found = torch.zeros(self._places.shape)
        return found.index_copy_(0, places[places >= 0], entries.values()[places >= 0])

    def _first(self, rows: slice) -> Lattice:
        """Some rows as they were."""
        fields = {name: field for name, field in vars(self._lattice).items() if isinstance(field, Tensor)}
        return replace(self._lattice, **{name: field[rows] for name, field in fields.items()})

    def _now(self, rows: slice) -> Lattice:
        """Some rows as they are now."""
        old = self._first(rows)
        unit = GRIDS[old.kind].as_stored(old.unit * (1 + self._unit[rows]))
        shift = None
        if old.shift_unit is not None and self._shift is not None:
            shift = (old.shift_unit * (1 + self._shift[rows])).half()
        return replace(old, unit=unit, shift_unit=shift).with_places(self._places[rows])


class _Relative:
    """A tensor of floating-point numbers, learned as a share of its size at the beginning."""

    def __init__(self, values: Float[Tensor, "..."], kind: BlockType) -> None:
        self._first, self._dtype = values.clone(), _STORED.get(kind, torch.float32)
        # Vectors (norms) have a meaning number by number, matrices only as a whole. What was pruned to zero stays zero.
        self._size = values.abs() if values.dim() == 1 else values.square().mean().sqrt() * (values != 0)
        self._share = torch.zeros(values.shape)

    def tensors(self) -> dict[str, Tensor]:
        return {"": self._share}

    def prepare(self, weights: Float[Tensor, "..."]) -> None:
        weights.copy_(self._now())

    def collect(self, gradient: Tensor) -> None:
        gradient = gradient.to_dense() if gradient.is_sparse else gradient
        self._share.grad = gradient.mul_(self._size)

    def part(self) -> Part:
        return Changed(self._now)

    def _now(self) -> Float[Tensor, "..."]:
        return torch.addcmul(self._first, self._share, self._size).to(self._dtype).float()


def not_trained(checkpoint: Checkpoint) -> list[str]:
    """A line about the matrices that a `LatticeStudent` leaves as they are, because of their types; or no line."""
    kinds = [checkpoint.kind(name) for name in checkpoint.names() if is_matrix(name)]
    fixed = [kind.name for kind in kinds if not _is_trained(kind)]
    if not fixed:
        return []
    return [
        f"{len(fixed)} matrices were not trained, since smidgen cannot train weights of type "
        f"{', '.join(sorted(set(fixed)))}."
    ]


def trains_on_lattice(kind: BlockType) -> bool:
    """Whether matrices of this type are trained as what their file can hold."""
    return kind in GRIDS or kind in FORMATS


def _is_trained(kind: BlockType) -> bool:
    return trains_on_lattice(kind) or kind in _STORED


def stored_rows(checkpoint: Checkpoint, name: str) -> UInt8[Tensor, "rows bytes"]:
    """A matrix's packed rows in the model's order, a copy."""
    rows, order = checkpoint.packed(name), checkpoint.transform(name).order
    return as_bytes_tensor(rows if order is None else rows[order]).clone()


def _slabs(matrix: Float[Tensor, "rows cols"] | UInt8[Tensor, "rows cols"]) -> list[slice]:
    """Runs of rows."""
    rows = max(1, _SLAB // matrix.shape[1])
    return [slice(start, min(start + rows, len(matrix))) for start in range(0, len(matrix), rows)]
