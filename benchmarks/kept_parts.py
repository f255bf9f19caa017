"""Parts of a long measurement, each kept as soon as it is done: a repeated run goes on where the last one failed."""

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks import record
from benchmarks.artefacts import name_of
from smidgen.progress import say


class Parts:
    """What is measured so far. Each part says when, and with which commit, under `measured`.

    memory: file for it.  told: called after each part with all that are known.
    """

    def __init__(self, memory: Path, told: Callable[[Mapping[str, Any]], None] = lambda _: None) -> None:
        self._memory, self._told = memory, told
        self._known: dict[str, Any] = json.loads(memory.read_text()) if memory.exists() else {}
        self.found: dict[str, Any] = {}

    def measure(
        self, part: str, how: Callable[[], Mapping[str, Any]], makes: Path | None = None, **inputs: Any
    ) -> Any:  # fmt: skip
        """What `how` finds, or what it found in an earlier run with the same inputs, which is said.

        makes: a file that the part leaves behind; where it is gone, the part is done again.
        """
        key = f"{part} {name_of(**inputs)}"
        if key in self._known and (makes is None or makes.exists()):
            facts = self._known[key]["measured"]
            say(f"{part}: measured before, {facts['date']}, smidgen {facts['smidgen']} ({self._memory} keeps it)")
        else:
            found = {**how(), "measured": record.facts()}
            self._known[key] = json.loads(json.dumps(found, default=asdict))
            self._memory.write_text(json.dumps(self._known, indent=1))
        self.found[part] = self._known[key]
        self._told(self.found)
        return self._known[key]
