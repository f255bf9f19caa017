"""The model that quality is compared on: noise of the right size, on every block format, the same for the same seed."""

import zlib
from pathlib import Path

import numpy as np
import pytest

from benchmarks.artefacts import sha256
from benchmarks.off_lattice import CODES, decode_rows, make, off_lattice, steps
from smidgen.formats.gguf.reader import GGUFFile
from smidgen.formats.gguf.writer import TensorPlan, write_gguf
from smidgen.formats.history import history
from smidgen.numerics.block_types import BY_NAME, F16, F32, BlockType

EVEN = sorted(set(CODES) - {"IQ4_NL", "IQ4_XS"})
ROWS = 16


def random_blocks(kind: BlockType) -> np.ndarray:
    """Packed rows of 512 weights: random codes and sub-scales, with float16 scales that are finite and not tiny."""
    generator = np.random.default_rng(zlib.crc32(kind.name.encode()))
    blocks = generator.integers(0, 256, (ROWS * 512 // kind.block, kind.block_bytes), dtype=np.uint8)
    for start in {"Q2_K": (80, 82), "Q3_K": (108,), "Q6_K": (208,), "Q4_1": (0, 2), "Q5_1": (0, 2)}.get(
        kind.name, (0, 2) if kind.name in ("Q4_K", "Q5_K") else (0,)
    ):
        scales = generator.uniform(0.01, 0.1, len(blocks)).astype(np.float16)
        blocks[:, start : start + 2] = scales[:, None].view(np.uint8)
    return blocks.reshape(ROWS, -1)


@pytest.mark.parametrize("name", EVEN)
def test_weights_of_a_sub_block_lie_whole_steps_apart(name: str) -> None:
    kind = BY_NAME[name]
    packed = random_blocks(kind)
    weights = decode_rows(packed, kind).reshape(-1, 16).astype(np.float64)  # 16: the smallest sub-block of any type
    step = steps(packed, kind).reshape(-1, 16).astype(np.float64)
    assert (step == step[:, :1]).all()
    moving = step[:, 0] > 0
    assert moving.mean() > 0.8
    apart = (weights - weights[:, :1])[moving] / step[moving]
    np.testing.assert_allclose(apart, np.round(apart), atol=1e-3)
    assert np.unique(np.round(apart)).size > 2


@pytest.mark.parametrize("name", sorted(CODES))
def test_noise_is_uniform_within_half_a_step(name: str) -> None:
    kind = BY_NAME[name]
    packed = random_blocks(kind)
    stored, noise_energy, _ = off_lattice(packed, kind, "blk.0.ffn_up.weight", 1, F32)
    noise = stored.view(np.float32) - decode_rows(packed, kind)
    step = steps(packed, kind)
    assert (np.abs(noise) <= step / 2 * 1.001 + 1e-5).all()
    share = (noise / np.where(step > 0, step, 1))[step > 0]
    assert abs(share.mean()) < 0.02
    assert share.std() == pytest.approx(12**-0.5, rel=0.03)
    assert noise_energy == pytest.approx(float(np.square(noise, dtype=np.float64).sum()), rel=1e-3)


def test_file_keeps_norms_and_metadata_and_is_reproducible(tmp_path: Path) -> None:
    kind = BY_NAME["Q5_0"]
    norm = np.arange(512, dtype=np.float32)
    contents = {"blk.0.ffn_up.weight": random_blocks(kind), "output_norm.weight": norm.view(np.uint8)}
    plans = [TensorPlan("blk.0.ffn_up.weight", (ROWS, 512), kind), TensorPlan("output_norm.weight", (512,), F32)]
    metadata = {"general.architecture": "gemma3", "general.file_type": 15, "gemma3.block_count": 1}
    types = {"general.architecture": (8,), "general.file_type": (4,), "gemma3.block_count": (4,)}
    source = tmp_path / "source.gguf"
    write_gguf(source, metadata, types, plans, contents.__getitem__)
    first, second, other = (tmp_path / f"{name}.gguf" for name in ("first", "second", "other"))
    assert make(source, first, seed=3) < 0.05
    make(source, second, seed=3)
    make(source, other, seed=4)
    assert first.read_bytes() == second.read_bytes() != other.read_bytes()
    with GGUFFile.open(first) as file:
        assert file.tensors["blk.0.ffn_up.weight"].kind is F16
        assert (file.packed("output_norm.weight").view(np.float32) == norm).all()
        (step,) = history(file.metadata)
        assert (step["parameters"]["source"], step["parameters"]["seed"]) == (sha256(source), 3)
        assert {key: file.metadata[key] for key in metadata} == metadata | {"general.file_type": 1}
