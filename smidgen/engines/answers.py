"""A model that answers the questions of a task: our decoder scores what is given, llama.cpp writes what is not.

Scores are taken from exact logits, as the harness's own models do. Free answers are written where the model will run.
"""

import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from pathlib import Path

from smidgen.closing import Closing
from smidgen.engines.base import Ids, Score
from smidgen.engines.continuations import score_continuations
from smidgen.engines.llama_cpp.engine import LlamaCppEngine, Sampling
from smidgen.engines.torch import TorchEngine
from smidgen.formats.convert import gguf_of
from smidgen.model.chat import chat_template, render_chat
from smidgen.model.kept import AS_USUAL, KVType
from smidgen.model.tokenizer import Tokenizer
from smidgen.progress import Task

_LONGEST_CONTEXT = 4096  # tokens: no task in use needs more, and each answer under way holds as many
_AT_ONCE = 4  # answers, that share each reading of the weights


class ModelAnswers(Closing):
    """Satisfies `engines.base.Answering`. Close it, best with a `with` statement.

    path: the model's file or folder, for llama.cpp, which loads it when an answer is first to be written.
    kv: how llama.cpp keeps keys and values; `engine` has been told.
    """

    def __init__(
        self, engine: TorchEngine, tokenizer: Tokenizer, path: Path, threads: int | None = None, kv: KVType = AS_USUAL
    ) -> None:
        self._engine, self._path, self._threads = engine, path, threads
        self._kv: KVType = kv
        self.tokenizer = tokenizer
        self.context = min(engine.config.context_length, _LONGEST_CONTEXT)

    def ask(self, question: str) -> list[int]:
        """See `Answering`."""
        template = chat_template(self._engine.checkpoint.tokenizer_metadata)
        text = render_chat(template, [{"role": "user", "content": question}], self.tokenizer.special_texts)
        return self.tokenizer.encode(text, add_bos=self.tokenizer.adds_bos, parse_special=True)

    def score(self, pairs: Sequence[tuple[Ids, Ids]], progress: Task) -> list[Score]:
        """See `Answering`."""
        return score_continuations(self._engine, pairs, progress)

    def write(self, prompts: Sequence[Ids], stops: Sequence[str], tokens: int, progress: Task) -> list[str]:
        """See `Answering`."""
        drawing = Sampling(temperature=0, stop=tuple(stops))
        began = time.monotonic()
        writer = self._writer
        progress.leave_out(time.monotonic() - began)

        def answer(prompt: Ids) -> str:
            text = writer.stream(list(prompt), tokens, drawing).text()
            progress.advance()
            return text

        with ThreadPoolExecutor(_AT_ONCE) as pool:
            return list(pool.map(answer, prompts))

    @cached_property
    def _writer(self) -> LlamaCppEngine:
        return LlamaCppEngine(gguf_of(self._path), self.context, self._threads, parallel=_AT_ONCE, kv=self._kv)

    def close(self) -> None:
        """Free llama.cpp."""
        if "_writer" in vars(self):
            vars(self).pop("_writer").close()
