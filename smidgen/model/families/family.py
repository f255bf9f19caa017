"""What a model family is to smidgen: maps between files and the one decoder, and nothing that computes.

A family has its traits (what is in no file), a map for its GGUF files and one for each `model_type` of its folders in
Hugging Face layout. Reading goes file → `Facts` → `ModelConfig`, writing the same way back; whatever is written is read
again and compared, so a configuration that a file format cannot express is refused before any work is done.
"""

import dataclasses
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from smidgen.errors import SmidgenError, Unsupported
from smidgen.model.config import ModelConfig
from smidgen.model.families.facts import Traits, configure, facts_of
from smidgen.model.families.gguf_map import GGUFMap, Tensors
from smidgen.model.families.hf_map import HFMap
from smidgen.model.families.names import Layout, pattern_of


@dataclass(frozen=True)
class Transform:
    """How a parameter in the model stands to the one in a file; rows only move, so packed bytes can move too.

    order: model row r is file row order[r]; None when they stand alike.
    offset: what is added to the file's values to get the model's.
    """

    order: np.ndarray | None = None
    offset: float = 0.0

    def rows_to_file(self, rows: np.ndarray) -> np.ndarray:
        """Rows in the model's order → the file's, packed or not."""
        return rows if self.order is None else rows[np.argsort(self.order)]


@dataclass(frozen=True)
class Family:
    """One family's maps.

    name: `ModelConfig.family`.  gguf: its GGUF files; None where llama.cpp has no such architecture.
    hf: its model types; for writing, the first that has all that a model needs is taken.
    """

    name: str
    traits: Traits
    gguf: GGUFMap
    hf: tuple[HFMap, ...]

    # -- GGUF --------------------------------------------------------------------------------------------------------

    def config_from_gguf(self, metadata: Mapping[str, Any], tensors: Tensors) -> ModelConfig:
        """The configuration that a GGUF file describes.

        Raises BadFile for missing, mistyped or absurd values, Unsupported for features that the decoder lacks.
        """
        return configure(self.name, self.traits, self.gguf.read(metadata, tensors, self.traits))

    def gguf_layout(self, config: ModelConfig) -> Layout:
        """Where each parameter lies in a GGUF file."""
        return Layout(config, self.gguf.names)

    def gguf_transform(self, name: str, config: ModelConfig) -> Transform:
        """How a canonical parameter stands to its rows in a GGUF file."""
        pattern, layer, _ = pattern_of(name)
        order = self.gguf.row_orders.get(pattern)
        return Transform() if order is None else Transform(order(config.layers[layer]))

    def to_gguf(self, config: ModelConfig) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
        """Metadata (without the tokenizer's) and the vectors that belong to it, for a file that we write.

        Raises Unsupported where a GGUF file of this architecture cannot say what the configuration says.
        """
        facts = facts_of(config)
        metadata, vectors = self.gguf.write(facts), self.gguf.extra_tensors(facts)
        shapes = dict(self.gguf_layout(config).shapes) | {name: vector.shape for name, vector in vectors.items()}
        planned = Tensors(shapes, lambda name: tuple(vectors[name].tolist()))
        where = f"GGUF ({self.gguf.architecture})"
        again = _read_again(lambda: self.config_from_gguf(_as_stored(metadata), planned), where)
        refuse_misreading(config, again, where)
        return metadata, vectors

    # -- Hugging Face layout -----------------------------------------------------------------------------------------

    def config_from_hf(self, settings: Mapping[str, Any], written: HFMap) -> ModelConfig:
        """The configuration that a config.json of this model type describes. Raises as `config_from_gguf`."""
        return configure(self.name, self.traits, written.read(settings, self.traits))

    def hf_map(self, config: ModelConfig) -> HFMap:
        """The model type to write a configuration as. Raises Unsupported where none has all that it needs."""
        facts = facts_of(config)
        for one in self.hf:
            if one.fits(facts):
                return one
        raise Unsupported(f"no model type of {self.name} in transformers has all that this model has")

    def to_hf(self, config: ModelConfig) -> dict[str, Any]:
        """config.json. Raises Unsupported where it cannot say what the configuration says."""
        written = self.hf_map(config)
        values = written.write(facts_of(config), self.traits)
        where = f"config.json ({written.model_type})"
        refuse_misreading(config, _read_again(lambda: self.config_from_hf(values, written), where), where)
        return values

    def hf_transform(self, name: str, written: HFMap) -> Transform:
        """How a canonical parameter stands to the one in the folder."""
        return Transform(offset=written.norm_offset if name.endswith("norm.weight") else 0.0)


def refuse_misreading(wanted: ModelConfig, found: ModelConfig, where: str) -> None:
    """Raises Unsupported, naming the first field, where what a reader makes of a file is not the model.

    where: the file, or the reader.
    """
    _refuse_difference(_comparable(wanted), _comparable(found), where)


def _as_stored(metadata: Mapping[str, Any]) -> dict[str, Any]:
    """Numbers as they come back from a file: float32."""
    return {key: float(np.float32(value)) if isinstance(value, float) else value for key, value in metadata.items()}


def _read_again(read: Callable[[], ModelConfig], where: str) -> ModelConfig:
    try:
        return read()
    except SmidgenError as error:
        raise Unsupported(f"{where} cannot say all of this model ({error}); write another format") from error


def _comparable(value: Any) -> Any:
    """A configuration as nested tuples, with rotary scaling by what it does: two ways to write one model are equal."""
    if isinstance(value, tuple):
        return tuple(_comparable(one) for one in value)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return tuple((field.name, _field(value, field.name)) for field in dataclasses.fields(value))
    return value


def _field(owner: Any, name: str) -> Any:
    value = getattr(owner, name)
    if name != "scaling" or value is None:
        return _comparable(value)
    short, long = (value.divisors(owner.base, owner.width, length) for length in (1, 2**31))
    return (*short, *long, value.magnitude)


def _same(one: Any, other: Any) -> bool:
    """Equal, but for numbers that went through float32."""
    if isinstance(one, tuple) and isinstance(other, tuple):
        return len(one) == len(other) and all(map(_same, one, other))
    if isinstance(one, float) and isinstance(other, float):
        return math.isclose(one, other, rel_tol=1e-5)
    return one == other


def _refuse_difference(wanted: Any, found: Any, where: str) -> None:
    """Raises Unsupported, naming the first field that came back otherwise."""
    for (name, one), (_, other) in zip(wanted, found, strict=True):
        if _same(one, other):
            continue
        if name == "layers":
            for layer, (ours, theirs) in enumerate(zip(one, other, strict=True)):
                _refuse_difference(ours, theirs, f"layer {layer} in {where}")
        raise Unsupported(
            f"{where} cannot say that {name} is {_shown(one)} (it would be read as {_shown(other)}); "
            "write another format, or leave this model as it is"
        )


def _shown(value: Any) -> str:
    shown = repr(value)
    return shown if len(shown) <= 60 else f"{shown[:57]}..."
