"""One tiny Llama in the forms that GGUF files come in: fused, in parts, in any type that llama.cpp can write.

The files are taken apart and put together again here, byte by byte, not by the writer that they test.
"""

from dataclasses import replace
from functools import cache
from math import prod
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from smidgen.model.config import LayerConfig, ModelConfig, Rotary
from smidgen.numerics.block_types import BlockType
from tests import ggml
from tests.mutated_gguf import STRING, Parts, take_apart
from tests.tiny_models import VOCABULARY, gguf_tensors, random_decoder, write_model

WIDTH = 256  # of rows: what most types need
_LAYER = LayerConfig(4, 2, 64, WIDTH, Rotary(1e4, 64), 0.125, "silu")
CONFIG = ModelConfig("llama", VOCABULARY, WIDTH, (_LAYER,) * 2, 1e-5, 256, False)
KEYS = {
    "context_length": 256, "embedding_length": WIDTH, "block_count": 2, "feed_forward_length": WIDTH,
    "attention.head_count": 4, "attention.head_count_kv": 2, "attention.layer_norm_rms_epsilon": 1e-5,
    "rope.dimension_count": 64,
}  # fmt: skip


@cache
def plain() -> Parts:
    """The model, float32."""
    with TemporaryDirectory() as folder:
        return take_apart(write_model(Path(folder) / "model.gguf", "llama", KEYS, gguf_tensors(random_decoder(CONFIG))))


def with_tensors(parts: Parts, tensors: list[tuple[str, tuple[int, ...], int, bytes]]) -> Parts:
    """The same header with these tensors: name, shape as in the file, type, bytes."""
    changed = replace(parts, metadata=dict(parts.metadata), tensors=[], data=b"")
    for name, shape, kind, raw in tensors:
        changed.tensors.append((name, shape, kind, len(changed.data)))
        changed.data += raw + bytes(-len(raw) % 32)
    return changed


def tensors_of(parts: Parts) -> dict[str, tuple[str, tuple[int, ...], int, bytes]]:
    """What `with_tensors` takes, of a float32 model."""
    return {
        name: (name, shape, kind, parts.data[offset : offset + 4 * prod(shape)])
        for name, shape, kind, offset in parts.tensors
    }


def fused(parts: Parts) -> Parts:
    """Queries, keys and values of each layer in one tensor, as llama.cpp's converter does with --fuse-qkv."""
    old, new = tensors_of(parts), []
    for name, tensor in old.items():
        if ".attn_q." in name:
            three = [old[name.replace("attn_q", f"attn_{part}")] for part in "qkv"]
            rows = sum(shape[-1] for _, shape, _, _ in three)
            raw = b"".join(raw for *_, raw in three)
            new.append((name.replace("attn_q", "attn_qkv"), (*tensor[1][:-1], rows), tensor[2], raw))
        elif ".attn_k." not in name and ".attn_v." not in name:
            new.append(tensor)
    return with_tensors(parts, new)


def of_types(parts: Parts, kinds: dict[str, BlockType]) -> Parts:
    """The matrices whose names end so in these types, as llama.cpp quantizes them."""
    tensors = []
    for name, (_, shape, kind, raw) in tensors_of(parts).items():
        new = next((kinds[ending] for ending in kinds if name.endswith(ending)), None)
        if new is not None:
            kind, raw = new.ggml_id, ggml.encoded(np.frombuffer(raw, "<f4").reshape(-1, shape[0]), new).tobytes()
        tensors.append((name, shape, kind, raw))
    return with_tensors(parts, tensors)


def write_parts(parts: Parts, folder: Path, count: int = 3, stem: str = "model") -> list[Path]:
    """The model in so many files, the header in the first, as llama-gguf-split writes them."""
    tensors = list(tensors_of(parts).values())
    size = -(-len(tensors) // count)
    paths = []
    for number in range(count):
        metadata = dict(parts.metadata) if number == 0 else {}
        metadata |= {
            "split.no": ((2,), number), "split.count": ((2,), count), "split.tensors.count": ((5,), len(tensors)),
        }  # fmt: skip
        some = with_tensors(replace(parts, metadata=metadata), tensors[number * size : (number + 1) * size])
        paths.append(folder / f"{stem}-{number + 1:05d}-of-{count:05d}.gguf")
        paths[-1].write_bytes(some.as_bytes())
    return paths


def without_vocabulary(parts: Parts) -> Parts:
    """The model as converters write it that skip the tokenizer."""
    metadata = {key: value for key, value in parts.metadata.items() if not key.startswith("tokenizer.")}
    return replace(parts, metadata=metadata | {"tokenizer.ggml.model": ((STRING,), "none")})
