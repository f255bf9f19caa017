"""Decoding speed and file size of a large model with its vocabulary trimmed, at the same bits.

    python -m benchmarks.vocabulary_speed gemma-2-2b [--vocabularies 131072,65536,32768] [--repeats 5]

The model has the real one's shape and random weights, the blocks in Q4_0 and the embedding, which is the head too, in
Q8_0. It is trimmed by smidgen's own step, which moves packed rows, so all files have the same bits a weight. Each file
runs in llama.cpp in a process of its own; they take turns, the median counts.
"""

import argparse
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import options as shared
from benchmarks import record
from benchmarks.random_model import SHAPES, Shape, metadata, tensors
from benchmarks.speeds import rates
from smidgen.formats.derived import write_derived
from smidgen.formats.gguf.writer import TensorPlan, write_gguf
from smidgen.formats.opening import open_checkpoint
from smidgen.numerics.block_types import F32, Q4_0, Q8_0
from smidgen.progress import track
from smidgen.pruning.vocabulary import VocabularyPlan, apply

_SCALE = 0.01  # of every block; nothing here looks at values


def write(shape: Shape, destination: Path, seed: int = 0) -> None:
    """A file of blocks with random codes."""
    plans = []
    for name, size in tensors(shape):
        kind = F32 if len(size) == 1 else Q8_0 if name == "token_embd.weight" else Q4_0
        plans.append(TensorPlan(name, size, kind))
    planned = {plan.name: plan for plan in plans}
    with track("random weights", len(plans)) as task:

        def packed(name: str) -> np.ndarray:
            task.advance()
            plan = planned[name]
            if plan.kind is F32:
                return np.ones((1, *plan.shape), dtype=np.float32).view(np.uint8)
            generator = np.random.default_rng([seed, zlib.crc32(name.encode())])
            bytes_ = generator.integers(0, 256, plan.nbytes, dtype=np.uint8).reshape(-1, plan.kind.block_bytes)
            bytes_[:, :2] = np.array([_SCALE], dtype=np.float16).view(np.uint8)
            return bytes_

        write_gguf(destination, *metadata(shape), plans, packed)


def trim(original: Path, tokens: int, destination: Path) -> None:
    """The first tokens of the vocabulary: in a random one, as good as any."""
    with open_checkpoint(original) as checkpoint:
        plan = VocabularyPlan(np.arange(tokens), checkpoint.config.vocabulary, 0, 0, {}, {})
        derived = apply(checkpoint, plan)
        write_derived(checkpoint, derived, destination, {"step": "vocabulary"})


def compare(options: argparse.Namespace, work: Path) -> dict[str, Any]:
    """All sizes, as the object that is saved."""
    shape = SHAPES[options.shape]
    files = {shape.vocabulary: work / f"{shape.vocabulary}.gguf"}
    write(shape, files[shape.vocabulary])
    for tokens in options.vocabularies:
        files[tokens] = work / f"{tokens}.gguf"
        trim(files[shape.vocabulary], tokens, files[tokens])
    measured = rates(list(files.values()), options.threads, options.repeats)
    rows = [
        {"vocabulary": tokens, "bytes": file.stat().st_size} | {k: v for k, v in speed.items() if k != "path"}
        for (tokens, file), speed in zip(files.items(), measured, strict=True)
    ]
    return {**record.facts(), "shape": options.shape, "types": "blocks Q4_0, embedding Q8_0", "sizes": rows}


def show(result: Mapping[str, Any]) -> str:
    """The table that goes into README.md."""
    first = result["sizes"][0]
    rows = [
        (
            f"{one['vocabulary']:,}",
            f"{one['bytes'] / 1e9:.2f} GB",
            f"{one['decode_tokens_per_s']:.2f} ({one['decode_tokens_per_s_range'][0]:.2f}-"
            f"{one['decode_tokens_per_s_range'][1]:.2f})",
            f"{one['decode_tokens_per_s'] / first['decode_tokens_per_s']:.2f}",
        )
        for one in result["sizes"]
    ]
    return record.table(("vocabulary", "file", "tokens/s", "times"), rows)


def main(arguments: Sequence[str] | None = None) -> None:
    """The command."""
    parser = shared.parser_of(__doc__, "vocabulary_speed.json")
    parser.add_argument("shape", choices=SHAPES)
    parser.add_argument("--vocabularies", default="131072,65536,32768")
    parser.add_argument("--repeats", type=int, default=5)
    shared.add_work(parser, "folder for the files: 6 GB")
    options = parser.parse_args(arguments)
    options.vocabularies = [int(size) for size in options.vocabularies.split(",")]
    with shared.work_folder("vocabulary-speed", options.work) as folder:
        result = compare(options, folder)
    shared.finish(options.output, result, show(result))


if __name__ == "__main__":
    main()
