"""Products are the same from either library, and where a gradient or another number format is wanted, torch's own."""

import pytest
import torch
from torch.nn import functional

from smidgen.numerics import products
from smidgen.numerics.products import product

ROWS, INPUTS, OUTPUTS = 64, 520, 530  # enough to count as large


@pytest.fixture
def factors() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    shapes = (2, ROWS // 2, INPUTS), (OUTPUTS, INPUTS), (OUTPUTS,)
    x, weight, bias = (torch.randn(shape, generator=generator) for shape in shapes)
    return x, weight, bias


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """On any processor, if this torch has oneDNN: one entry for each product that it was given."""
    found: list[int] = []
    onednn = products._by_onednn

    def counted(*factors: torch.Tensor) -> torch.Tensor:
        found.append(1)
        return onednn(*factors)

    if not torch.backends.mkldnn.is_available():
        pytest.skip("this torch has no oneDNN")
    monkeypatch.setattr(products, "onednn_is_quicker", lambda: True)
    monkeypatch.setattr(products, "_by_onednn", counted)
    return found


@pytest.mark.parametrize("with_bias", [True, False])
@torch.no_grad()
def test_as_precise_as_torch(factors, asked: list[int], with_bias: bool) -> None:
    x, weight, bias = factors
    bias = bias if with_bias else None
    found, exact = product(x, weight, bias), functional.linear(x.double(), weight.double(), None)
    exact = exact if bias is None else exact + bias
    assert asked and found.shape == exact.shape and found.is_contiguous()
    assert (found - exact).norm() < 1e-6 * exact.norm()


@torch.no_grad()
def test_rows_in_any_order_of_memory(factors, asked: list[int]) -> None:
    x, weight, _ = factors
    turned = weight.T.contiguous().T
    found = product(x.transpose(0, 1), turned)
    assert asked
    assert torch.allclose(found, functional.linear(x, weight).transpose(0, 1), atol=1e-3)


def test_gradients_and_other_number_formats_are_left_to_torch(factors, asked: list[int]) -> None:
    x, weight, bias = factors
    weight = torch.nn.Parameter(weight)
    product(x, weight, bias).sum().backward()
    assert weight.grad is not None
    with torch.no_grad():
        product(x.bfloat16(), weight.bfloat16())
        product(x.double(), weight.double())
        product(x[:1, :1], weight)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            assert product(x, weight).dtype is torch.bfloat16
    assert not asked


def test_what_asks_for_no_gradient_is_quick_where_gradients_are_on(factors, asked: list[int]) -> None:
    x, weight, bias = factors
    assert torch.is_grad_enabled() and not product(x, weight).requires_grad and len(asked) == 1
    assert product(x, weight, torch.nn.Parameter(bias)).requires_grad and len(asked) == 1


def test_a_torch_without_the_function_multiplies_as_before(factors, monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(*_: object) -> None:
        raise AttributeError

    monkeypatch.setattr(products, "_by_onednn", missing)
    products.onednn_is_quicker.cache_clear()
    try:
        assert not products.onednn_is_quicker()
        with torch.no_grad():
            assert torch.equal(product(*factors), functional.linear(*factors))
    finally:
        products.onednn_is_quicker.cache_clear()
