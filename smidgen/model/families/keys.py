"""Typed, bounded reading of a model's settings (GGUF metadata or config.json), remembering what was read.

What no family asked for is known afterwards, so that no key is dropped silently.
"""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from smidgen.errors import BadFile, Unsupported

LARGEST_INT32 = 2**31 - 1


class Keys:
    """Settings of one model.

    where: how messages name them, such as "metadata gemma3." or "config.json: "; the key follows.
    """

    def __init__(self, values: Mapping[str, Any], where: str) -> None:
        self.where = where
        self._values = values
        self._read: set[str] = set()

    @classmethod
    def of_gguf(cls, metadata: Mapping[str, Any], architecture: str) -> "Keys":
        """The keys of one architecture in GGUF metadata, named by what follows "{architecture}."."""
        prefix = f"{architecture}."
        values = {key.removeprefix(prefix): value for key, value in metadata.items() if key.startswith(prefix)}
        return cls(values, f"metadata {prefix}")

    def __contains__(self, key: str) -> bool:
        return key in self._values

    def unread(self) -> list[str]:
        """Keys that the file has and nobody asked for."""
        return sorted(set(self._values) - self._read)

    def refuse_unread(self, ignored: frozenset[str]) -> None:
        """Raises Unsupported for keys that are neither read nor known to change nothing."""
        unknown = [key for key in self.unread() if key not in ignored]
        if unknown:
            names = ", ".join(f"{self.where}{key[:60]}" for key in unknown[:5])
            raise Unsupported(f"unknown {names}: smidgen will not guess what it changes; use a model without it")

    def refuse_others(self, neutral: Mapping[str, Any]) -> None:
        """Raises Unsupported where a key has another value than the one that leaves a feature off (or null)."""
        for key, off in neutral.items():
            if (found := self.value(key)) is not None and found != off:
                raise Unsupported(f"{self.where}{key} is {short(found)}; smidgen only does models without it yet")

    def value(self, key: str) -> Any:
        """The value as it is, or None when the file lacks it."""
        self._read.add(key)
        return self._values.get(key)

    def integer(self, key: str, default: int | None = None, *, least: int = 1, most: int = 2**20) -> int:
        """An integer within [least, most]. Raises BadFile for anything else, or when missing without a default."""
        return self._checked_integer(key, self._required(key, default), least, most)

    def optional_integer(self, key: str, *, least: int = 1, most: int = LARGEST_INT32) -> int | None:
        """An integer, or None where the file has none (or null)."""
        value = self.value(key)
        return None if value is None else self._checked_integer(key, value, least, most)

    def number(self, key: str, default: float | None = None, *, zero: bool = False) -> float:
        """A finite positive number (or zero where `zero` allows it)."""
        return self._checked_number(key, self._required(key, default), zero)

    def optional_number(self, key: str, *, zero: bool = False) -> float | None:
        """A finite positive number, or None where the file has none (or null)."""
        value = self.value(key)
        return None if value is None else self._checked_number(key, value, zero)

    def numbers(self, key: str, length: int) -> tuple[float, ...]:
        """A list of so many finite positive numbers."""
        value = self._required(key, None)
        if not isinstance(value, (list, tuple, np.ndarray)) or len(value) != length:
            raise self._wrong(key, value, f"{length} numbers")
        return tuple(self._checked_number(key, _plain(one), False) for one in value)

    def text(self, key: str, default: str | None = None) -> str:
        """A string."""
        value = self._required(key, default)
        if not isinstance(value, str):
            raise self._wrong(key, value, "a string")
        return value

    def flag(self, key: str, default: bool | None = None) -> bool:
        """True or false."""
        value = self._required(key, default)
        if not isinstance(value, bool):
            raise self._wrong(key, value, "true or false")
        return value

    def nested(self, key: str) -> "Keys | None":
        """The settings inside a setting, or None where the file has none, or an empty table."""
        value = self.value(key)
        if value is None or value == {}:
            return None
        if not isinstance(value, Mapping):
            raise self._wrong(key, value, "a table of settings")
        return Keys(value, f"{self.where}{key}.")

    def per_layer(self, key: str, layers: int, default: tuple[int, ...] | None = None) -> tuple[int, ...]:
        """One positive integer a layer: the file holds either one for all, or an array."""
        value = self._required(key, default)
        if isinstance(value, (np.ndarray, list, tuple)):
            if len(value) != layers:
                raise self._wrong(key, f"{len(value)} values", f"one value for each of the {layers} layers")
            return tuple(self._checked_integer(key, _plain(one), 1, 2**20) for one in value)
        return (self._checked_integer(key, value, 1, 2**20),) * layers

    def texts(self, key: str, layers: int) -> tuple[str, ...] | None:
        """One string a layer, or None where the file has none."""
        value = self.value(key)
        if value is None:
            return None
        if not isinstance(value, list) or len(value) != layers or not all(isinstance(one, str) for one in value):
            raise self._wrong(key, value, f"one name for each of the {layers} layers")
        return tuple(value)

    def flags(self, key: str, layers: int) -> tuple[bool, ...] | None:
        """One flag a layer, as booleans or as 0 and 1, or None where the file has none."""
        value = self.value(key)
        if value is None:
            return None
        flags = [_plain(one) for one in value] if isinstance(value, (list, np.ndarray)) else []
        if len(flags) != layers or not all(isinstance(one, int) and one in (0, 1) for one in flags):
            raise self._wrong(key, value, f"one flag for each of the {layers} layers")
        return tuple(bool(one) for one in flags)

    def wrong(self, key: str, wanted: str) -> BadFile:
        """The error for a value that is not as it should be."""
        return self._wrong(key, self.value(key), wanted)

    def _required(self, key: str, default: Any) -> Any:
        value = self.value(key)
        if value is None:
            value = default
        if value is None:
            raise BadFile(f"{self.where}{key} is missing; get the complete files of this model")
        return value

    def _checked_integer(self, key: str, value: Any, least: int, most: int) -> int:
        if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
            raise self._wrong(key, value, f"an integer from {least} to {most}")
        return value

    def _checked_number(self, key: str, value: Any, zero: bool) -> float:
        if isinstance(value, bool) or not isinstance(value, (int, float)) or abs(value) > 1e300:
            raise self._wrong(key, value, "a number")
        if not math.isfinite(value) or value < 0 or (value == 0 and not zero):
            raise self._wrong(key, value, "a finite number above zero")
        return float(value)

    def _wrong(self, key: str, value: Any, wanted: str) -> BadFile:
        return BadFile(
            f"{self.where}{key} should be {wanted}, found {short(value)}; the file is damaged or not a model"
        )


def short(value: Any) -> str:
    """A value from a file for a one-line message."""
    found = repr(value)
    return found if len(found) <= 60 else f"{found[:57]}..."


def _plain(value: Any) -> Any:
    """A numpy scalar as the Python value it stands for."""
    return value.item() if isinstance(value, np.generic) else value
