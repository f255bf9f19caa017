"""Matrices of IQ2 and IQ3 in training: their scales learn, and what is computed with is what is written."""

from pathlib import Path

import pytest
import torch

from smidgen.distillation.students.codewords import OnCodewords
from smidgen.distillation.students.lattice import LatticeStudent, not_trained
from smidgen.formats.opening import open_checkpoint
from smidgen.numerics import block_types as types
from smidgen.numerics.block_types import BlockType
from smidgen.numerics.codeword_fields import FORMATS, fields_of
from smidgen.numerics.decode import decode
from smidgen.quantization.compensate import compensate
from tests.gguf_forms import of_types, plain

KINDS = pytest.mark.parametrize("kind", list(FORMATS), ids=lambda kind: kind.name)
WEIGHT = torch.randn(3, 512, generator=torch.Generator().manual_seed(1))


@KINDS
def test_begins_as_stored_and_learns_units_by_the_chain_rule(kind: BlockType) -> None:
    packed, weights = compensate(WEIGHT, kind, torch.ones(512)), torch.empty(3, 512)
    learner = OnCodewords(packed, kind)
    learner.prepare(weights)
    assert torch.equal(weights, decode(packed, kind)) and torch.equal(learner.part().rows(), packed)
    gradient = torch.randn(3, 512, generator=torch.Generator().manual_seed(2))
    learner.collect(gradient)
    unit = learner.tensors()[":unit"]
    assert unit.grad is not None
    expected = (gradient * weights).unflatten(1, (-1, 256)).sum(2)  # weights grow in proportion to 1 + unit
    assert torch.allclose(unit.grad, expected, rtol=1e-4, atol=1e-4)


@KINDS
def test_what_was_learned_is_what_is_written(kind: BlockType) -> None:
    packed, weights = compensate(WEIGHT, kind, torch.ones(512)), torch.empty(3, 512)
    learner = OnCodewords(packed, kind)
    learner.tensors()[":unit"] += 0.1
    learner.prepare(weights)
    written = learner.part().rows()
    assert torch.equal(decode(written, kind), weights)
    before, after = fields_of(kind, packed), fields_of(kind, written)
    assert torch.equal(after.unit, (before.unit * 1.1).half())
    assert torch.equal(after.words, before.words) and torch.equal(after.factors, before.factors)


def test_a_student_has_them(tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    path.write_bytes(of_types(plain(), {"attn_q.weight": types.IQ3_S, "ffn_up.weight": types.IQ3_XXS}).as_bytes())
    with open_checkpoint(path) as checkpoint:
        assert not not_trained(checkpoint)
        student = LatticeStudent(checkpoint)
        name = "blocks.0.attention.query.weight"
        assert f"{name}:unit" in student.tensors() and name not in student.tensors()
        student.prepare()
        assert torch.equal(student.decoder.get_parameter(name), checkpoint.tensor(name))
