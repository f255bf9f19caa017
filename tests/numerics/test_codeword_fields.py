"""Blocks of IQ2 and IQ3 taken apart into fields and put together again, and fields that mean what is decoded."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from smidgen.numerics.block_types import BlockType
from smidgen.numerics.codebooks import codebook
from smidgen.numerics.codeword_fields import FORMATS, fields_of, pack_fields, signs_of
from smidgen.numerics.decode import decode

KINDS = list(FORMATS)


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
@settings(max_examples=20, deadline=None, derandomize=True)
@given(seed=st.integers(0, 2**31), rows=st.integers(1, 4), blocks=st.integers(1, 3))
def test_any_bytes_come_back_and_mean_what_is_decoded(kind: BlockType, seed: int, rows: int, blocks: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    packed = torch.randint(256, (rows, blocks * kind.block_bytes), generator=generator, dtype=torch.uint8)
    fields, form = fields_of(kind, packed), FORMATS[kind]
    assert torch.equal(pack_fields(kind, fields), packed)
    assert not form.even or (signs_of(fields.signs).unflatten(1, (-1, 8)).prod(2) > 0).all()
    magnitudes = codebook(kind)[fields.words.long()].float().flatten(1)
    unit = fields.unit.float().repeat_interleave(kind.block // form.group, dim=1)
    scale = (unit * form.fraction * (2 * fields.factors.float() + 1)).repeat_interleave(form.group, dim=1)
    found = magnitudes * signs_of(fields.signs) * scale
    assert torch.equal(found.nan_to_num(nan=7.0), decode(packed, kind).nan_to_num(nan=7.0))
