"""The settings that every model has, under the keys of one kind of file: what the maps of both kinds begin with."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from smidgen.model.families.facts import Facts
from smidgen.model.families.keys import LARGEST_INT32, Keys

_MOST_LAYERS = 512  # of llama.cpp, LLAMA_MAX_LAYERS


@dataclass(frozen=True)
class Spelling:
    """Field of `Facts` → the key that a kind of file has for it."""

    layers: str
    hidden: str
    heads: str
    kv_heads: str
    ffn_widths: str
    epsilon: str
    context_length: str

    def read(self, keys: Keys) -> dict[str, Any]:
        """These fields. Raises BadFile for missing, mistyped or absurd values."""
        layers = keys.integer(self.layers, most=_MOST_LAYERS)
        heads = keys.per_layer(self.heads, layers)
        return {
            "layers": layers,
            "hidden": keys.integer(self.hidden),
            "heads": heads,
            "kv_heads": keys.per_layer(self.kv_heads, layers, heads),
            "ffn_widths": keys.per_layer(self.ffn_widths, layers),
            "epsilon": keys.number(self.epsilon),
            "context_length": keys.integer(self.context_length, most=LARGEST_INT32),
        }

    def write(self, facts: Facts, per_layer: Callable[[tuple[int, ...]], int | list[int]]) -> dict[str, Any]:
        """Key → value. per_layer: how this kind of file says a number of each layer."""
        return {
            self.layers: facts.layers,
            self.hidden: facts.hidden,
            self.heads: per_layer(facts.heads),
            self.kv_heads: per_layer(facts.kv_heads),
            self.ffn_widths: per_layer(facts.ffn_widths),
            self.epsilon: facts.epsilon,
            self.context_length: facts.context_length,
        }
