"""Tiny real GGUF files whose metadata says something else than before, and which our checks let through.

Bytes changed at random (tests/formats/gguf/test_fuzz.py) seldom give a file that is sound as GGUF. Here the header is
taken apart first: values become other values of the same or another type, keys go, keys come that llama.cpp would read,
tokens and tensors change. What our checks refuse is dropped; what is left is for the engine, which must neither end nor
hang whatever it makes of it. Seeded: the same seed gives the same files.
"""

import random
import struct
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from smidgen.errors import SmidgenError
from smidgen.formats.gguf.contents import refuse_damaged
from smidgen.formats.gguf.reader import GGUFFile
from tests import tiny_models

BOOL, STRING, ARRAY = 7, 8, 9
FORMS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
WHOLE = {0: (0, 255), 1: (-128, 127), 2: (0, 2**16 - 1), 3: (-(2**15), 2**15 - 1), 4: (0, 2**32 - 1),
         5: (-(2**31), 2**31 - 1), 10: (0, 2**64 - 1), 11: (-(2**63), 2**63 - 1)}  # fmt: skip

NUMBERS = (0, 1, 2, 3, 4, 5, 7, 8, 15, 16, 17, 31, 32, 33, 63, 64, 96, 128, 255, 256, 299, 300, 301, 511, 512, 513,
           4096, 2**15, 2**16, 2**20, 2**24, 2**31 - 1, 2**31, 2**32 - 2, 2**32 - 1, -1, -2)  # fmt: skip
FRACTIONS = (0.0, -0.0, 1.0, -1.0, 0.5, 1e-38, 1e-6, 1e6, 1e30, 3e38, float("inf"), float("-inf"), float("nan"))
TEXTS = (
    "", " ", "a", "\n", "\0", "none", "no_vocab", "llama", "gpt2", "bert", "t5", "rwkv", "plamo2", "default",
    "llama-bpe", "qwen2", "gpt-4o", "tekken", "linear", "yarn", "longrope", "a b", "[EMPTY_5]", "<0x0A>", "<0x41>", "▁",
    "<|im_end|>", "é", "日本", "x" * 5000, "{{ messages }}", "adapter", "mmproj",
)  # fmt: skip
TYPED = {4: NUMBERS, 6: FRACTIONS, 7: (False, True), 8: TEXTS}

#: Keys that llama.cpp reads where they are there, with the type it wants; {a} stands for the architecture.
MORE_KEYS = {
    **{f"tokenizer.ggml.{name}_token_id": 4 for name in (
        "bos", "eos", "eot", "eom", "unknown", "separator", "seperator", "padding", "mask", "cls", "prefix", "suffix",
        "middle", "fim_pre", "fim_suf", "fim_mid", "fim_pad", "fim_rep", "fim_sep")},
    **{f"tokenizer.ggml.{name}": 7 for name in (
        "add_bos_token", "add_eos_token", "add_sep_token", "add_space_prefix", "remove_extra_whitespaces")},
    "tokenizer.ggml.token_type_count": 4, "tokenizer.ggml.pre": 8, "tokenizer.chat_template": 8, "general.type": 8,
    "general.file_type": 4, "general.quantization_version": 4, "split.count": 2, "split.no": 2,
    "split.tensors.count": 5, "adapter.type": 8,
    **{f"{{a}}.{name}": 4 for name in (
        "vocab_size", "context_length", "embedding_length", "block_count", "feed_forward_length", "expert_count",
        "expert_used_count", "expert_group_count", "expert_group_used_count", "expert_shared_count",
        "leading_dense_block_count", "expert_feed_forward_length", "nextn_predict_layers", "attention.head_count",
        "attention.head_count_kv", "attention.key_length", "attention.value_length", "attention.sliding_window",
        "attention.sliding_window_pattern", "attention.group_norm_groups", "attention.kv_lora_rank",
        "rope.dimension_count", "rope.scaling.original_context_length", "pooling_type", "decoder_start_token_id",
        "deepstack_layer_count", "dense_2_feat_in", "features_length", "embedding_length_out",
        "full_attention_interval", "attention.shared_kv_layers", "rope.dimension_count_swa",
        "attention.key_length_swa")},
    **{f"{{a}}.{name}": 6 for name in (
        "attention.layer_norm_rms_epsilon", "attention.layer_norm_epsilon", "attention.scale", "attention.clamp_kqv",
        "attention.max_alibi_bias", "rope.freq_base", "rope.freq_base_swa", "rope.scaling.factor",
        "rope.scaling.attn_factor", "rope.scale_linear", "rope.scaling.yarn_log_multiplier", "logit_scale",
        "residual_scale", "embedding_scale", "final_logit_softcapping", "attn_logit_softcapping",
        "expert_weights_scale")},
    **{f"{{a}}.{name}": 7 for name in ("attention.causal", "use_parallel_residual", "expert_weights_norm")},
    **{f"{{a}}.{name}": 8 for name in ("rope.scaling.type", "tensor_data_layout")},
}  # fmt: skip


