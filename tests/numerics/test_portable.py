"""Scales that every framework holds, checked with all float16 numbers there are, and the grids that use them."""

import numpy as np
import pytest
import torch
from torch import Tensor

from smidgen.numerics.block_types import BY_NAME, PORTABLE, PORTABLE_Q4_0, PORTABLE_Q8_0, BlockType
from smidgen.numerics.decode import decode
from smidgen.numerics.factor import inverse_factor
from smidgen.numerics.grids import GRIDS
from smidgen.numerics.lattice import Lattice
from smidgen.numerics.portable import as_portable, has_portable_scales, kept_kind
from smidgen.quantization.compensate import compensate
from smidgen.quantization.refit import refit

HALVES = torch.arange(2**15, dtype=torch.int16).view(torch.float16)  # all that are not negative
FINITE = HALVES[HALVES.isfinite()]


def portable_by_longhand() -> np.ndarray:
    """Float16 numbers above 0 of which bfloat16, the upper half of a float32, holds every bit."""
    values = FINITE.numpy().astype(np.float32)
    return np.sort(values[(values > 0) & (values.view(np.uint32) & 0xFFFF == 0)])


ALL = torch.from_numpy(portable_by_longhand())
ROWS = torch.randn(24, 256, generator=torch.Generator().manual_seed(1)) * 0.05


def scales_of(packed: Tensor, kind: BlockType) -> Tensor:
    return packed.reshape(-1, kind.block_bytes)[:, :2].contiguous().view(torch.float16).float().flatten()


def test_every_number_goes_to_the_nearest_portable_one() -> None:
    found = as_portable(FINITE.float()).float()
    assert torch.isin(found, ALL).all()
    above = torch.searchsorted(ALL, FINITE.float()).clamp(1, len(ALL) - 1)
    nearest = torch.stack([FINITE.float() - ALL[above - 1], ALL[above] - FINITE.float()]).abs().amin(0)
    assert torch.equal((found - FINITE.float()).abs(), nearest)
    assert torch.equal(as_portable(ALL).float(), ALL)


@pytest.mark.parametrize("value", [0.0, -0.0, -3.0, 1e-30, 7e4, 1e30, torch.inf, -torch.inf])
def test_what_is_none_becomes_one(value: float) -> None:
    assert torch.isin(as_portable(torch.tensor([value])).float(), ALL).all()


@pytest.mark.parametrize("kind", PORTABLE, ids=lambda kind: kind.name)
@pytest.mark.parametrize("size", [1.0, 0.0, 1e-9, 1e6])
def test_no_scale_is_another_however_it_is_found(kind: BlockType, size: float) -> None:
    rows = ROWS * size
    x = torch.randn(400, 256, generator=torch.Generator().manual_seed(2)) @ torch.randn(256, 256)
    moment = x.T @ x / len(x)
    rounded = compensate(rows, kind, moment.diagonal().rsqrt())
    compensated = compensate(rows, kind, inverse_factor(moment, 0.01, 0.5))
    again = refit(rows, compensated, kind, moment, damping=0.01, shrinkage=0.5)
    for packed in (rounded, compensated, again):
        assert torch.isin(scales_of(packed, kind), ALL).all()
        assert has_portable_scales(packed, kind.stored) and kept_kind(packed, kind.stored) is kind
    if size == 0:
        assert not decode(rounded, kind).any() and not decode(again, kind).any()


def test_a_single_scale_of_another_kind_is_found() -> None:
    packed = compensate(ROWS, PORTABLE_Q4_0, torch.ones(256))
    for scale in (0.0, -0.5, 1 + 2**-10, torch.inf, torch.nan):
        changed = packed.clone()
        changed[7, 18:20] = torch.tensor([scale], dtype=torch.float16).view(torch.uint8)
        assert not has_portable_scales(changed, PORTABLE_Q4_0.stored)
    assert not has_portable_scales(packed, BY_NAME["IQ4_NL"]), "its levels are not evenly spaced"


def loss_by_longhand(group: np.ndarray, scale: float, first: int, last: int) -> float:
    codes = np.clip(np.round(group / scale), first, last)
    return float(((group - codes * scale) ** 2).sum())


@pytest.mark.parametrize(("kind", "more"), [(PORTABLE_Q4_0, 1.06), (PORTABLE_Q8_0, 1.1)], ids=["Q4_0", "Q8_0"])
def test_searched_scales_are_nearly_the_best_of_all_and_beat_the_plain_one(kind: BlockType, more: float) -> None:
    """All scales from half to twice the plain one, one by one; plain: the range over the last level, rounded."""
    first, last = int(GRIDS[kind].first), int(GRIDS[kind].last)
    groups = ROWS.reshape(-1, 32).double().numpy()
    found = (decode(compensate(ROWS, kind, torch.ones(256)), kind) - ROWS).reshape(-1, 32).square().sum(1)
    best, plain = [], []
    for group in groups:
        scale = max(group.max() / last, -group.min() / -first)
        tried = ALL[(ALL > scale / 2) & (ALL < scale * 2)].double().numpy()
        best.append(min(loss_by_longhand(group, one, first, last) for one in tried))
        plain.append(loss_by_longhand(group, float(as_portable(torch.tensor([scale]))), first, last))
    ours = float(found.sum())
    assert sum(best) * (1 - 1e-3) <= ours <= more * sum(best)
    assert ours < 0.95 * sum(plain)


def test_a_changed_lattice_has_the_same_bytes_as_the_type_of_the_file() -> None:
    packed = compensate(ROWS, PORTABLE_Q4_0, torch.ones(256))
    lattice, plain = Lattice.of(packed, PORTABLE_Q4_0), Lattice.of(packed, PORTABLE_Q4_0.stored)
    assert torch.equal(lattice.pack(), packed) and torch.equal(plain.pack(), packed)
    assert torch.equal(lattice.weights(), plain.weights())
