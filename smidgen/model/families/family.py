"""What a model family is to smidgen: maps between files and the one decoder, and nothing that computes.

A family says which metadata becomes which field of `ModelConfig`, what each parameter is called in a file, and whether
its rows stand in another order there. Maps for other file formats are further fields of the same dataclass.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

import numpy as np

from smidgen.errors import BadFile, Unsupported
from smidgen.model.config import LayerConfig, ModelConfig
from smidgen.model.families.keys import Keys
from smidgen.model.parameters import Shape, split_block_name

Rows = TypeVar("Rows")  # a torch tensor or numpy array whose first dimension is the weight's rows, packed or not

#: llama.cpp's tensor names that most families share (gguf-py's tensor_mapping lists them). {i} is the layer.
COMMON_GGUF_NAMES = {
    "embedding.weight": "token_embd.weight",
    "final_norm.weight": "output_norm.weight",
    "head.weight": "output.weight",
    "blocks.{i}.attention_norm.weight": "blk.{i}.attn_norm.weight",
    "blocks.{i}.attention.query.weight": "blk.{i}.attn_q.weight",
    "blocks.{i}.attention.key.weight": "blk.{i}.attn_k.weight",
    "blocks.{i}.attention.value.weight": "blk.{i}.attn_v.weight",
    "blocks.{i}.attention.output.weight": "blk.{i}.attn_output.weight",
    "blocks.{i}.feed_forward_norm.weight": "blk.{i}.ffn_norm.weight",
    "blocks.{i}.feed_forward.gate.weight": "blk.{i}.ffn_gate.weight",
    "blocks.{i}.feed_forward.up.weight": "blk.{i}.ffn_up.weight",
    "blocks.{i}.feed_forward.down.weight": "blk.{i}.ffn_down.weight",
}

#: Keys that change nothing in what the decoder computes.
COMMON_IGNORED_KEYS = frozenset(
    {
        "tensor_data_layout",  # of a converter long gone
        "rope.scaling.original_context_length",  # meaningful for yarn alone, which is refused
        "rope.scaling.finetuned",
    }
)


@dataclass(frozen=True)
class Transform:
    """How a weight's rows in the model stand to those in the file; rows only move, so packed bytes work too.

    order: model row r is file row order[r]; None when they stand alike.
    """

    order: np.ndarray | None = None

    def to_model(self, rows: Rows) -> Rows:
        """Rows in the file's order → the model's."""
        return rows if self.order is None else rows[self.order]  # type: ignore[index]

    def to_file(self, rows: Rows) -> Rows:
        """Rows in the model's order → the file's."""
        return rows if self.order is None else rows[np.argsort(self.order)]  # type: ignore[index]


@dataclass(frozen=True)
class Family:
    """One family's maps.

    name: `ModelConfig.family`.  gguf_architecture: `general.architecture` of its GGUF files.
    configure: metadata keys, number of vocabulary rows and whether the head is tied → configuration.
    ignored_gguf_keys: keys that change nothing.  neutral_gguf_keys: features that the decoder lacks → the value that
    leaves them off; any other value is refused.
    gguf_names: canonical name → name in the file, {i} for the layer.
    gguf_row_orders: canonical name → layer → `Transform.order`.
    refused_gguf_tensors: tensor in the file → why it is refused (any tensor not mapped is refused as well).
    """

    name: str
    gguf_architecture: str
    configure: Callable[[Keys, int, bool], ModelConfig]
    gguf_names: Mapping[str, str]
    ignored_gguf_keys: frozenset[str] = COMMON_IGNORED_KEYS
    neutral_gguf_keys: Mapping[str, Any] = field(default_factory=dict)
    gguf_row_orders: Mapping[str, Callable[[LayerConfig], np.ndarray]] = field(default_factory=dict)
    refused_gguf_tensors: Mapping[str, str] = field(default_factory=dict)

    def config_from_gguf(self, metadata: Mapping[str, Any], shapes: Mapping[str, Shape]) -> ModelConfig:
        """The configuration that a file describes; `shapes` are its tensors' (rows, columns).

        Raises BadFile for missing, mistyped or absurd values, Unsupported for features that the decoder lacks.
        """
        for tensor, reason in self.refused_gguf_tensors.items():
            if tensor in shapes:
                raise Unsupported(f"tensor {tensor}: {reason}")
        keys = Keys(metadata, self.gguf_architecture)
        vocabulary = _vocabulary(keys, metadata, shapes, self.gguf_names["embedding.weight"])
        config = self.configure(keys, vocabulary, self.gguf_names["head.weight"] not in shapes)
        for key, neutral in self.neutral_gguf_keys.items():
            if (found := keys.value(key)) is not None and found != neutral:
                raise Unsupported(
                    f"metadata key {self.gguf_architecture}.{key} is {found!r}; smidgen only does models without it yet"
                )
        unknown = [key for key in keys.unread() if key not in self.ignored_gguf_keys]
        if unknown:
            names = ", ".join(f"{self.gguf_architecture}.{key}" for key in unknown[:5])
            raise Unsupported(
                f"unknown metadata {names}: smidgen will not guess what it changes; use a model without it"
            )
        return config

    def gguf_name(self, name: str) -> str:
        """Canonical name → name in a GGUF file. Raises KeyError for names that the family does not have."""
        pattern, index = _pattern(name)
        return self.gguf_names[pattern].replace("{i}", str(index))

    def canonical_name(self, gguf_name: str) -> str:
        """The reverse of `gguf_name`, derived from the same map. Raises KeyError for names outside it."""
        parts = gguf_name.split(".", 2)
        if parts[0] != "blk" or len(parts) < 3:
            return self._canonical[gguf_name]
        return self._canonical[f"blk.{{i}}.{parts[2]}"].replace("{i}", parts[1])

    def transform(self, name: str, config: ModelConfig) -> Transform:
        """How the rows of a canonical parameter move between the model and a GGUF file."""
        pattern, index = _pattern(name)
        if (order := self.gguf_row_orders.get(pattern)) is None:
            return Transform()
        return Transform(order(config.layers[index]))

    @property
    def _canonical(self) -> dict[str, str]:
        return {there: here for here, there in self.gguf_names.items()}


def _pattern(name: str) -> tuple[str, int]:
    """`"blocks.3.x"` → `("blocks.{i}.x", 3)`; other names stay, with index 0."""
    split = split_block_name(name)
    return (name, 0) if split is None else (f"blocks.{{i}}.{split[1]}", split[0])


def _vocabulary(keys: Keys, metadata: Mapping[str, Any], shapes: Mapping[str, Shape], embedding: str) -> int:
    """Rows of the embedding, which the tokenizer's list and the key `vocab_size` must agree with."""
    if len(shapes.get(embedding, ())) != 2:
        raise BadFile(f"the file has no matrix {embedding}; get a complete GGUF of this model")
    rows = shapes[embedding][0]
    tokens = metadata.get("tokenizer.ggml.tokens")
    if tokens is not None and len(tokens) != rows:
        raise BadFile(f"{embedding} has {rows} rows but the tokenizer lists {len(tokens)} tokens; the file is damaged")
    if keys.integer("vocab_size", rows, most=2**31) != rows:
        raise BadFile(f"{embedding} has {rows} rows but {keys.architecture}.vocab_size differs; the file is damaged")
    return rows


