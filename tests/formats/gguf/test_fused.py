"""Queries, keys and values in one tensor, as llama.cpp's converter writes them with --fuse-qkv."""

from dataclasses import replace
from pathlib import Path

import numpy as np

from smidgen.formats.gguf.checkpoint import GGUFCheckpoint
from smidgen.formats.gguf.contents import refuse_damaged
from smidgen.formats.gguf.fused import separated
from smidgen.formats.gguf.reader import GGUFFile, TensorInfo
from smidgen.numerics.block_types import F32, Q8_0
from tests.gguf_forms import fused, plain


def test_a_fused_model_is_the_model(tmp_path: Path) -> None:
    for name, parts in (("fused", fused(plain())), ("plain", plain())):
        (tmp_path / f"{name}.gguf").write_bytes(parts.as_bytes())
    with GGUFCheckpoint.open(tmp_path / "fused.gguf") as one, GGUFCheckpoint.open(tmp_path / "plain.gguf") as other:
        assert one.config == other.config
        assert one.file.tensors.keys() == other.file.tensors.keys()
        for name in other.names():
            assert np.array_equal(one.tensor(name), other.tensor(name))
    with GGUFFile.open(tmp_path / "fused.gguf") as file:
        refuse_damaged(file)
        assert "blk.0.attn_qkv.weight" in file.tensors


def test_where_each_part_lies() -> None:
    tensors = {
        info.name: info
        for info in (
            TensorInfo("blk.3.attn_qkv.weight", (64 + 2 * 32, 96), Q8_0, 4096, 128 * 102),
            TensorInfo("blk.3.attn_qkv.bias", (128,), F32, 32768, 512),
            TensorInfo("blk.3.attn_output.weight", (96, 64), F32, 65536, 96 * 64 * 4),
        )
    }
    found = separated(tensors)
    assert [(info.name, info.shape, info.offset, info.nbytes) for info in found.values()] == [
        ("blk.3.attn_q.weight", (64, 96), 4096, 64 * 102),
        ("blk.3.attn_k.weight", (32, 96), 4096 + 64 * 102, 32 * 102),
        ("blk.3.attn_v.weight", (32, 96), 4096 + 96 * 102, 32 * 102),
        ("blk.3.attn_q.bias", (64,), 32768, 256),
        ("blk.3.attn_k.bias", (32,), 32768 + 256, 128),
        ("blk.3.attn_v.bias", (32,), 32768 + 384, 128),
        ("blk.3.attn_output.weight", (96, 64), 65536, 96 * 64 * 4),
    ]


def test_what_cannot_be_taken_apart_stays_as_it_is() -> None:
    qkv = TensorInfo("blk.0.attn_qkv.weight", (65, 32), F32, 0, 65 * 128)
    output = TensorInfo("blk.0.attn_output.weight", (32, 32), F32, 16384, 4096)
    assert separated({qkv.name: qkv}) == {qkv.name: qkv}  # nothing says how many queries
    assert separated({qkv.name: qkv, output.name: output}) == {qkv.name: qkv, output.name: output}  # an odd rest
    even, query = replace(qkv, shape=(64, 32)), replace(qkv, name="blk.0.attn_q.weight")
    tensors = {info.name: info for info in (even, query, output)}
    assert separated(tensors) == tensors  # queries are there already
