"""Every stored type decodes to the bits that the package `gguf` gives (llama.cpp itself, where that has none)."""

from pathlib import Path

import gguf
import jaxtyping
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from smidgen.formats.gguf.reader import GGUFFile
from smidgen.numerics.block_types import MXFP4, NVFP4, Q1_0, Q2_0, Q8_0, READABLE, BlockType
from smidgen.numerics.decode import DECODERS, as_bytes_tensor, decode
from tests import ggml

every_type = pytest.mark.parametrize("kind", READABLE, ids=lambda kind: kind.name)


def reference(packed: np.ndarray, kind: BlockType) -> np.ndarray:
    if kind in (Q1_0, Q2_0):  # not in the package
        return ggml.decoded(packed, kind)
    with np.errstate(all="ignore"):
        return gguf.dequantize(np.ascontiguousarray(packed), gguf.GGMLQuantizationType(kind.ggml_id))


def assert_same_bits(found: torch.Tensor, expected: np.ndarray) -> None:
    """Equal as float32 bits, so that -0.0 and infinities count; any NaN equals any NaN."""
    assert found.dtype == torch.float32
    assert tuple(found.shape) == expected.shape
    same = found.numpy().view(np.uint32) == np.ascontiguousarray(expected).view(np.uint32)
    assert (same | (np.isnan(expected) & np.isnan(found.numpy()))).all()


def random_rows(kind: BlockType, rows: int, blocks: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (rows, blocks * kind.block_bytes), dtype=np.uint8)


def test_every_readable_type_has_a_decoder() -> None:
    assert set(DECODERS) == {kind.name for kind in READABLE}


@every_type
def test_random_bytes_decode_as_the_reference(kind: BlockType) -> None:
    """Random scales include NaN, infinities, subnormals and negative zero."""
    packed = random_rows(kind, rows=64, blocks=2048 // kind.block)
    expected = reference(packed, kind)
    assert np.isnan(expected).any() or kind in (MXFP4, NVFP4)  # whose scales are never NaN
    assert_same_bits(decode(torch.from_numpy(packed), kind), expected)


@every_type
@settings(max_examples=15, deadline=None, derandomize=True)
@given(rows=st.integers(1, 5), blocks=st.integers(1, 9), seed=st.integers(0, 2**32))
def test_any_shape_decodes_as_the_reference(kind: BlockType, rows: int, blocks: int, seed: int) -> None:
    packed = random_rows(kind, rows, blocks, seed)
    assert_same_bits(decode(torch.from_numpy(packed), kind), reference(packed, kind))


@every_type
def test_each_byte_value_in_each_place(kind: BlockType) -> None:
    """Blocks that differ in one byte only: a wrong shift or a swapped half cannot hide behind the others."""
    base = np.full((kind.block_bytes * 256, kind.block_bytes), 0x3C, dtype=np.uint8)
    for place in range(kind.block_bytes):
        base[place * 256 : (place + 1) * 256, place] = np.arange(256)
    assert_same_bits(decode(torch.from_numpy(base), kind), reference(base, kind))


@every_type
def test_a_chunk_of_rows_decodes_as_the_same_rows_of_the_whole(kind: BlockType) -> None:
    packed = torch.from_numpy(random_rows(kind, rows=9, blocks=3))
    before = packed.clone()
    whole = decode(packed, kind)
    for start, stop in ((0, 1), (3, 8), (8, 9)):
        assert_same_bits(decode(packed[start:stop], kind), whole[start:stop].numpy())
    assert torch.equal(packed, before)


@every_type
def test_rows_that_are_not_contiguous_or_not_aligned(kind: BlockType) -> None:
    packed = torch.from_numpy(random_rows(kind, rows=6, blocks=2))
    expected = reference(packed.numpy(), kind)
    assert_same_bits(decode(packed[::2], kind), expected[::2])
    shifted = torch.cat((torch.zeros(1, dtype=torch.uint8), packed.flatten()))[1:].view(packed.shape)
    assert_same_bits(decode(shifted, kind), expected)


@every_type
def test_no_rows_decode_to_no_rows(kind: BlockType) -> None:
    assert decode(torch.empty(0, 2 * kind.block_bytes, dtype=torch.uint8), kind).shape == (0, 2 * kind.block)


def test_the_result_is_a_copy() -> None:
    packed = torch.from_numpy(random_rows(READABLE[0], rows=2, blocks=4))
    before = packed.clone()
    decode(packed, READABLE[0]).zero_()
    assert torch.equal(packed, before)


@pytest.mark.parametrize("packed", [torch.zeros(2, 33, dtype=torch.uint8), torch.zeros(2, 34), torch.zeros(34)])
def test_rows_that_are_not_whole_blocks_are_refused(packed: torch.Tensor, monkeypatch: pytest.MonkeyPatch) -> None:
    """As in the product, where annotations are not checked."""
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)
    with pytest.raises(ValueError, match="Q8_0"):
        decode(packed, Q8_0)


@pytest.mark.filterwarnings("error")
def test_a_read_only_map_becomes_a_tensor_without_a_warning_or_a_copy() -> None:
    array = random_rows(Q8_0, 2, 2)
    array.flags.writeable = False
    assert as_bytes_tensor(array).data_ptr() == array.ctypes.data


@pytest.mark.parametrize("model", ["gemma_path", "smollm_path"])
def test_real_tensors_decode_as_the_reference(model: str, request: pytest.FixtureRequest) -> None:
    """The first and last rows of every tensor; each type in the file is met."""
    path: Path = request.getfixturevalue(model)
    with GGUFFile.open(path) as file:
        for name, info in file.tensors.items():
            packed = file.packed(name)
            for rows in (packed[:8], packed[-8:]):
                assert_same_bits(decode(as_bytes_tensor(rows), info.kind), reference(rows, info.kind))
