"""Tiny models whose embeddings have rows that no text becomes."""

from pathlib import Path

import numpy as np

from smidgen.formats.gguf.reader import GGUFFile
from smidgen.formats.gguf.writer import TensorPlan, write_gguf

_BY_ROW = ("token_embd.weight", "output.weight")


def padded(source: Path, target: Path, rows: int, scale: float = 30.0) -> Path:
    """The same float32 file with `rows` rows, those behind its tokens padding.

    scale: of these; at 30 the model likes them best.
    """
    with GGUFFile.open(source) as file:
        metadata = dict(file.metadata)
        tokens, kinds, scores = (metadata[f"tokenizer.ggml.{key}"] for key in ("tokens", "token_type", "scores"))
        assert isinstance(tokens, list)
        more = rows - len(tokens)
        metadata["tokenizer.ggml.tokens"] = [*tokens, *(f"[PAD{row}]" for row in range(len(tokens), rows))]
        metadata["tokenizer.ggml.token_type"] = np.concatenate([kinds, np.full(more, 5, np.int32)])
        metadata["tokenizer.ggml.scores"] = np.concatenate([scores, np.full(more, -1e4, np.float32)])
        size = f"{metadata['general.architecture']}.vocab_size"
        metadata |= {size: rows} if size in metadata else {}
        plans = [
            TensorPlan(info.name, (rows, *info.shape[1:]) if info.name in _BY_ROW else info.shape, info.kind)
            for info in file.tensors.values()
        ]

        def packed(name: str) -> np.ndarray:
            found = file.packed(name)
            if name not in _BY_ROW:
                return found
            noise = np.random.default_rng(0).normal(scale=scale, size=(more, found.shape[1] // 4)).astype(np.float32)
            return np.concatenate([found, noise.view(np.uint8)])

        write_gguf(target, metadata, file.metadata_types, plans, packed)
    return target
