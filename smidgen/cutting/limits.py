"""What a file must keep to: so many bytes, and so many seconds for the weights of a token."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from smidgen.errors import BadFile
from smidgen.numerics.block_types import BY_NAME, BlockType


@dataclass(frozen=True)
class Pace:
    """How long one token may take to read the matrices that it needs.

    limit: seconds.  rates: type name → seconds that a byte takes, measured (`engines.llama_cpp.type_rates`).
    """

    limit: float
    rates: Mapping[str, float]

    def seconds(self, kind: BlockType, nbytes: float) -> float:
        """What so many bytes of a type take. Raises BadFile for a type that was not measured."""
        if kind.stored.name not in self.rates:
            raise BadFile(f"the recipe does not say how quick {kind.name} is; say --speed instead")
        return nbytes * self.rates[kind.stored.name]

    @classmethod
    def of(cls, said: Any) -> "Pace":
        """What `as_json` gave. Raises ValueError, TypeError or KeyError for anything else."""
        limit, rates = float(said["limit"]), {str(name): float(rate) for name, rate in said["rates"].items()}
        if not all(0 < number < float("inf") for number in (limit, *rates.values())):
            raise ValueError("a pace is of seconds, above 0")
        return cls(limit, rates)

    def as_json(self) -> dict[str, Any]:
        """Plain data."""
        return {"limit": self.limit, "rates": dict(self.rates)}


@dataclass(frozen=True)
class Limits:
    """nbytes: of the file.  pace: None where no speed is asked for.

    kinds: types to survey and to choose from; empty for those within reach of the limits. They stand here where the
    limits are corrected afterwards: a survey that was made with others would not be the same.
    """

    nbytes: int
    pace: Pace | None = None
    kinds: tuple[BlockType, ...] = ()

    @property
    def seconds(self) -> float:
        """Of the matrices that a token reads; without end where no speed is asked for."""
        return float("inf") if self.pace is None else self.pace.limit

    def smaller_by(self, nbytes: int) -> "Limits":
        """The same with fewer bytes."""
        return replace(self, nbytes=self.nbytes - nbytes)

    @classmethod
    def of(cls, said: Any) -> "Limits":
        """What `as_json` gave."""
        pace = None if said["pace"] is None else Pace.of(said["pace"])
        return cls(int(said["nbytes"]), pace, tuple(BY_NAME[name] for name in said["kinds"]))

    def as_json(self) -> dict[str, Any]:
        """Plain data."""
        pace = None if self.pace is None else self.pace.as_json()
        return {"nbytes": self.nbytes, "pace": pace, "kinds": [kind.name for kind in self.kinds]}
