"""Quick products: near enough, and no longer than asked for."""

import os
import platform
import subprocess
import sys

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


def test_a_processor_that_is_told_to_use_avx2_does_not_multiply_bfloat16() -> None:
    asked = "from smidgen.numerics.precision import fast_product_dtype; print(fast_product_dtype())"
    environment = os.environ | {"ATEN_CPU_CAPABILITY": "avx2"}
    if platform.machine().lower() not in ("x86_64", "amd64"):
        pytest.skip("AVX2 is a thing of x86")
    answer = subprocess.run([sys.executable, "-c", asked], env=environment, capture_output=True, text=True, check=True)
    assert answer.stdout.strip() == "torch.float32"
