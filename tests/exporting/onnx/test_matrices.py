"""Matrices in a graph: ONNX Runtime computes with exactly the numbers that the file stands for."""

from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest
import torch

from smidgen.exporting.onnx.graph import Graph
from smidgen.exporting.onnx.matrices import Matrices
from smidgen.exporting.onnx.names import MODEL
from smidgen.formats.opening import open_checkpoint
from smidgen.numerics import block_types as types
from smidgen.numerics.block_types import BlockType
from tests.exporting.onnx.sessions import open_session
from tests.gguf_forms import of_types, plain, tensors_of, with_tensors
from tests.mutated_gguf import Parts

_KEPT = [types.Q4_0, types.Q4_1, types.Q5_0, types.Q5_1, types.Q8_0, types.F16, types.BF16]
_NAME, _TENSOR = "blocks.0.attention.key.weight", "blk.0.attn_k.weight"


def with_blocks(kind: BlockType) -> Parts:
    """The model with random blocks in one matrix: every code, scales of both signs."""
    tensors = tensors_of(of_types(plain(), {_TENSOR: kind, "token_embd.weight": kind}))
    for seed, name in enumerate((_TENSOR, "token_embd.weight")):
        _, shape, number, raw = tensors[name]
        blocks = np.random.default_rng(seed).integers(
            0, 256, (len(raw) // kind.block_bytes, kind.block_bytes), np.uint8
        )
        scales = np.random.default_rng(seed).normal(size=(len(blocks), 2)).astype(np.float16)
        scales[::7, 0] = 0
        blocks[:, :2] = scales[:, :1].view(np.uint8)
        if kind in (types.Q4_1, types.Q5_1):
            blocks[:, 2:4] = scales[:, 1:].view(np.uint8)
        tensors[name] = name, shape, number, blocks.tobytes()
    return with_tensors(plain(), list(tensors.values()))


@pytest.mark.parametrize("int8", [False, True])
@pytest.mark.parametrize("kind", _KEPT, ids=lambda kind: kind.name)
def test_numbers_are_those_of_the_file(kind: BlockType, int8: bool, tmp_path: Path) -> None:
    """Columns one at a time by multiplying with ones and zeros, and rows as an embedding."""
    quantized = kind.name.startswith("Q")
    parts = with_blocks(kind) if quantized else of_types(plain(), {_TENSOR: kind, "token_embd.weight": kind})
    (tmp_path / "model.gguf").write_bytes(parts.as_bytes())
    with open_checkpoint(tmp_path / "model.gguf") as checkpoint:
        graph = Graph()
        x = graph.input("x", ir.DataType.FLOAT, (1, "n", 256))
        ids = graph.input("ids", ir.DataType.INT64, (1, "rows"))
        matrices = Matrices(graph, checkpoint, int8, None)
        for name in (_NAME, "embedding.weight"):
            both, looked_up = matrices.get(name), matrices.get(name, multiplied=False)
            out = checkpoint.shape(name)[0]
            graph.output(both.times(x), f"{name}.times", (1, "n", out))
            graph.output(both.rows(ids), f"{name}.rows", (1, "rows", 256))
            graph.output(looked_up.rows(ids), f"{name}.looked_up", (1, "rows", 256))
        (tmp_path / MODEL).write_bytes(graph.serialized("tests", "0"))
        graph.write_numbers(tmp_path, checkpoint)
        wanted = {name: checkpoint.tensor(name) for name in (_NAME, "embedding.weight")}
    session = open_session(tmp_path / MODEL)
    names = [output.name for output in session.get_outputs()]
    numbers = torch.tensor([[0, 5, 127, 64, 5]])
    for columns in ([3], list(range(256))):
        ones = torch.eye(256)[columns][None]
        found = dict(zip(names, session.run(None, {"x": ones.numpy(), "ids": numbers.numpy()}), strict=True))
        for name, weight in wanted.items():
            product = torch.from_numpy(found[f"{name}.times"])[0].T
            if int8 and quantized:  # 1 is 127/127 there
                assert (product - weight[:, columns]).abs().max() < 1e-5 * weight.abs().max()
            else:
                assert torch.equal(product, weight[:, columns])
            for rows in (found[f"{name}.rows"], found[f"{name}.looked_up"]):
                assert torch.equal(torch.from_numpy(rows)[0], weight[numbers[0]])


@pytest.mark.parametrize("kind", [types.Q4_0, types.Q8_0], ids=lambda kind: kind.name)
def test_a_matrix_takes_the_bytes_that_it_had(kind: BlockType, tmp_path: Path) -> None:
    """Also where it is multiplied with and looked up in: it is stored once."""
    (tmp_path / "model.gguf").write_bytes(of_types(plain(), {"token_embd.weight": kind}).as_bytes())
    with open_checkpoint(tmp_path / "model.gguf") as checkpoint:
        graph = Graph()
        x, ids = graph.input("x", ir.DataType.FLOAT, (1, 1, 256)), graph.input("ids", ir.DataType.INT64, (1, 1))
        matrix = Matrices(graph, checkpoint, False, None).get("embedding.weight")
        matrix.times(x)
        matrix.rows(ids)
        assert 0 <= graph.nbytes - checkpoint.packed("embedding.weight").nbytes < 3 * 64  # but for the alignment
