"""Where each canonical parameter lies in a file: which tensor, and which of its rows.

Most parameters are a tensor of their own. Some files stack several: Phi-3's queries, keys and values are the rows of
one tensor, and GGUF keeps all experts' matrices in one with three dimensions. A map lists canonical patterns → tensor
patterns ({i} the layer, {e} the expert or residual stream); parameters that go to the same tensor are stacked in the
order in which data meets them. Everything else, sizes and the reverse included, follows from that.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

from smidgen.model.config import ModelConfig
from smidgen.model.parameters import Shape, parameter_shapes, split_block_name


@dataclass(frozen=True)
class Place:
    """Rows start … start+rows-1 of a tensor, seen as a matrix (a vector counts its elements)."""

    tensor: str
    start: int
    rows: int


class Layout:
    """The tensors of one model in one kind of file.

    places: canonical name → where it lies.  shapes: tensor → its shape in the file.
    members: tensor → the canonical names stacked in it, in order.
    """

    def __init__(self, config: ModelConfig, patterns: Mapping[str, str]) -> None:
        self.places: dict[str, Place] = {}
        self.members: dict[str, list[str]] = {}
        self.shapes: dict[str, Shape] = {}
        self._parameters = parameter_shapes(config)
        filled: dict[str, int] = {}
        for name, shape in self._parameters.items():
            tensor = tensor_name(name, patterns)
            start = filled.get(tensor, 0)
            self.places[name] = Place(tensor, start, shape[0])
            self.members.setdefault(tensor, []).append(name)
            filled[tensor] = start + shape[0]
        for tensor, names in self.members.items():
            self.shapes[tensor] = self._stacked_shape(names, filled[tensor])

    def _stacked_shape(self, names: list[str], rows: int) -> Shape:
        first = self._parameters[names[0]]
        numbered = len({pattern_of(name)[2] for name in names})
        return (numbered, rows // numbered, *first[1:]) if numbered > 1 else (rows, *first[1:])

    @cached_property
    def stacked(self) -> set[str]:
        """Canonical names that share a tensor with others."""
        return {name for names in self.members.values() if len(names) > 1 for name in names}


def unread_tensors(config: ModelConfig, patterns: Mapping[str, str]) -> dict[int, list[str]]:
    """Layer that reads keys and values of an earlier one → its own, which files may carry and nobody reads."""
    parts = ("key.weight", "value.weight", "key_norm.weight", "key.bias", "value.bias")
    names = [patterns[pattern] for part in parts if (pattern := f"blocks.{{i}}.attention.{part}") in patterns]
    borrowers = [index for index, layer in enumerate(config.layers) if layer.borrows is not None]
    return {index: [name.replace("{i}", str(index)) for name in names] for index in borrowers}


def tensor_name(name: str, patterns: Mapping[str, str]) -> str:
    """Canonical name → tensor. Raises KeyError for names that the map does not have."""
    pattern, layer, expert = pattern_of(name)
    return patterns[pattern].replace("{i}", str(layer)).replace("{e}", str(expert))


def pattern_of(name: str) -> tuple[str, int, int]:
    """`"blocks.3.experts.2.gate.weight"` → `("blocks.{i}.experts.{e}.gate.weight", 3, 2)`; 0 for no number.

    The second number is an expert's, or that of a residual stream.
    """
    split = split_block_name(name)
    if split is None:
        module, number, rest = (*name.split(".", 2), "")[:3]
        return (f"{module}.{{e}}.{rest}", 0, int(number)) if number.isdigit() else (name, 0, 0)
    layer, inner = split
    parts = inner.split(".")
    if parts[0] == "experts" and parts[1].isdigit():
        return f"blocks.{{i}}.experts.{{e}}.{'.'.join(parts[2:])}", layer, int(parts[1])
    return f"blocks.{{i}}.{inner}", layer, 0