@dataclass
class Parts:
    """A GGUF file taken apart.

    metadata: key → GGUF types and value, a list for arrays.  tensors: name, shape (as in the file), type, offset.
    data: what lies behind the table.
    """

    metadata: dict[str, tuple[tuple[int, ...], Any]]
    tensors: list[tuple[str, tuple[int, ...], int, int]]
    data: bytes
    notes: list[str] = field(default_factory=list)

    def copy(self) -> "Parts":
        """To be changed without changing this one; arrays are replaced, never changed in place."""
        return Parts(dict(self.metadata), list(self.tensors), self.data, [])

    @property
    def architecture(self) -> str:
        return str(self.metadata.get("general.architecture", ((STRING,), "llama"))[1])

    def as_bytes(self) -> bytes:
        """The file, its tensors aligned to 32 bytes."""
        pairs = b"".join(_text(key) + _value(types, value) for key, (types, value) in self.metadata.items())
        table = b"".join(
            _text(name) + struct.pack(f"<I{len(shape)}QIQ", len(shape), *shape, kind, offset)
            for name, shape, kind, offset in self.tensors
        )
        header = b"GGUF" + struct.pack("<IQQ", 3, len(self.tensors), len(self.metadata)) + pairs + table
        return header + bytes(-len(header) % 32) + self.data


def _text(text: str) -> bytes:
    raw = text.encode("utf-8", "replace")
    return struct.pack("<Q", len(raw)) + raw


def _one(kind: int, value: Any) -> bytes:
    return _text(value) if kind == STRING else struct.pack(f"<{FORMS[kind]}", value)


def _value(types: tuple[int, ...], value: Any) -> bytes:
    if types[0] != ARRAY:
        return struct.pack("<I", types[0]) + _one(types[0], value)
    return struct.pack("<IIQ", ARRAY, types[1], len(value)) + b"".join(_one(types[1], one) for one in value)


def take_apart(path: Path) -> Parts:
    """A file that is sound, as its parts."""
    with GGUFFile.open(path) as file:
        metadata = {
            key: (file.metadata_types[key], value.tolist() if isinstance(value, np.ndarray) else value)
            for key, value in file.metadata.items()
        }
        start = min(info.offset for info in file.tensors.values())
        tensors = [
            (info.name, tuple(reversed(info.shape)), info.kind.ggml_id, info.offset - start)
            for info in file.tensors.values()
        ]
    return Parts(metadata, tensors, path.read_bytes()[start:])


# -- what is changed ---------------------------------------------------------------------------------------------------

Change = Callable[[Parts, random.Random], None]


def _some(kind: int, draw: random.Random) -> Any:
    """A value of a type, mostly one at which something changes."""
    if kind in WHOLE:
        least, most = WHOLE[kind]
        return max(least, min(most, draw.choice(NUMBERS)))
    return draw.choice(FRACTIONS if kind in (6, 12) else TYPED[kind])