def head_width(keys: Keys, hidden: int, heads: tuple[int, ...]) -> int:
    """Width of a head: `attention.key_length`, else hidden / heads. Values and rotary dimensions must be as wide."""
    if hidden % heads[0] and "attention.key_length" not in keys:
        raise BadFile(f"hidden width {hidden} is not divisible by {heads[0]} heads; the file is damaged or not a model")
    width = keys.integer("attention.key_length", max(1, hidden // heads[0]), most=2**14)
    for key in ("attention.value_length", "rope.dimension_count"):
        if (other := keys.integer(key, width, most=2**14)) != width:
            raise Unsupported(
                f"{keys.architecture}.{key} is {other} but heads are {width} wide; smidgen needs them equal for now"
            )
    if width % 2:
        raise BadFile(f"heads are {width} wide but rotary embedding needs an even width; the file is damaged")
    return width


def grouped_heads(keys: Keys, layers: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Query heads and key/value heads of each layer."""
    heads = keys.per_layer("attention.head_count", layers)
    kv_heads = keys.per_layer("attention.head_count_kv", layers, heads)
    for query, kv in zip(heads, kv_heads, strict=True):
        if query % kv:
            raise BadFile(f"{query} heads do not divide into {kv} key/value heads; the file is damaged or not a model")
    return heads, kv_heads


def linear_rope_scale(keys: Keys) -> float:
    """What positions are divided by: 1 unless linear scaling is on. Raises Unsupported for other kinds of scaling."""
    kind = keys.text("rope.scaling.type", "linear")
    if kind not in ("none", "linear"):
        raise Unsupported(f"rope scaling {kind!r}: smidgen does none and linear so far; use a model without it")
    old_key = keys.number("rope.scale_linear", 0.0, zero=True)
    factor = keys.number("rope.scaling.factor", old_key, zero=True)
    return factor if kind == "linear" and factor else 1.0
