"""Rows rounded as ggml rounds what it writes into a cache."""

import gguf
import numpy as np
import pytest
import torch
from gguf import GGMLQuantizationType

from smidgen.numerics.block_types import Q4_0, Q8_0, BlockType
from smidgen.numerics.row_rounding import rotated, rounded

KINDS = {Q8_0: GGMLQuantizationType.Q8_0, Q4_0: GGMLQuantizationType.Q4_0}


def rows(seed: int) -> torch.Tensor:
    """Rows of many sizes, with a group of zeros and an outlier in it."""
    x = torch.randn(16, 96, generator=torch.Generator().manual_seed(seed)) * torch.logspace(-3, 3, 16)[:, None]
    x[3, :32], x[5, 40] = 0, 1e4
    return x


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_rounds_as_ggml_does(kind: BlockType) -> None:
    """Apart from numbers half-way between two codes, which its processors take either way."""
    x = rows(1)
    theirs = torch.from_numpy(gguf.dequantize(gguf.quantize(x.numpy(), KINDS[kind]), KINDS[kind]).astype(np.float32))
    same = torch.isclose(rounded(x, kind), theirs, rtol=1e-6, atol=0)
    assert same.float().mean() > 0.999


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_zeros_stay_and_a_row_that_does_not_fit_is_refused(kind: BlockType) -> None:
    assert not rounded(torch.zeros(2, 64), kind).any()
    with pytest.raises(ValueError, match="divisible by 32"):
        rounded(torch.zeros(2, 80), kind)


@pytest.mark.parametrize("size", [4, 32])
def test_rotation_is_orthonormal_and_its_own_inverse(size: int) -> None:
    x = rows(2)
    turned = rotated(x, size)
    assert torch.allclose(turned.norm(dim=-1), x.norm(dim=-1), rtol=1e-4)
    assert (rotated(turned, size) - x).abs().max() < 1e-4 * x.abs().max()


def test_rotation_is_sylvesters() -> None:
    matrix = torch.ones(1, 1)
    for _ in range(6):
        matrix = torch.cat([torch.cat([matrix, matrix], 1), torch.cat([matrix, -matrix], 1)], 0)
    x = torch.randn(3, 128, generator=torch.Generator().manual_seed(4))
    wanted = (x.view(3, 2, 64) @ (matrix / 8)).view(3, 128)
    assert torch.allclose(rotated(x, 64), wanted, atol=1e-5)
