"""Blocked Cholesky factor and inverse: against LAPACK's at sizes around the block, and with any number of threads."""

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


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_every_number_of_threads_gives_the_same_bits(dtype: torch.dtype) -> None:
    x = torch.randn(1400, 1300, generator=torch.Generator().manual_seed(9), dtype=dtype)
    A, before, found = x.T @ x, torch.get_num_threads(), []
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            found.append(A.clone())
            cholesky_(found[-1])
            invert_lower_(found[-1])
    finally:
        torch.set_num_threads(before)
    assert torch.equal(found[0], found[1]) and torch.equal(found[0], found[2])
