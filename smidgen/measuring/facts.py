"""What is known of two models and of the cut between them, before it stands on a card."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from smidgen.errors import printable


@dataclass(frozen=True)
class TensorFacts:
    """One tensor of a file. name: as there, `blk.3.ffn_up.weight`. kind: its GGUF type.

    members: canonical names of the parameters in it, `blocks.3.feed_forward.up.weight`: often one, several that are
    stacked, or none for what is no parameter (the divisors of rotary frequencies).
    """

    name: str
    kind: str
    bits_per_weight: float
    parameters: int
    bytes: int
    members: tuple[str, ...] = ()

    @property
    def layer(self) -> int | None:
        """Number of the block it belongs to; None for what is in no block."""
        first, _, rest = (self.members or ("",))[0].partition(".")
        return int(rest.split(".")[0]) if first == "blocks" else None

    @property
    def role(self) -> str | None:
        """What it does: query, key, value, output, gate, up, down, embedding, head, a norm, a bias, a router.

        Of different parameters in one tensor, all: query+key+value. All experts have one role. None where not known.
        """
        return "+".join(dict.fromkeys(map(_role, self.members))) or None


def _role(member: str) -> str:
    """`blocks.3.attention.query.bias` → `query_bias`; of a weight just `query`."""
    *_, owner, kind = member.split(".")
    return owner if kind == "weight" else f"{owner}_{kind}"


@dataclass(frozen=True)
class ModelFacts:
    """One model file. bytes: of the whole file. tensors: all, in the order in which data meets them.

    parameters: None where nobody can tell.  tensors: none where another framework has packed them.
    runtime: the packages of that framework which computed the model, with their versions; None for our decoder.
    layers: of a cut, the number that each of its layers has in the original; None where that is not known.
    """

    name: str
    path: Path
    sha256: str
    bytes: int
    parameters: int | None
    tensors: tuple[TensorFacts, ...]
    layers: tuple[int, ...] | None = None
    runtime: Mapping[str, str] | None = None

    def figures(self) -> dict[str, Any]:
        """The contract's keys. Bits a weight count the whole file, metadata and tokenizer too."""
        figures: dict[str, Any] = {
            "name": self.name,
            "path": printable(self.path.name),
            "sha256": self.sha256,
            "bytes": self.bytes,
            "parameters": self.parameters,
            "bits_per_weight": None if self.parameters is None else 8 * self.bytes / self.parameters,
        }
        if self.parameters is None:
            figures["reason"] = "the files do not tell how many weights the model has"
        return figures if self.runtime is None else figures | {"runtime": dict(self.runtime)}


@dataclass(frozen=True)
class Fidelity:
    """The figures of one text. language: where the text was given as `NAME=FILE`, NAME.

    seen: share of its runs of 8 tokens that the cut was calibrated on, 0 to 1; None where that is not known.
    asked: false for a language that the cut was not asked to keep.  self_written: the original wrote it.
    """

    text: str
    sha256: str
    figures: Mapping[str, float | int | None]
    language: str | None = None
    seen: float | None = None
    asked: bool = True
    self_written: bool = False

    def entry(self) -> dict[str, Any]:
        known = {"text": self.text, "sha256": self.sha256, **self.figures}
        return known | {"seen_in_calibration": self.seen, "asked": self.asked, "self_written": self.self_written}


@dataclass(frozen=True)
class Making:
    """How a cut came about, as far as that is known.

    steps: what `cut` did, each {"step", "parameters", …}; empty where two finished files were compared.
    calibration: what the cut learned from, each {"text", "self_written", "tokens" that were used, "available",
    "too_short"}.  history: the steps that the cut's file itself tells of, from this cut and from earlier ones.
    cost: {"seconds", "peak_ram_bytes"} of the cut; None where it was not made here.
    """

    steps: Sequence[Mapping[str, Any]] = ()
    calibration: Sequence[Mapping[str, Any]] = ()
    history: Sequence[Mapping[str, Any]] = ()
    cost: Mapping[str, Any] | None = None


NOT_KNOWN = Making()
