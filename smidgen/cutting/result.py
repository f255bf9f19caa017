"""What came of a cut."""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from smidgen.cutting.plan import Choice
from smidgen.publishing.first_words import try_it


@dataclass
class CutResult:
    """Where things are, and the plan that was carried out.

    path: None after a dry run.  choices: of the types, empty without quantization.  seconds: of all processes that the
    cut took.  plan: for people.  steps: what was done, as the card says it.  card: what `card.json` holds, None where
    nothing was measured.  calibration: of each text, how many tokens were used, as the card says it.
    chats: whether the file has a chat template, known once it is written.
    expected_kl: in nats per token, of the types and of tying the head; None without quantization.
    """

    path: Path | None
    choices: list[Choice]
    size: int
    seconds: float
    plan: str
    steps: list[dict[str, Any]] = field(default_factory=list)
    card: dict[str, Any] | None = None
    calibration: list[dict[str, Any]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    chats: bool = False
    expected_kl: float | None = None

    def to_json(self) -> str:
        """Everything as one JSON object."""
        return json.dumps(
            {
                "path": None if self.path is None else str(self.path), "bytes": self.size, "seconds": self.seconds,
                "expected_kl": self.expected_kl,
                "tensors": [
                    {
                        "name": c.name, "kind": c.kind.stored.name, "kept": c.keep, "bytes": c.nbytes,
                        "expected_kl": c.damage,
                    }
                    for c in self.choices
                ],
                "plan": self.plan, "steps": self.steps, "calibration": self.calibration, "notes": self.notes,
                "card": self.card,
            }
        )  # fmt: skip

    def describe(self) -> str:
        """What a person wants to know at the end, in a few lines."""
        if self.path is None:
            return "\n".join([self.plan, *self.notes, "Nothing was written (--dry-run)."])
        lines = [f"{self.path}: {self.size} bytes, in {self.seconds:.0f} s", *self.notes]
        if self.card is not None:
            lines += [self.card["verdict"]["sentence"], *self.card["notes"]]
            lines.append(f"Report card: {self.path.parent / 'card.html'}")
        return "\n".join([*lines, try_it(self.path.parent, self.chats)])
