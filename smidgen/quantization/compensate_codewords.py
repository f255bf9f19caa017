"""Error compensation where several weights are rounded at once: the types IQ2 and IQ3, whose codewords are vectors.

The method is that of `quantization.compensate` with runs of columns in the place of columns, as vectors are rounded in
QuIP# (arXiv:2402.04396, section 4.3, "block LDLQ") and GPTVQ (arXiv:2402.15319, section 3.2). For the columns r of a
run and all columns b behind it, UᵀU = H⁻¹ gives what an error δ of the run costs once everything behind has made up for
it, and how it does so:

    cost = ‖e‖²  with  e = U_rr⁻ᵀ δ          push: w_b ← w_b − U_rbᵀ e

Where we differ: scales are searched as in `compensate`, each of a few factors of a group rounded with compensation
inside the group, and the one with the least exact cost is kept. Of the metric inside a run, (U_rrᵀ U_rr)⁻¹, only the
diagonal chooses signs and codeword; the cost by which factors are compared, and what is pushed, have all of it.
Choosing among the best codewords by the whole metric changed the loss by less than 1% and often for the worse.

With a vector in place of U nothing is pushed, and this is rounding under the weights' importance.

Cost: candidates · rows · columns · codewords / (weights of a run) distances, by matrix products of inner size 6 or 10.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from smidgen.numerics.block_types import BlockType
from smidgen.numerics.codeword_fields import Fields, pack_fields, sign_bits
from smidgen.numerics.codeword_grids import CodewordGrid, grid_of
from smidgen.numerics.cores import on_all_cores
from smidgen.numerics.grid import inverse_scale
from smidgen.numerics.products import product
from smidgen.shapes import Float, UInt8

_ROWS = 512  # rows rounded together: their candidates stay in the processor's cache, and each core has some
_OCTET = 8  # weights that share a byte of signs
CANDIDATES = 5  # factors of a group that are tried; all sixteen lose 0.5 to 1% less


@dataclass(frozen=True)
class _Run:
    """How the errors of one run count. columns: of its octet.

    whiten: U_rr⁻ᵀ, so that e = whiten · δ.  importance: the diagonal of the metric, the largest being 1.
    """

    columns: slice
    whiten: Float[Tensor, "run run"]
    importance: Float[Tensor, " run"]


class CodewordCompensator:
    """One type and one U, prepared; see `quantization.compensate.Compensator`."""

    def __init__(self, kind: BlockType, U: Float[Tensor, "in in"] | Float[Tensor, " in"]) -> None:
        grid, size = grid_of(kind), kind.block
        self._pushing = U.ndim == 2
        self._blocks: list[tuple[slice, _Block, Tensor]] = []
        for first in range(0, len(U), size):
            columns = slice(first, first + size)
            here = U[columns, columns] if self._pushing else U[columns].diag()
            before = U[:first, columns].contiguous().T.contiguous() if self._pushing else torch.empty(size, 0)
            self._blocks.append((columns, _Block(grid, here, pushing=self._pushing), before))

    def encode(self, weight: Float[Tensor, "out in"]) -> UInt8[Tensor, "out bytes"]:
        """Each slab of rows on a core."""
        return torch.cat(on_all_cores(self._encode_slab, weight.split(_ROWS)))

    @torch.inference_mode()
    def _encode_slab(self, weight: Float[Tensor, "rows in"]) -> UInt8[Tensor, "rows bytes"]:
        """All blocks of some rows; what comes from the blocks before one is subtracted when it begins."""
        errors, packed = torch.empty(weight.shape[1], len(weight)), []
        transposed = weight.T.clone(memory_format=torch.contiguous_format)  # a row alone is contiguous either way
        for columns, block, before in self._blocks:
            W = transposed[columns]
            if before.shape[1]:
                W.sub_(product(before, errors[: columns.start].T))
            packed.append(block.round(W, errors[columns]))
        return torch.cat(packed, dim=1)


class _Block:
    """The columns of one block of a type, ready to round rows. U: of these columns."""

    def __init__(self, grid: CodewordGrid, U: Float[Tensor, "block block"], *, pushing: bool) -> None:
        self._grid, self._U, self._pushing = grid, U, pushing
        corners = U.unflatten(0, (-1, grid.run)).unflatten(2, (-1, grid.run)).diagonal(dim1=0, dim2=2).permute(2, 0, 1)
        ones = torch.eye(grid.run).expand_as(corners)
        whiten = torch.linalg.solve_triangular(corners, ones, upper=True).mT.contiguous()
        importance = whiten.square().sum(1)  # the diagonal of whitenᵀ · whiten
        self._importance = importance.flatten() / importance.amax().clamp_min(1e-30)
        importance = importance / importance.amax(1, keepdim=True)
        per_octet = _OCTET // grid.run
        runs = [_Run(_run(i % per_octet, grid.run), whiten[i], importance[i]) for i in range(len(whiten))]
        self._octets = [runs[first : first + per_octet] for first in range(0, len(runs), per_octet)]

    def round(self, weights: Float[Tensor, "block rows"], errors: Float[Tensor, "block rows"]) -> Tensor:
        """Packed bytes of one block of each row; leaves the errors e in `errors`. The weights change."""
        grid, W = self._grid, weights
        unit, aims = grid.open_block(W, self._importance)
        factors, words, signs = [], [], []
        for number, start in enumerate(range(0, len(W), grid.group)):
            group, behind = slice(start, start + grid.group), slice(start + grid.group, len(W))
            tried = grid.candidates(aims[number], unit.float(), CANDIDATES)
            found = self._round_group(W[group], start, grid.scales(unit.float(), tried))
            best = found.loss.argmin(0)
            place = best * W.shape[1] + torch.arange(W.shape[1])
            errors[group] = found.error.index_select(1, place)
            factors.append(tried.gather(0, best[None])[0])
            words.append(found.words.index_select(1, place))
            signs.append(found.signs.index_select(1, place))
            if self._pushing and start + grid.group < len(W):
                W[behind].addmm_(self._U[group, behind].T, errors[group], alpha=-1)
        fields = Fields(
            unit[:, None], torch.stack(factors, dim=1).to(torch.uint8),
            torch.cat(words).T.to(torch.int16), torch.cat(signs).T,
        )  # fmt: skip
        return pack_fields(grid.kind, fields)

    def _round_group(
        self, weights: Float[Tensor, "group rows"], start: int, scales: Float[Tensor, "candidates rows"]
    ) -> "_Rounded":
        """A group under every candidate scale; `start` is its first column."""
        left = weights[:, None].repeat(1, len(scales), 1).flatten(1)  # [group, points]
        flat, inverse = scales.flatten(), inverse_scale(scales.flatten())
        words, signs = [], []
        for octet in range(0, len(left), _OCTET):
            columns, behind = slice(octet, octet + _OCTET), slice(octet + _OCTET, len(left))
            found = self._round_octet(left[columns], start + octet, flat, inverse)
            words.append(found[0])
            signs.append(found[1])
            if self._pushing and octet + _OCTET < len(left):
                push = self._U[start:, start:][columns, behind]
                left[behind].addmm_(push.T, left[columns], alpha=-1)
        loss = left.square().sum(0).view(scales.shape)
        return _Rounded(left, torch.cat(words), torch.cat(signs), loss)

    def _round_octet(
        self, left: Float[Tensor, "8 points"], start: int, scales: Float[Tensor, " points"], inverse: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Eight columns: numbers of codewords and bytes of signs. `left` becomes the errors e."""
        runs = self._octets[start // _OCTET]
        signs = self._grid.signs(left, self._importance[start : start + _OCTET])
        signed = signs * inverse
        words = []
        for run in runs:
            columns, behind = run.columns, slice(run.columns.stop, _OCTET)
            number = self._grid.nearest(left[columns] * signed[columns], run.importance)
            value = self._grid.magnitudes(number) * signs[columns] * scales
            left[columns] = run.whiten @ (left[columns] - value)
            if self._pushing and columns.stop < _OCTET:
                push = self._U[start:, start:][columns, behind]
                left[behind].addmm_(push.T, left[columns], alpha=-1)
            words.append(number)
        return torch.stack(words), sign_bits((signs < 0).T)[None]


@dataclass(frozen=True)
class _Rounded:
    """A group under every candidate, candidates times rows being the points."""

    error: Float[Tensor, "group points"]
    words: Tensor
    signs: Tensor
    loss: Float[Tensor, "candidates rows"]


def _run(number: int, width: int) -> slice:
    return slice(number * width, (number + 1) * width)
