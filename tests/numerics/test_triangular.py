"""Blocked Cholesky factor and inverse against LAPACK's, at sizes around the block."""

import pytest
import torch

from smidgen.numerics.triangular import NotPositiveDefinite, cholesky_, invert_lower_


@pytest.mark.parametrize("size", [1, 96, 1024, 1025, 2100])
def test_equals_lapack(size: int) -> None:
    generator = torch.Generator().manual_seed(size)
    x = torch.randn(size + 8, size, generator=generator, dtype=torch.float64)
    A = x.T @ x / size + 0.1 * torch.eye(size, dtype=torch.float64)
    expected = torch.linalg.cholesky(A)
    lower = A.clone()
    cholesky_(lower)
    assert torch.allclose(lower, expected, atol=1e-9)
    invert_lower_(lower)
    assert torch.equal(lower, lower.tril())
    assert torch.allclose(lower @ expected, torch.eye(size, dtype=torch.float64), atol=1e-8)


@pytest.mark.parametrize("at", [0, 1500])
def test_an_indefinite_matrix_is_refused(at: int) -> None:
    A = torch.eye(1600)
    A[at, at] = -1
    with pytest.raises(NotPositiveDefinite):
        cholesky_(A)
