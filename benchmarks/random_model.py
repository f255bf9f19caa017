"""Writes a GGUF file of a real model's shape with random weights, for benchmarks of time and memory.

    python -m benchmarks.random_model gemma-2-2b model.gguf [--blocks 4] [--vocabulary 2000] [--type Q4_0]
        [--text text.txt]

Nothing in such a model means anything, but every product and every byte is as large as in the real one. Weights are
normally distributed with variance 1/columns, so that activations keep their size through the blocks; norms are 1. Of
the last norm, every other is -1: else a head that is the embedding would find the token again that it was given, and a
model of few blocks would write that one for ever. What it writes is spread over all tokens.

The vocabulary is SentencePiece's kind: bytes, letters, some Chinese characters, syllables, and words that are merged
from earlier tokens, with and without the space before them. The text is random too, of frequent and rare tokens.

Some rows of one tensor are in memory at a time.
"""

import argparse
import json
import math
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from gguf import GGMLQuantizationType
from gguf.quants import quantize

from smidgen.formats.gguf.writer import TensorPlan, gguf_types, write_gguf
from smidgen.model.config import ModelConfig
from smidgen.model.families import FAMILIES
from smidgen.model.families.facts import Facts, all_but_each, configure
from smidgen.model.rope_scaling import ProportionalScaling
from smidgen.numerics.block_types import F16, F32, Q4_0, Q8_0, BlockType
from smidgen.progress import track

_UINT32, _INT32, _FLOAT32, _STRING, _ARRAY = 4, 5, 6, 8, 9
_NORMAL, _UNKNOWN, _CONTROL, _BYTE = 1, 2, 3, 6  # types of tokens
_SPECIAL = ("<pad>", "</s>", "<s>", "<unk>")
_CHINESE = range(0x4E00, 0x9FFF)
_CONSONANTS, _VOWELS = "bcdfghjklmnpqrstvwxz", "aeiouy"
_SPACE = "▁"
_LONGEST = 16  # characters of a token
_ROWS_AT_ONCE = 4096
_LINE = 20
_TYPES = {kind.name: kind for kind in (F16, Q4_0, Q8_0)}


@dataclass(frozen=True)
class Shape:
    """What the file says of the model. more: further keys of the architecture, floats and whole numbers.

    Of Gemma 4, `more` has the fields of `Facts` that the others leave out (`_gemma4`).
    """

    architecture: str
    hidden: int
    blocks: int
    heads: int
    kv_heads: int
    head_dim: int
    ffn_width: int
    vocabulary: int
    context: int
    epsilon: float
    tied: bool
    post_norms: bool
    more: dict[str, int | float]


SHAPES = {
    "gemma-2-2b": Shape(
        "gemma2", 2304, 26, 8, 4, 256, 9216, 256_000, 8192, 1e-6, tied=True, post_norms=True,
        more={
            "attention.sliding_window": 4096, "attn_logit_softcapping": 50.0, "final_logit_softcapping": 30.0,
        },
    ),
    "mistral-7b": Shape(
        "llama", 4096, 32, 32, 8, 128, 14336, 32_000, 8192, 1e-5, tied=False, post_norms=False,
        more={"rope.dimension_count": 128, "rope.freq_base": 10_000.0},
    ),
    "gemma-4-e2b": Shape(
        "gemma4", 1536, 35, 8, 1, 512, 6144, 262_144, 131_072, 1e-6, tied=True, post_norms=True,
        more={"local_head_dim": 256, "window": 512, "layer_input": 256, "logit_cap": 30.0},
    ),
}  # fmt: skip
_WIDE_EVERY, _SHARING = 5, 20 / 35  # of the layers of Gemma 4 E2B


def _gemma4(shape: Shape) -> ModelConfig:
    """The configuration as published: layers that share keys and values have feed-forward networks twice as wide."""
    more: dict[str, Any] = dict(shape.more)
    shared = round(shape.blocks * _SHARING / _WIDE_EVERY) * _WIDE_EVERY
    first = shape.blocks - shared
    widths = tuple(shape.ffn_width * (2 if layer >= first else 1) for layer in range(shape.blocks))
    facts = Facts(
        layers=shape.blocks, hidden=shape.hidden, vocabulary=shape.vocabulary, heads=(shape.heads,) * shape.blocks,
        kv_heads=(shape.kv_heads,) * shape.blocks, head_dim=shape.head_dim, ffn_widths=widths, epsilon=shape.epsilon,
        context_length=shape.context, tied_head=shape.tied, rope_base=1e6, rotary_width=shape.head_dim,
        rope_scaling=ProportionalScaling(0.25), query_width=1.0, local=all_but_each(_WIDE_EVERY)(shape.blocks),
        rotates=(True,) * shape.blocks, local_rope_base=1e4, layer_input_rows=shape.vocabulary, shared=shared, **more,
    )  # fmt: skip
    return configure("gemma4", FAMILIES["gemma4"].traits, facts)


