"""Quick products: near enough, and no longer than asked for."""

import pytest
import torch

from smidgen.numerics.precision import quick_layers, quick_products


def test_quick_products_are_near_and_end_with_the_context() -> None:
    generator = torch.Generator().manual_seed(0)
    a, b = torch.randn(300, 500, generator=generator), torch.randn(500, 200, generator=generator)
    exact = a @ b
    with quick_products():
        quick = a @ b
    assert quick.dtype is torch.float32
    assert (quick - exact).norm() < 5e-3 * exact.norm()
    assert torch.equal(a @ b, exact)
    with pytest.raises(ZeroDivisionError), quick_products():
        raise ZeroDivisionError
    assert torch.equal(a @ b, exact)


def test_quick_layers_end_with_the_context() -> None:
    linear, x = torch.nn.Linear(8, 8), torch.randn(2, 8)
    with quick_layers():
        assert linear(x).dtype in (torch.bfloat16, torch.float32)
    assert linear(x).dtype is torch.float32
