"""The factor of an inverse second moment: its definition, what it says of columns not yet settled, and bad input."""

import pytest
import torch

from smidgen.errors import SmidgenError
from smidgen.numerics.factor import damage, inverse_factor


def correlated(width: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(6)
    x = torch.randn(4 * width, width, generator=generator) @ torch.randn(width, width, generator=generator)
    return x.T @ x / len(x)


def damped(hessian: torch.Tensor, damping: float = 0.01) -> torch.Tensor:
    hessian = hessian.double()
    return hessian + damping * hessian.diagonal().mean() * torch.eye(len(hessian), dtype=torch.float64)


def test_inverse_factor_is_the_upper_root_of_the_damped_inverse() -> None:
    hessian = correlated(96)
    U = inverse_factor(hessian, damping=0.01).double()
    assert torch.equal(U, U.triu())
    assert torch.allclose(U.T @ U @ damped(hessian), torch.eye(96, dtype=torch.float64), atol=1e-3)


def test_its_rows_are_the_inverses_of_what_is_left() -> None:
    """[H⁻¹]ᵢ, with H restricted to the columns from i on, is Uᵢᵢ·Uᵢ,ᵢ…"""
    hessian = correlated(24)
    U = inverse_factor(hessian).double()
    for i in (0, 7, 23):
        left = torch.linalg.inv(damped(hessian)[i:, i:])
        assert torch.allclose(U[i, i] * U[i, i:], left[0], rtol=1e-3, atol=1e-5 * float(left[0, 0]))


def test_damage_is_the_mean_squared_change_of_each_output() -> None:
    generator = torch.Generator().manual_seed(1)
    x, error = torch.randn(50, 8, generator=generator), torch.randn(3, 8, generator=generator)
    assert torch.allclose(damage(error, x.T @ x / 50), (x @ error.T).square().mean(0), rtol=1e-4)


def test_not_finite() -> None:
    with pytest.raises(SmidgenError, match="give another with --text"):
        inverse_factor(torch.full((4, 4), torch.inf))
