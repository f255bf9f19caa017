"""What is written of a matrix, read by hand out of the two files of the graph."""

from math import prod
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
import torch

from smidgen.exporting.openvino.folder import write_openvino
from smidgen.exporting.openvino.names import MODEL, NUMBERS
from smidgen.formats.opening import open_checkpoint
from smidgen.numerics import block_types as types
from smidgen.numerics.block_types import BlockType
from tests.exporting.graph_models import write_quantized

_KINDS = {types.Q4_0: ("i4", 4), types.Q4_1: ("u4", 4), types.Q8_0: ("i8", 8)}


def constants(folder: Path) -> list[tuple[str, tuple[int, ...], bytes]]:
    """Type, shape and bytes of every constant."""
    numbers, found = (folder / NUMBERS).read_bytes(), []
    for data in ElementTree.parse(folder / MODEL).iterfind("layers/layer[@type='Const']/data"):
        shape = tuple(int(size) for size in data.attrib["shape"].split(",") if size)
        start, size = int(data.attrib["offset"]), int(data.attrib["size"])
        found.append((data.attrib["element_type"], shape, numbers[start : start + size]))
    return found


def codes_of(raw: bytes, kind: str, shape: tuple[int, ...]) -> torch.Tensor:
    numbers = np.frombuffer(raw, np.uint8)
    if kind == "i8":
        return torch.from_numpy(numbers.view(np.int8).reshape(shape).copy())
    halves = np.stack([numbers & 15, numbers >> 4], -1).reshape(shape).astype(np.int8)
    return torch.from_numpy(np.where(halves > 7, halves - 16, halves) if kind == "i4" else halves)


@pytest.mark.parametrize("kind", _KINDS, ids=lambda kind: kind.name)
def test_codes_and_scales_are_those_of_the_file(kind: BlockType, tmp_path: Path) -> None:
    """Of every matrix, in the order of the model's rows; the embedding is there once for both of its roles."""
    names = ["token_embd", "attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down"]
    model = write_quantized("smollm2", tmp_path, {f"{name}.weight": kind for name in names})
    with open_checkpoint(model) as checkpoint:
        write_openvino(checkpoint, tmp_path / "out")
        wanted = [checkpoint.tensor(name) for name in checkpoint.names() if checkpoint.kind(name) == kind]
    stored, found = constants(tmp_path / "out"), []
    halves = {
        shape: [np.frombuffer(raw, np.float16) for type_, shape_, raw in stored if (type_, shape_) == ("f16", shape)]
        for _, shape, _ in stored
    }
    for type_, shape, raw in stored:
        if type_ == _KINDS[kind][0]:
            assert len(raw) == prod(shape) * _KINDS[kind][1] // 8
            codes = codes_of(raw, type_, shape).float()
            scale = torch.from_numpy(halves[*shape[:2], 1].pop(0).astype(np.float32)).view(*shape[:2], 1)
            weight = codes * scale
            if kind == types.Q4_1:
                weight = weight + torch.from_numpy(halves[shape[:2]].pop(0).astype(np.float32)).view(*shape[:2], 1)
            found.append(weight.flatten(1))
    assert len(found) == len(wanted) == 4 * 7 + 1
    missing = [one for one in wanted if not any(torch.equal(one, other) for other in found)]
    assert not missing


def test_sizes(tmp_path: Path) -> None:
    """Bytes of the file: no more than of the GGUF file, but for vectors and the graph's own numbers."""
    kinds = {f"{name}.weight": types.Q4_0 for name in ("token_embd", "attn_q", "ffn_gate", "ffn_up", "ffn_down")}
    model = write_quantized("qwen3", tmp_path, kinds)
    with open_checkpoint(model) as checkpoint:
        write_openvino(checkpoint, tmp_path / "out")
        weights = sum(checkpoint.packed(name).nbytes for name in checkpoint.names())
    assert 0 <= (tmp_path / "out" / NUMBERS).stat().st_size - weights < 5_000