def _given(shape: Shape) -> dict[str, np.ndarray]:
    """Vectors that belong to the configuration, by tensor."""
    return FAMILIES["gemma4"].to_gguf(_gemma4(shape))[1] if shape.architecture == "gemma4" else {}


def tensors(shape: Shape) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Names and (rows, columns) in llama.cpp's order; vectors are norms."""
    if shape.architecture == "gemma4":
        yield from ((name, vector.shape) for name, vector in _given(shape).items())
        yield from FAMILIES["gemma4"].gguf_layout(_gemma4(shape)).shapes.items()
        return
    yield "token_embd.weight", (shape.vocabulary, shape.hidden)
    queries, keys = shape.heads * shape.head_dim, shape.kv_heads * shape.head_dim
    for index in range(shape.blocks):
        parts: dict[str, tuple[int, ...]] = {
            "attn_norm": (shape.hidden,), "attn_q": (queries, shape.hidden), "attn_k": (keys, shape.hidden),
            "attn_v": (keys, shape.hidden), "attn_output": (shape.hidden, queries), "ffn_norm": (shape.hidden,),
            "ffn_gate": (shape.ffn_width, shape.hidden), "ffn_up": (shape.ffn_width, shape.hidden),
            "ffn_down": (shape.hidden, shape.ffn_width),
        }  # fmt: skip
        if shape.post_norms:
            parts |= {"post_attention_norm": (shape.hidden,), "post_ffw_norm": (shape.hidden,)}
        yield from ((f"blk.{index}.{name}.weight", size) for name, size in parts.items())
    yield "output_norm.weight", (shape.hidden,)
    if not shape.tied:
        yield "output.weight", (shape.vocabulary, shape.hidden)


