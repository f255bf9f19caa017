"""Two roundings of one matrix are recognised, whatever their types; a head that was trained is not."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from smidgen.formats.derived import Derived, Packed, write_derived
from smidgen.formats.history import history
from smidgen.formats.opening import open_checkpoint
from smidgen.formats.stored_twice import stored_once, stored_twice
from smidgen.numerics import block_types as types
from smidgen.numerics.block_types import BlockType
from tests.ggml import encoded
from tests.tiny_models import LLAMA_CONFIG, LLAMA_KEYS, VOCABULARY, gguf_tensors, random_decoder, write_model

_WIDTH = 256  # takes k-quants
_CONFIG = replace(LLAMA_CONFIG, hidden=_WIDTH, layers=LLAMA_CONFIG.layers[:1])
_KEYS = LLAMA_KEYS | {
    "embedding_length": _WIDTH, "block_count": 1, "attention.key_length": 16, "attention.value_length": 16
}  # fmt: skip
_NOISE = np.random.default_rng(0)
MATRIX = (_NOISE.standard_t(5, (VOCABULARY, _WIDTH)) * np.exp(_NOISE.normal(0, 0.3, (VOCABULARY, 1)))).astype("f4")


def packed(matrix: np.ndarray, kind: BlockType) -> Packed:
    """As llama.cpp's quantizer rounds it."""
    rows = matrix.astype("f2").view(np.uint8) if kind is types.F16 else encoded(matrix, kind)
    return Packed(kind, lambda: torch.from_numpy(rows))


def write(path: Path, embedding: Packed, head: Packed) -> Path:
    plain = write_model(path.with_name("plain.gguf"), "llama", _KEYS, gguf_tensors(random_decoder(_CONFIG)))
    with open_checkpoint(plain) as checkpoint:
        parts = {"embedding.weight": embedding, "head.weight": head}
        write_derived(checkpoint, Derived(checkpoint.config, parts), path, {"step": "packed"})
    return path


@pytest.mark.parametrize(
    ("embedding", "head"),
    [
        (types.Q4_K, types.Q6_K), (types.Q6_K, types.Q8_0), (types.IQ4_NL, types.Q8_0), (types.Q5_0, types.Q5_1),
        (types.Q8_0, types.Q4_0), (types.Q4_1, types.Q5_K), (types.Q8_0, types.Q8_0), (types.Q4_K, types.F16),
        (types.F16, types.F16),
    ],
    ids=lambda kind: kind.name,
)  # fmt: skip
def test_two_roundings_of_one_matrix(embedding: BlockType, head: BlockType, tmp_path: Path) -> None:
    path = write(tmp_path / "twice.gguf", packed(MATRIX, embedding), packed(MATRIX, head))
    with open_checkpoint(path) as checkpoint:
        twice = stored_twice(checkpoint)
        assert twice is not None and twice == stored_twice(checkpoint, sample=True)
        finer = "embedding.weight" if embedding.bits_per_weight > head.bits_per_weight else "head.weight"
        assert twice.kept == finer
        once = stored_once(checkpoint, twice)
        assert once.config == replace(checkpoint.config, tied_head=True) and "head.weight" not in once.names()
        assert torch.equal(once.tensor("embedding.weight"), checkpoint.tensor(finer))
        assert "output.weight" not in once.file.tensors and once.kind("embedding.weight") is checkpoint.kind(finer)
        assert sum(tensor.nbytes for tensor in once.file.tensors.values()) + twice.nbytes == sum(
            tensor.nbytes for tensor in checkpoint.file.tensors.values()
        )
        assert [step["step"] for step in history(once.file.metadata)] == ["packed", "tie"]
        assert torch.equal(
            once.tensor("blocks.0.attention.key.weight"), checkpoint.tensor("blocks.0.attention.key.weight")
        )


def trained(matrix: np.ndarray) -> np.ndarray:
    """By a twentieth of what it is, in a few directions, as training moves a matrix."""
    generator = np.random.default_rng(1)
    moved = generator.normal(size=(len(matrix), 4)) @ generator.normal(size=(4, _WIDTH))
    return matrix + (0.05 * matrix.std() / moved.std() * moved).astype("f4")


def one_row_trained(matrix: np.ndarray) -> np.ndarray:
    """As that of a token which only the head has learned."""
    changed = matrix.copy()
    changed[77] = changed[78]
    return changed


@pytest.mark.parametrize(
    "change",
    [trained, one_row_trained, lambda matrix: 1.03 * matrix, lambda matrix: matrix[::-1], lambda matrix: 0 * matrix],
    ids=["trained", "one row", "times a factor", "other rows", "zeros"],
)
@pytest.mark.parametrize("kinds", [(types.Q4_K, types.Q6_K), (types.Q8_0, types.Q8_0)], ids=["Q4_K Q6_K", "Q8_0"])
def test_a_head_that_is_another_is_left_alone(
    change: Callable[[np.ndarray], np.ndarray], kinds: tuple[BlockType, BlockType], tmp_path: Path
) -> None:
    head = np.ascontiguousarray(change(MATRIX), dtype="f4")
    path = write(tmp_path / "two.gguf", packed(MATRIX, kinds[0]), packed(head, kinds[1]))
    with open_checkpoint(path) as checkpoint:
        assert stored_twice(checkpoint) is None


def test_a_head_that_moved_less_than_its_rounding_is_the_embedding(tmp_path: Path) -> None:
    """Nothing in the file tells them apart: the head's own rounding is twice as large as what was learned."""
    head = MATRIX + (0.005 * MATRIX.std() * np.random.default_rng(2).normal(size=MATRIX.shape)).astype("f4")
    path = write(tmp_path / "near.gguf", packed(MATRIX, types.Q4_K), packed(head, types.Q6_K))
    with open_checkpoint(path) as checkpoint:
        assert stored_twice(checkpoint) is not None


def test_rows_of_zeros_and_tiny_rows_and_what_is_tied_already(tmp_path: Path) -> None:
    """Padding is often stored as next to nothing: the coarser type may hold zeros for it."""
    matrix = MATRIX.copy()
    matrix[100:120], matrix[120:140] = 0, 1e-9 * matrix[120:140]
    path = write(tmp_path / "padded.gguf", packed(matrix, types.Q4_K), packed(matrix, types.Q6_K))
    with open_checkpoint(path) as checkpoint:
        twice = stored_twice(checkpoint)
        assert twice is not None
        assert stored_twice(stored_once(checkpoint, twice)) is None


def test_numbers_that_are_not_finite_are_never_the_same(tmp_path: Path) -> None:
    matrix = MATRIX.copy()
    matrix[5, 5] = np.nan
    path = write(tmp_path / "nan.gguf", packed(matrix, types.F16), packed(matrix, types.F16))
    with open_checkpoint(path) as checkpoint:
        assert stored_twice(checkpoint) is None
