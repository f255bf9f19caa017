"""IQ2 and IQ3 as they are written: against llama.cpp's quantizer, with poor metrics, with weights of every size."""

import pytest
import torch
from torch import Tensor

from smidgen.numerics.block_types import BlockType
from smidgen.numerics.codeword_fields import FORMATS
from smidgen.numerics.decode import as_bytes_tensor, decode
from smidgen.numerics.factor import inverse_factor
from smidgen.quantization.compensate import compensate
from tests import ggml

COLUMNS = 512
GENERATOR = torch.Generator().manual_seed(5)
INPUTS = torch.randn(700, COLUMNS, generator=GENERATOR) @ torch.randn(COLUMNS, COLUMNS, generator=GENERATOR) / 20
HESSIAN = INPUTS.T @ INPUTS / len(INPUTS)
PLAIN = torch.randn(12, COLUMNS, generator=GENERATOR) * 0.05
KINDS = pytest.mark.parametrize("kind", list(FORMATS), ids=lambda kind: kind.name)


def odd_weights() -> dict[str, Tensor]:
    outlier, empty = PLAIN.clone(), PLAIN.clone()
    outlier[3, 100] = 1e4
    empty[:, 256:], empty[5] = 0, 0
    return {
        "zero": torch.zeros_like(PLAIN), "constant": torch.full_like(PLAIN, -0.3), "one outlier": outlier,
        "empty blocks": empty, "below float16": PLAIN * 1e-8, "far below": PLAIN * 1e-30, "beyond float16": PLAIN * 1e8,
        "one row": PLAIN[:1],
    }  # fmt: skip


def poor_moments() -> dict[str, Tensor]:
    unseen = HESSIAN.clone()
    unseen[40:60], unseen[:, 40:60] = 0, 0
    return {
        "zero": torch.zeros_like(HESSIAN), "one token": INPUTS[:1].T @ INPUTS[:1], "rank 3": INPUTS[:3].T @ INPUTS[:3],
        "unseen inputs": unseen, "of every size": torch.logspace(-12, 12, COLUMNS).diag(),
    }  # fmt: skip


def rounding(hessian: Tensor) -> Tensor:
    diagonal = hessian.diagonal()
    return diagonal.clamp_min(1e-6 * diagonal.mean().clamp_min(1e-30)).rsqrt()


@KINDS
def test_rounding_loses_less_than_llama_cpps_own(kind: BlockType) -> None:
    ours = decode(compensate(PLAIN, kind, torch.ones(COLUMNS)), kind)
    theirs = decode(as_bytes_tensor(ggml.encoded(PLAIN.numpy(), kind)), kind)
    assert (ours - PLAIN).square().sum() < (theirs - PLAIN).square().sum()


@KINDS
@pytest.mark.parametrize("name", odd_weights())
def test_no_weights_lose_more_than_zeros_would(kind: BlockType, name: str) -> None:
    weight = odd_weights()[name]
    for U in (torch.ones(COLUMNS), inverse_factor(HESSIAN)):
        found = decode(compensate(weight, kind, U), kind)
        assert found.isfinite().all()
        error, metric = (found - weight).double(), HESSIAN.double() if U.dim() == 2 else torch.eye(COLUMNS).double()
        lost = (error @ metric * error).sum(1)
        assert (lost <= (weight.double() @ metric * weight).sum(1) * (1 + 1e-6)).all()


@KINDS
@pytest.mark.parametrize("name", poor_moments())
def test_poor_moments_are_survived(kind: BlockType, name: str) -> None:
    hessian = poor_moments()[name]
    for U in (rounding(hessian), inverse_factor(hessian)):
        found = decode(compensate(PLAIN, kind, U), kind)
        assert found.isfinite().all()
        assert (found - PLAIN).square().mean() < PLAIN.square().mean()


@KINDS
def test_every_number_of_threads_writes_the_same_bytes(kind: BlockType) -> None:
    weight = torch.randn(600, COLUMNS, generator=torch.Generator().manual_seed(6))
    before, found = torch.get_num_threads(), []
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            found.append([compensate(weight, kind, U) for U in (torch.ones(COLUMNS), inverse_factor(HESSIAN))])
    finally:
        torch.set_num_threads(before)
    for other in found[1:]:
        assert all(map(torch.equal, found[0], other))


@KINDS
def test_what_is_encoded_stays_as_it_was(kind: BlockType) -> None:
    weight = PLAIN[:1].clone()
    compensate(weight, kind, inverse_factor(HESSIAN))
    assert torch.equal(weight, PLAIN[:1])
