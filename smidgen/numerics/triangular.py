"""Cholesky factor and inverse of a triangle for matrices of a gigabyte: blocked, in place.

The blocked algorithms are those of Golub & Van Loan, "Matrix Computations", sections 4.2 and 3.1: nearly all work is in
products of blocks, which makes them twice as quick as the LAPACK that comes with torch, and nothing is copied whole.

LAPACK with several threads adds up in another order than with one. So it gets one, and what is independent is cut into
pieces of a fixed size, each on a core of its own: the same bits for every number of threads.
"""

from functools import partial

import torch
from torch import Tensor

from smidgen.numerics.cores import on_all_cores
from smidgen.shapes import Float

_BLOCK = 1024
_PIECE = 256  # rows or columns that one core takes at a time


class NotPositiveDefinite(ArithmeticError):
    """A matrix has no Cholesky factor, as far as its precision shows."""


def cholesky_(A: Float[Tensor, "n n"]) -> None:
    """Turn a symmetric positive definite matrix into its lower factor L, A = L Lᵀ. Only the lower half is read.

    Raises NotPositiveDefinite; A is spoilt then.
    """
    n = len(A)
    for start in range(0, n, _BLOCK):
        end = min(start + _BLOCK, n)
        corner, below = A[start:end, start:end], A[end:, start:end]
        ((factor, failed),) = on_all_cores(torch.linalg.cholesky_ex, [corner])
        if failed:
            raise NotPositiveDefinite
        corner.copy_(factor)
        on_all_cores(partial(_divide_, corner.mT), below.split(_PIECE))
        on_all_cores(partial(_take_off_, A[end:, end:], below), range(0, n - end, _PIECE))
    A.tril_()


def _divide_(upper: Float[Tensor, "corner corner"], rows: Float[Tensor, "rows corner"]) -> None:
    """rows · upper⁻¹, in place."""
    rows.copy_(torch.linalg.solve_triangular(upper, rows, upper=True, left=False))


def _take_off_(rest: Float[Tensor, "n n"], below: Float[Tensor, "n corner"], first: int) -> None:
    """rest − below · belowᵀ in some columns, from the diagonal on down."""
    columns = slice(first, first + _PIECE)
    rest[first:, columns].addmm_(below[first:], below[columns].mT, alpha=-1)


def invert_lower_(L: Float[Tensor, "n n"]) -> None:
    """Turn a lower triangular matrix into its inverse, one block of rows after the other.

    With all rows above inverted to K, the rows [B D] become [−D⁻¹ B K, D⁻¹].
    """
    for start in range(0, len(L), _BLOCK):
        end = min(start + _BLOCK, len(L))
        corner, left = L[start:end, start:end], L[start:end, :start]
        on_all_cores(partial(_invert_columns_, corner, corner.clone()), range(0, end - start, _PIECE))
        fill = partial(_fill_columns_, left, left.clone(), corner.neg(), L[:start, :start])
        on_all_cores(fill, range(0, start, _PIECE))


def _invert_columns_(inverse: Float[Tensor, "n n"], lower: Float[Tensor, "n n"], first: int) -> None:
    """Some columns of lower⁻¹, from the diagonal on down."""
    behind, ones = lower[first:, first:], torch.eye(len(lower) - first, min(_PIECE, len(lower) - first)).to(lower)
    inverse[first:, first : first + _PIECE] = torch.linalg.solve_triangular(behind, ones, upper=False)


def _fill_columns_(
    left: Float[Tensor, "rows n"], B: Float[Tensor, "rows n"], corner: Float[Tensor, "rows rows"],
    K: Float[Tensor, "n n"], first: int,
) -> None:  # fmt: skip
    """corner · B · K in some columns; K is a lower triangle."""
    columns = slice(first, first + _PIECE)
    left[:, columns] = corner @ (B[:, first:] @ K[first:, columns])
