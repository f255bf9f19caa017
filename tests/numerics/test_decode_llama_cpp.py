"""Every type that llama.cpp computes with decodes to the very bits that llama.cpp gives, and none is missing."""

import numpy as np
import pytest
import torch

from smidgen.numerics.block_types import BY_ID, F32, IQ1_M, IQ1_S, IQ2_S, IQ2_XS, READABLE, BlockType
from smidgen.numerics.decode import decode
from tests import ggml
from tests.numerics.test_decode import assert_same_bits, random_rows

IN_BLOCKS = [kind for kind in READABLE if kind is not F32]  # which llama.cpp does not decode: it is float32
SLOW_TO_QUANTIZE = {IQ1_S, IQ1_M, IQ2_XS, IQ2_S}  # llama.cpp looks for neighbours in these codebooks for seconds
every_type = pytest.mark.parametrize("kind", IN_BLOCKS, ids=lambda kind: kind.name)


def test_exactly_the_types_that_llama_cpp_decodes_are_readable() -> None:
    """Fails when the engine learns a type: it is to be added."""
    last = max(BY_ID)
    assert not ggml.is_past_the_last(last) and ggml.is_past_the_last(last + 1)
    there = [number for number in range(last + 1) if ggml.traits(number).block]  # the others were removed
    assert set(there) == set(BY_ID)
    assert {number for number in there if ggml.traits(number).to_float} == {kind.ggml_id for kind in IN_BLOCKS}


def test_names_and_sizes_are_those_of_llama_cpp() -> None:
    for kind in BY_ID.values():
        known = ggml.traits(kind.ggml_id)
        assert (known.name.decode().upper(), known.block, known.block_bytes) == (
            kind.name.upper(), kind.block, kind.block_bytes,
        )  # fmt: skip


@every_type
def test_random_bytes_decode_as_llama_cpp_does(kind: BlockType) -> None:
    packed = random_rows(kind, rows=256, blocks=2048 // kind.block, seed=1)
    assert_same_bits(decode(torch.from_numpy(packed), kind), ggml.decoded(packed, kind))


@every_type
def test_each_byte_value_in_each_place_decodes_as_llama_cpp_does(kind: BlockType) -> None:
    base = np.full((kind.block_bytes * 256, kind.block_bytes), 0x3C, dtype=np.uint8)
    for place in range(kind.block_bytes):
        base[place * 256 : (place + 1) * 256, place] = np.arange(256)
    assert_same_bits(decode(torch.from_numpy(base), kind), ggml.decoded(base, kind))


@pytest.mark.parametrize(
    "kind", [kind for kind in IN_BLOCKS if kind not in SLOW_TO_QUANTIZE], ids=lambda kind: kind.name
)
def test_what_llama_cpp_quantizes_is_read_back_close_to_the_weights(kind: BlockType) -> None:
    """A layout that only random bytes have met might be wrong in both; here the weights themselves are known."""
    weights = np.random.default_rng(0).standard_normal((4, 1024), dtype=np.float32)
    packed = ggml.encoded(weights, kind)
    found = decode(torch.from_numpy(packed), kind)
    assert_same_bits(found, ggml.decoded(packed, kind))
    error = np.square(found.numpy() - weights).mean() / np.square(weights).mean()
    # No code of b bits a weight does better than 4 ** -b, and a usable one not eight times worse. The smallest types
    # are for weights of two to four levels, which these are not: of them it is asked to be nearer than zeros are.
    assert error < (0.7 if kind.bits_per_weight < 2.3 else 8 * 4**-kind.bits_per_weight + 1e-5)
