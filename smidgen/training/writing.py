"""A student in training that writes through llama.cpp, several times as quick on a CPU as our own decoder.

Its weights are written as a GGUF file now and then; in between it writes as it was. On-policy training does not need
the very last weights: what the student wrote some steps ago has the mistakes that it still makes.
"""

from collections.abc import Sequence
from pathlib import Path

from smidgen.closing import Closing
from smidgen.distillation.students.trainee import Trainee
from smidgen.engines.llama_cpp.writer import LlamaCppWriter
from smidgen.formats.checkpoint import Checkpoint
from smidgen.formats.derived import Derived, write_derived

_NAME = "student.gguf"


class EngineWriter(Closing):
    """A `distillation.loop.on_policy.Writer`. Close it, best with a `with` statement.

    checkpoint: what the trainee was made of.  folder: where its file is written.  every: calls for which one file does.
    threads: that write; None for the physical cores.
    """

    def __init__(
        self, checkpoint: Checkpoint, trainee: Trainee, folder: Path, every: int = 16, temperature: float = 1.0,
        threads: int | None = None,
    ) -> None:  # fmt: skip
        self._checkpoint, self._trainee, self._path = checkpoint, trainee, folder / _NAME
        self._every, self._temperature, self._threads = every, temperature, threads
        self._calls, self._room = 0, 0
        self._engine: LlamaCppWriter | None = None

    def __call__(self, prompts: Sequence[Sequence[int]], tokens: Sequence[int], seed: int) -> list[list[int]]:
        """What the student adds to each prompt."""
        needed = max(len(prompt) + room for prompt, room in zip(prompts, tokens, strict=True))
        stale = self._calls % self._every == 0
        self._calls += 1
        if self._engine is None or stale or needed > self._room:
            self._stop_engine()
            if stale:
                self._write_file()
            self._room = max(needed, self._room)
            self._engine = LlamaCppWriter(self._path, self._room, self._threads)
        return self._engine.write(prompts, tokens, seed, self._temperature)

    def _write_file(self) -> None:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        self._trainee.prepare()
        derived = Derived(self._checkpoint.config, self._trainee.parts())
        write_derived(self._checkpoint, derived, self._path, {"step": "training"})

    def close(self) -> None:
        """Free the engine, and the disk of what it read."""
        self._stop_engine()
        self._path.unlink(missing_ok=True)

    def _stop_engine(self) -> None:
        if self._engine is not None:
            self._engine.close()
        self._engine = None
