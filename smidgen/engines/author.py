"""The original as the author of texts that nobody gave: llama.cpp where it can run the model, else our decoder.

Our decoder holds every block in float32 for that, several times the file; llama.cpp maps the file, or a copy of it in
8 bits where it is stored wider. What both draw from is the model's whole distribution.
"""

import hashlib
import os
from collections.abc import Collection
from pathlib import Path

from torch import Tensor

from smidgen.closing import Closing
from smidgen.engines.llama_cpp.author import LlamaCppAuthor
from smidgen.engines.llama_cpp.eight_bits import has_wide_matrices, write_eight_bits
from smidgen.engines.llama_cpp.wheel import engine_version
from smidgen.engines.torch import TorchEngine
from smidgen.errors import SmidgenError
from smidgen.formats.convert import conversions_folder, gguf_of
from smidgen.model.config import ModelConfig
from smidgen.progress import Task, say
from smidgen.shapes import Int
from smidgen.version import __version__


class Author(Closing):
    """Writes rows of tokens; satisfies `data.self_written.Sampler`. Close it, best with a `with` statement.

    engine: our decoder with the model, which writes where llama.cpp cannot. Nothing is loaded before `prepare`.
    """

    def __init__(self, engine: TorchEngine, threads: int | None = None) -> None:
        self._engine, self._threads = engine, threads
        self._quick: LlamaCppAuthor | None = None
        self._refused = False

    @property
    def config(self) -> ModelConfig:
        """The model's shape."""
        return self._engine.config

    @property
    def written_by(self) -> str:
        """See `Sampler`. llama.cpp refuses a model always or never, so whose text it becomes hangs on this, too."""
        return f"{engine_version()}, smidgen {__version__}"

    def prepare(self, rows: int, length: int) -> None:
        """Load the model, for so many rows of so many tokens, and say who writes. Raises SmidgenError if nobody can."""
        if not self._refused and (self._quick is None or self._quick.length < length):
            self.close()
            try:
                self._quick = self._open(rows, length)
            except SmidgenError as error:
                self._refused = True
                say(f"{error} So smidgen's own decoder writes, slower and with the whole model in 32 bits in memory.")
        if self._refused:
            self._engine.prepare(rows, length)

    def sample(
        self, prompts: Int[Tensor, "batch position"], tokens: int, temperature: float, seed: int, *,
        end_ids: Collection[int], bos_id: int | None, progress: Task | None,
    ) -> Int[Tensor, "batch tokens"]:  # fmt: skip
        """See `Sampler`."""
        self.prepare(len(prompts), prompts.shape[1] + tokens)
        writer = self._quick or self._engine
        return writer.sample(prompts, tokens, temperature, seed, end_ids=end_ids, bos_id=bos_id, progress=progress)

    def close(self) -> None:
        """Free llama.cpp. Safe to call twice."""
        if self._quick is not None:
            self._quick.close()
            self._quick = None

    def _open(self, rows: int, length: int) -> LlamaCppAuthor:
        checkpoint = self._engine.checkpoint
        name = checkpoint.origin.name
        if not has_wide_matrices(checkpoint):
            author = LlamaCppAuthor(gguf_of(checkpoint.path), self.config, rows, length, self._threads, name)
            say(f"llama.cpp writes, {_several(author.rows)} at a time.")
            return author
        copy = _place_of_copy(checkpoint.sha256())
        try:
            write_eight_bits(checkpoint, copy)
            author = LlamaCppAuthor(copy, self.config, rows, length, self._threads, name)
        finally:
            copy.unlink(missing_ok=True)  # whoever has mapped it keeps it
        say(f"llama.cpp writes with an 8-bit copy of the model, {_several(author.rows)} at a time.")
        return author


def _several(documents: int) -> str:
    return "1 document" if documents == 1 else f"{documents} documents"


def _place_of_copy(sha256: str) -> Path:
    """Of this process alone, among the conversions, where `smidgen models --cache` finds what a crash leaves."""
    which = hashlib.sha256(f"{sha256} {os.getpid()}".encode()).hexdigest()
    folder = conversions_folder()
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise SmidgenError(f"{folder} cannot be made: {error.strerror}. Set SMIDGEN_HOME to another folder.") from error
    return folder / f"eight-bits.{sha256[:16]}.{which[:32]}.gguf"