@cache
def vocabulary(size: int) -> tuple[list[str], np.ndarray]:
    """Tokens and their types."""
    chinese = map(chr, _CHINESE[: size // 16])
    single = [f"<0x{byte:02X}>" for byte in range(256)] + [_SPACE, *map(chr, range(33, 127)), *chinese]
    tokens = [*_SPECIAL, *single][:size]
    tokens += _merged(size - len(tokens))
    kinds = np.full(size, _NORMAL, dtype=np.int32)
    kinds[:3], kinds[3], kinds[4:260] = _CONTROL, _UNKNOWN, _BYTE
    return tokens, kinds


def _merged(wanted: int) -> list[str]:
    """Syllables and words, each of two earlier tokens; the more frequent, the earlier."""
    syllables = [consonant + vowel for consonant in _CONSONANTS for vowel in _VOWELS]
    tokens = [*(_SPACE + syllable for syllable in syllables), *syllables][:wanted]
    ends, found = [token for token in tokens if token[0] != _SPACE], set(tokens)
    draws = np.random.default_rng(0)
    while len(tokens) < wanted:
        for first, second in (draws.random((_ROWS_AT_ONCE, 2)) ** 2).tolist():
            word = tokens[int(first * len(tokens))] + ends[int(second * len(ends))]
            if len(word) <= _LONGEST and word not in found:
                found.add(word)
                tokens.append(word)
                if word[0] != _SPACE:
                    ends.append(word)
    return tokens[:wanted]


def metadata(shape: Shape) -> tuple[dict[str, Any], dict[str, tuple[int, ...]]]:
    """Everything in the header, and the value types."""
    own: dict[str, int | float] = {
        "context_length": shape.context, "embedding_length": shape.hidden, "block_count": shape.blocks,
        "feed_forward_length": shape.ffn_width, "attention.head_count": shape.heads,
        "attention.head_count_kv": shape.kv_heads, "attention.key_length": shape.head_dim,
        "attention.value_length": shape.head_dim, "attention.layer_norm_rms_epsilon": shape.epsilon, **shape.more,
    }  # fmt: skip
    tokens, kinds = vocabulary(shape.vocabulary)
    values: dict[str, Any] = {"general.architecture": shape.architecture, "general.name": "random weights"}
    if shape.architecture == "gemma4":
        values |= FAMILIES["gemma4"].to_gguf(_gemma4(shape))[0]
    else:
        values |= {f"{shape.architecture}.{key}": value for key, value in own.items()}
    values |= {
        "tokenizer.ggml.model": "llama", "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.scores": -np.arange(len(tokens), dtype=np.float32), "tokenizer.ggml.token_type": kinds,
        "tokenizer.ggml.bos_token_id": 2, "tokenizer.ggml.eos_token_id": 1, "tokenizer.ggml.unknown_token_id": 3,
    }  # fmt: skip
    types = {key: gguf_types(value) for key, value in values.items() if not isinstance(value, np.ndarray)}
    types |= {
        "tokenizer.ggml.tokens": (_ARRAY, _STRING),
        "tokenizer.ggml.scores": (_ARRAY, _FLOAT32),
        "tokenizer.ggml.token_type": (_ARRAY, _INT32),
    }
    return values, types


def write(shape: Shape, destination: Path, seed: int = 0, kind: BlockType = F16) -> None:
    """The file. kind: of its matrices."""
    plans = [TensorPlan(name, size, F32 if len(size) == 1 else kind) for name, size in tensors(shape)]
    sizes, given = {plan.name: plan.shape for plan in plans}, _given(shape)
    with track("random weights", len(plans)) as task:

        def packed(name: str) -> Iterator[np.ndarray]:
            task.advance()
            size = sizes[name]
            if len(size) == 1:
                norm = given.get(name, np.ones(size, dtype=np.float32)).reshape(1, -1).copy()
                if name == "output_norm.weight":
                    norm[:, ::2] = -1
                yield norm.view(np.uint8)
                return
            generator = np.random.default_rng([seed, zlib.crc32(name.encode())])
            for start in range(0, size[0], _ROWS_AT_ONCE):
                drawn = generator.standard_normal((min(_ROWS_AT_ONCE, size[0] - start), size[1]), dtype=np.float32)
                yield _stored(drawn * np.float32(size[1] ** -0.5), kind)

        write_gguf(destination, *metadata(shape), plans, packed)


def _stored(weights: np.ndarray, kind: BlockType) -> np.ndarray:
    """Rounded to a type as the gguf package does it, which is good enough for time and memory."""
    if kind is F16:
        return weights.astype(np.float16).view(np.uint8)
    return quantize(weights, GGMLQuantizationType[kind.name])


def text(tokens: int, shape: Shape, seed: int = 0) -> str:
    """Lines of tokens, about as many as asked for; frequent ones and rare ones."""
    known, _ = vocabulary(shape.vocabulary)
    words = known[len(_SPECIAL) + 256 :]
    ranks = np.random.default_rng(seed).random(tokens) ** 3 * len(words)
    drawn = [words[int(rank)] for rank in ranks]
    lines = ("".join(drawn[start : start + _LINE]).replace(_SPACE, " ") for start in range(0, tokens, _LINE))
    return "\n".join(line.strip() for line in lines) + "\n"


def main(arguments: Sequence[str] | None = None) -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("shape", choices=SHAPES)
    parser.add_argument("destination", type=Path, help="the GGUF file to write")
    parser.add_argument("--blocks", type=int, help="instead of the real number")
    parser.add_argument("--vocabulary", type=int, help="instead of the real size")
    parser.add_argument("--type", choices=_TYPES, default="F16", help="of the matrices")
    parser.add_argument("--text", type=Path, help="a text file to write as well")
    parser.add_argument("--tokens", type=int, default=4096, help="of the text")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    shape = SHAPES[options.shape]
    shape = replace(shape, blocks=options.blocks or shape.blocks, vocabulary=options.vocabulary or shape.vocabulary)
    if not options.destination.exists():
        write(shape, options.destination, options.seed, _TYPES[options.type])
    if options.text:
        options.text.write_text(text(options.tokens, shape, options.seed), encoding="utf-8", newline="")
    weights = sum(math.prod(size) for _, size in tensors(shape))
    print(json.dumps({**asdict(shape), "parameters": weights, "bytes": options.destination.stat().st_size}))


if __name__ == "__main__":
    main()
