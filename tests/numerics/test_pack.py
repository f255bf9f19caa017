"""Packing against decoding: the bytes mean exactly the scales and levels they were made from."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from smidgen.numerics.block_types import BY_NAME
from smidgen.numerics.decode import decode
from smidgen.numerics.grids import GRIDS
from smidgen.numerics.pack import pack

NAMES = [kind.name for kind in GRIDS]


@pytest.mark.parametrize("name", NAMES)
@settings(max_examples=25, deadline=None, derandomize=True)
@given(seed=st.integers(0, 2**31), rows=st.integers(1, 5), blocks=st.integers(1, 3), size=st.floats(1e-6, 1e3))
def test_decode_gives_back_scale_times_level_minus_offset(
    name: str, seed: int, rows: int, blocks: int, size: float
) -> None:
    kind = BY_NAME[name]
    grid = GRIDS[kind]
    generator = torch.Generator().manual_seed(seed)
    weights = torch.randn(blocks * kind.block, rows, generator=generator) * size
    codes = torch.randint(len(grid.levels), weights.shape, generator=generator, dtype=torch.uint8)
    stored, frames, expected = [], [], []
    importance = torch.rand(kind.block, 1, generator=generator)
    for start in range(0, len(weights), grid.group):
        if start % kind.block == 0:
            frames.append(grid.open_block(weights[start : start + kind.block], importance))
        counts = importance[start % kind.block :][: grid.group]
        tried = grid.candidates(weights[start : start + grid.group], counts, frames[-1])
        best = torch.randint(len(tried.scale), (rows,), generator=generator)
        kept = tried.pick(best)
        stored.append(kept.stored)
        value = grid.levels[codes[start : start + grid.group].long()] * kept.scale
        expected.append(value if kept.offset is None else value - kept.offset)
    decoded = decode(pack(kind, codes, stored, frames), kind)
    assert torch.equal(decoded, torch.cat(expected).T)


@pytest.mark.parametrize("name", NAMES)
def test_zero_and_tiny_rows_stay_finite(name: str) -> None:
    kind = BY_NAME[name]
    grid = GRIDS[kind]
    for weights in (torch.zeros(kind.block, 2), torch.full((kind.block, 2), 1e-12), torch.full((kind.block, 2), 1e30)):
        importance = torch.ones(kind.block, 1)
        frame = grid.open_block(weights, importance)
        for start in range(0, kind.block, grid.group):
            tried = grid.candidates(weights[start : start + grid.group], importance[: grid.group], frame)
            assert torch.isfinite(tried.scale).all()
            assert tried.offset is None or torch.isfinite(tried.offset).all()
