"""Codes and scales as other frameworks store them: they stand for exactly what the file decodes to."""

from pathlib import Path

import numpy as np
import pytest
import torch

from smidgen.exporting.codes import BITS, _taken_apart, pieces_of_codes
from smidgen.formats.opening import open_checkpoint
from smidgen.numerics import block_types as types
from smidgen.numerics.block_types import BlockType
from smidgen.numerics.decode import decode


@pytest.mark.parametrize("kind", BITS, ids=lambda kind: kind.name)
def test_random_blocks(kind: BlockType) -> None:
    """Every code occurs, −128 of Q8_0 too, and scales of both signs."""
    blocks = np.random.default_rng(0).integers(0, 256, (64, 4, kind.block_bytes), dtype=np.uint8)
    units = np.random.default_rng(1).normal(size=(64, 4, 2)).astype(np.float16)
    blocks[..., :2] = units[..., :1].view(np.uint8)
    if kind == types.Q4_1:
        blocks[..., 2:4] = units[..., 1:].view(np.uint8)
    packed = torch.from_numpy(blocks.reshape(64, -1))
    codes = _taken_apart(packed, kind)
    assert torch.equal(codes.weights(), decode(packed, kind))
    assert codes.codes.unique().tolist() == {
        types.Q4_0: list(range(-8, 8)), types.Q4_1: list(range(16)), types.Q8_0: list(range(-128, 128)),
    }[kind]  # fmt: skip


def test_rows_of_a_model_in_its_own_order(smollm_path: Path) -> None:
    """Llama's files hold the rows of queries and keys in another order."""
    with open_checkpoint(smollm_path) as checkpoint:
        for name in ("blocks.0.attention.query.weight", "blocks.0.feed_forward.down.weight"):
            assert checkpoint.kind(name) in BITS
            found = torch.cat([piece.weights() for piece in pieces_of_codes(checkpoint, name)])
            assert torch.equal(found, checkpoint.tensor(name))
