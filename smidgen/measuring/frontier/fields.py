"""Looks into an object of JSON that comes from a stranger: each look is checked, and says where it was."""

import math
from typing import Any, Never

from smidgen.errors import BadFile, printable

_LARGEST, _SMALLEST = 1e18, 1e-18


class Fields:
    """One object. Raises BadFile, in one line, where a value is not what it is asked for."""

    def __init__(self, value: Any, where: str) -> None:
        self._where = where
        if not isinstance(value, dict):
            raise BadFile(f"{where} is not an object, as in a report card. Measure again, or copy it again.")
        self._value: dict[str, Any] = value

    def get(self, key: str) -> Any:
        return self._value.get(key)

    def part(self, key: str, missing: dict[str, Any] | None = None) -> "Fields":
        """An object in it; `missing` where there is none."""
        value = self.get(key)
        return Fields(missing if value is None else value, f"{self._where}: {printable(key, 40)}")

    def parts(self, most: int) -> dict[str, "Fields"]:
        """All of its values, which are objects."""
        if len(self._value) > most:
            self._refuse(f"has {len(self._value)} entries, more than {most}")
        return {key: self.part(key) for key in self._value}

    def entries(self, key: str, most: int) -> list["Fields"]:
        value = self.get(key)
        if not isinstance(value, list) or len(value) > most:
            self._refuse(f"{key} is not a list of at most {most} entries")
        return [Fields(one, f"{self._where}: {key} {place + 1}") for place, one in enumerate(value)]

    def text(self, key: str, missing: str | None, longest: int) -> str:
        """A text on one line; `missing` where there is none."""
        value = missing if self.get(key) is None else self.get(key)
        if not isinstance(value, str) or not value.strip():
            self._refuse(f"{key} is not a text")
        return printable(value.strip(), longest)

    def hash(self, key: str) -> str:
        value = self.get(key)
        if not isinstance(value, str) or len(value) != 64 or not set(value) <= set("0123456789abcdef"):
            self._refuse(f"{key} is not a sha256")
        return value

    def number(self, key: str, least: float = -_LARGEST, most: float = _LARGEST) -> float:
        """A finite number from `least` to `most`. One so small that what is divided by it has no bounds is 0."""
        value = self.get(key)
        if not _is_number(value) or not least <= value <= most:
            self._refuse(f"{key} is not a number from {least:g} to {most:g}")
        return float(value) if abs(value) >= _SMALLEST else 0.0

    def count(self, key: str) -> int:
        """A whole number of 1 or more."""
        value = self.number(key, 1)
        if value != int(value):
            self._refuse(f"{key} is not a whole number")
        return int(value)

    def maybe(self, key: str, kind: type[int] | type[float]) -> Any:
        """A number of 0 or more as `kind`, None where there is none."""
        return None if self.get(key) is None else kind(self.number(key, 0))

    def pair(self, key: str, least: float, most: float) -> tuple[float, float]:
        """Two numbers, the smaller first."""
        value = self.get(key)
        good = isinstance(value, list) and len(value) == 2 and all(_is_number(one) for one in value)
        if not good or not least <= value[0] <= value[1] <= most:
            self._refuse(f"{key} is not two numbers from {least:g} to {most:g}, the smaller first")
        return float(value[0]), float(value[1])

    def maybe_pair(self, key: str) -> tuple[float, float] | None:
        return None if self.get(key) is None else self.pair(key, 0, _LARGEST)

    def _refuse(self, what: str) -> Never:
        raise BadFile(f"{self._where}: {what}. Measure again, or copy it again.")


def _is_number(value: Any) -> bool:
    """Whether it is a number that can be computed with: no truth value, not infinite, not of thousands of digits."""
    return (
        isinstance(value, int | float)
        and not isinstance(value, bool)
        and abs(value) <= _LARGEST
        and math.isfinite(value)
    )