def another_value(parts: Parts, draw: random.Random) -> None:
    """Of the same type: a number near the old one or a special one, an array with some elements changed."""
    key = draw.choice(list(parts.metadata))
    types, value = parts.metadata[key]
    if types[0] == ARRAY:
        another_array(parts, key, draw)
    elif types[0] in WHOLE and draw.random() < 0.5:
        least, most = WHOLE[types[0]]
        near = draw.choice([value - 1, value + 1, value * 2, value // 2, -value])
        parts.metadata[key] = types, max(least, min(most, near))
    else:
        parts.metadata[key] = types, _some(types[0], draw)
    parts.notes.append(f"{key} = {str(parts.metadata[key][1])[:60]!r}")


def another_array(parts: Parts, key: str, draw: random.Random) -> None:
    """Elements changed, doubled, dropped, moved, or none left."""
    types, old = parts.metadata[key]
    value = list(old)
    match draw.randrange(7):
        case 0:
            value = value[: draw.randrange(len(value) + 1)]
        case 1:
            value = [*value, *(_some(types[1], draw) for _ in range(draw.randrange(1, 5)))]
        case 2:
            value = []
        case 3 if value:
            value[draw.randrange(len(value))] = value[draw.randrange(len(value))]
        case 4:
            draw.shuffle(value)
        case _ if value:
            for _ in range(draw.choice([1, 1, 3, 50])):
                value[draw.randrange(len(value))] = _some(types[1], draw)
        case _:
            pass
    parts.metadata[key] = types, value


def another_type(parts: Parts, draw: random.Random) -> None:
    """Also arrays where there was one value, which llama.cpp takes for one value a layer."""
    key = draw.choice(list(parts.metadata))
    kind = draw.choice([4, 5, 6, 7, 8, 10, 11])
    if draw.random() < 0.5:
        count = draw.choice([0, 1, 3, 4, 5, 64, 512])
        parts.metadata[key] = (ARRAY, kind), [_some(kind, draw) for _ in range(count)]
    else:
        parts.metadata[key] = (kind,), _some(kind, draw)
    parts.notes.append(f"{key} of type {parts.metadata[key][0]}")


def a_key_less(parts: Parts, draw: random.Random) -> None:
    key = draw.choice(list(parts.metadata))
    del parts.metadata[key]
    parts.notes.append(f"without {key}")


def a_key_more(parts: Parts, draw: random.Random) -> None:
    pattern, kind = draw.choice(list(MORE_KEYS.items()))
    key = pattern.replace("{a}", parts.architecture)
    parts.metadata[key] = (kind,), _some(kind, draw)
    parts.notes.append(f"{key} = {str(parts.metadata[key][1])[:60]!r}")


def another_tensor(parts: Parts, draw: random.Random) -> None:
    """A tensor less, under another name, of another shape or type; the bytes stay where they are."""
    place = draw.randrange(len(parts.tensors))
    name, shape, kind, offset = parts.tensors[place]
    match draw.randrange(4):
        case 0:
            del parts.tensors[place]
        case 1:
            other = draw.choice(["token_types.weight", "rope_freqs.weight", "output.bias", f"{name}.lora_a"])
            parts.tensors[place] = draw.choice([other, name.replace("blk.0", "blk.9")]), shape, kind, offset
        case 2:
            parts.tensors[place] = name, tuple(reversed(shape)), kind, offset
        case _:
            shape = (max(1, shape[0] + draw.choice([-32, -1, 1])), *shape[1:])
            parts.tensors[place] = name, shape, draw.choice([kind, kind, 1, 8, 24, 26, 30]), offset
    parts.notes.append(f"tensor {name} changed")


CHANGES: tuple[Change, ...] = (
    another_value, another_value, another_value, another_type, a_key_less, a_key_more, a_key_more, another_tensor,
)  # fmt: skip


# -- what it starts from -----------------------------------------------------------------------------------------------


def _byte_level(parts: Parts) -> Parts:
    """The same model with another kind of tokenizer, of as many tokens."""
    from smidgen.model.tokenizers.byte_level import BYTE_CHARACTERS

    count = tiny_models.VOCABULARY
    texts = [*BYTE_CHARACTERS, "ab", "Ġa", "Ġab", "abc"]
    texts += [f"<|{place}|>" for place in range(len(texts), count)]
    changed = parts.copy()
    changed.metadata |= {
        "tokenizer.ggml.model": ((STRING,), "gpt2"),
        "tokenizer.ggml.pre": ((STRING,), "llama-bpe"),
        "tokenizer.ggml.tokens": ((ARRAY, STRING), texts),
        "tokenizer.ggml.merges": ((ARRAY, STRING), ["a b", "Ġ a", "Ġa b", "ab c"]),
        "tokenizer.ggml.token_type": ((ARRAY, 5), [1] * 260 + [3] * (count - 260)),
        "tokenizer.ggml.bos_token_id": ((4,), 261),
        "tokenizer.ggml.eos_token_id": ((4,), 262),
    }
    del changed.metadata["tokenizer.ggml.scores"]
    return changed


def renamed(parts: Parts, architecture: str) -> Parts:
    """The same model under the name of another architecture."""
    changed = parts.copy()
    before = f"{parts.architecture}."
    changed.metadata = {
        f"{architecture}.{key.removeprefix(before)}" if key.startswith(before) else key: value
        for key, value in parts.metadata.items()
    }
    changed.metadata["general.architecture"] = ((STRING,), architecture)
    return changed


def mixture(parts: Parts) -> Parts:
    """The same model with four experts in each layer, two for each token; their weights are those of the first."""
    changed = parts.copy()
    changed.metadata |= {"llama.expert_count": ((4,), 4), "llama.expert_used_count": ((4,), 2)}
    changed.tensors = []
    data = parts.data
    for name, shape, kind, offset in parts.tensors:
        if ".ffn_" not in name or "norm" in name:
            changed.tensors.append((name, shape, kind, offset))
            continue
        size = 4 * shape[0] * shape[1]
        changed.tensors.append((name.replace(".weight", "_exps.weight"), (*shape, 4), kind, len(data)))
        data += 4 * parts.data[offset : offset + size]
        if ".ffn_down" in name:
            changed.tensors.append((name.replace("down", "gate_inp"), (shape[1], 4), kind, len(data)))
            data += parts.data[: 4 * 4 * shape[1]]
    order = sorted(changed.tensors, key=lambda tensor: tensor[3])
    packed = b""  # llama.cpp wants tensors one behind the other, in the order of the table
    changed.tensors = []
    for name, shape, kind, offset in order:
        changed.tensors.append((name, shape, kind, len(packed)))
        size = 4 * int(np.prod(shape))
        packed += data[offset : offset + size] + bytes(-size % 32)
    changed.data = packed
    return changed


@cache
def originals() -> tuple[Parts, ...]:
    """Llama with either kind of tokenizer and with experts, Gemma 3, and Llama under names that our decoder lacks."""
    with tempfile.TemporaryDirectory() as folder:
        llama = take_apart(tiny_models.write_llama(Path(folder) / "llama.gguf"))
        gemma3 = take_apart(tiny_models.write_gemma3(Path(folder) / "gemma3.gguf"))
    others = renamed(llama, "internlm2"), renamed(_byte_level(llama), "xverse")
    return llama, _byte_level(llama), gemma3, mixture(llama), *others


def mutated(seed: int) -> Parts:
    """One file with one to three changes, whatever our checks say of it. notes: what was changed."""
    draw = random.Random(seed)
    parts = draw.choice(originals()).copy()
    for _ in range(draw.choice([1, 1, 1, 2, 3])):
        draw.choice(CHANGES)(parts, draw)
    return parts


def passes(raw: bytes, folder: Path) -> bool:
    """Whether a file gets as far as llama.cpp."""
    path = folder / "mutated.gguf"
    path.write_bytes(raw)
    try:
        with GGUFFile.open(path) as file:
            refuse_damaged(file)
    except SmidgenError:
        return False
    return True


def mutations(seed: int, count: int) -> Iterator[bytes]:
    """So many files that pass our checks, about 0.7 MB each, one after the other."""
    with tempfile.TemporaryDirectory() as folder:
        given = 0
        for number in range(20 * count):
            raw = mutated(seed * 1_000_003 + number).as_bytes()
            if given < count and passes(raw, Path(folder)):
                given += 1
                yield raw
