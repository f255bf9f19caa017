"""Typed, bounded reading of a GGUF file's `{architecture}.*` metadata, remembering what was read.

What no family asked for is known afterwards, so that no key is dropped silently.
"""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from smidgen.errors import BadFile


class Keys:
    """The keys of one architecture, named by what follows "{architecture}."."""

    def __init__(self, metadata: Mapping[str, Any], architecture: str) -> None:
        self.architecture = architecture
        prefix = f"{architecture}."
        self._values = {key.removeprefix(prefix): value for key, value in metadata.items() if key.startswith(prefix)}
        self._read: set[str] = set()

    def __contains__(self, key: str) -> bool:
        return key in self._values

    def unread(self) -> list[str]:
        """Keys that the file has and nobody asked for."""
        return sorted(set(self._values) - self._read)

    def value(self, key: str) -> Any:
        """The value as it is, or None when the file lacks it."""
        self._read.add(key)
        return self._values.get(key)

    def integer(self, key: str, default: int | None = None, *, least: int = 1, most: int = 2**20) -> int:
        """An integer within [least, most]. Raises BadFile for anything else, or when missing without a default."""
        value = self._required(key, default)
        return self._checked_integer(key, value, least, most)

    def number(self, key: str, default: float | None = None, *, zero: bool = False) -> float:
        """A finite positive number (or zero where `zero` allows it)."""
        value = self._required(key, default)
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            raise self._wrong(key, value, "a number")
        if not math.isfinite(value) or value < 0 or (value == 0 and not zero):
            raise self._wrong(key, value, "a finite number above zero")
        return float(value)

    def text(self, key: str, default: str | None = None) -> str:
        """A string."""
        value = self._required(key, default)
        if not isinstance(value, str):
            raise self._wrong(key, value, "a string")
        return value

    def per_layer(self, key: str, layers: int, default: tuple[int, ...] | None = None) -> tuple[int, ...]:
        """One positive integer a layer: the file holds either one for all, or an array."""
        value = self._required(key, default)
        if isinstance(value, (np.ndarray, list, tuple)):
            if len(value) != layers:
                raise self._wrong(key, f"{len(value)} values", f"one value for each of the {layers} layers")
            return tuple(self._checked_integer(key, _plain(one), 1, 2**20) for one in value)
        return (self._checked_integer(key, value, 1, 2**20),) * layers

    def _required(self, key: str, default: Any) -> Any:
        value = self.value(key)
        if value is None:
            value = default
        if value is None:
            raise BadFile(f"the file has no metadata key {self.architecture}.{key}; get a complete GGUF of this model")
        return value

    def _checked_integer(self, key: str, value: Any, least: int, most: int) -> int:
        if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
            raise self._wrong(key, value, f"an integer from {least} to {most}")
        return value

    def _wrong(self, key: str, value: Any, wanted: str) -> BadFile:
        found = repr(value)
        found = found if len(found) <= 60 else f"{found[:57]}..."
        return BadFile(
            f"metadata {self.architecture}.{key} should be {wanted}, found {found}; the file is damaged or not a model"
        )


def _plain(value: Any) -> Any:
    """A numpy scalar as the Python value it stands for."""
    return value.item() if isinstance(value, np.generic) else value
