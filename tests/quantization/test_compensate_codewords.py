"""IQ2 and IQ3 as they are written: better than by llama.cpp's quantizer, and the same by any number of cores."""

import pytest
import torch

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


@KINDS
def test_rounding_loses_less_than_llama_cpps_own(kind: BlockType) -> None:
    ours = decode(compensate(PLAIN, kind, torch.ones(COLUMNS)), kind)
    theirs = decode(as_bytes_tensor(ggml.encoded(PLAIN.numpy(), kind)), kind)
    assert (ours - PLAIN).square().sum() < (theirs - PLAIN).square().sum()


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
