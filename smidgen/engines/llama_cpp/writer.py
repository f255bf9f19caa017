"""Many texts written at once by llama.cpp, tokens in and tokens out: what a student in training writes."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from smidgen.closing import Closing
from smidgen.engines.llama_cpp.engine import read_facts
from smidgen.engines.llama_cpp.server import BUILT_IN_TEMPLATE, LlamaServer

_SEEDS = 1 << 32  # llama.cpp's are 32 bits wide, and the last one means "any"


class LlamaCppWriter(Closing):
    """One loaded model that continues prompts, `parallel` at a time; close it, best with a `with` statement.

    ctx_size: tokens of a prompt and what follows it together.
    Raises BadFile or Unsupported for a file that our reader refuses.
    """

    def __init__(self, path: Path, ctx_size: int, threads: int | None = None, parallel: int = 8) -> None:
        tokenizer = read_facts(path).tokenizer
        self._end_ids = frozenset() if tokenizer is None else tokenizer.eos_ids
        self._parallel = parallel
        self._server = LlamaServer(
            path, ctx_size=ctx_size, threads=threads, parallel=parallel, template=BUILT_IN_TEMPLATE
        )

    def write(
        self, prompts: Sequence[Sequence[int]], tokens: Sequence[int], seed: int, temperature: float = 1.0
    ) -> list[list[int]]:
        """The tokens that follow each prompt, at most so many, the last one being the end of the text if it came.

        Drawn from the whole distribution. Which texts share a batch depends on time, so the same seed need not give
        the same texts to the last token.
        """
        drawing = {"temperature": temperature, "top_k": 0, "top_p": 1.0, "min_p": 0.0}
        requests = [
            drawing | {"prompt": list(prompt), "n_predict": room, "seed": (seed + number) % (_SEEDS - 1)}
            for number, (prompt, room) in enumerate(zip(prompts, tokens, strict=True))
        ]
        with ThreadPoolExecutor(self._parallel) as pool:
            return list(pool.map(self._answer, requests))

    def _answer(self, request: dict[str, Any]) -> list[int]:
        answer = self._server.call("/completion", request | {"return_tokens": True, "cache_prompt": False})
        tokens: list[int] = answer["tokens"]
        # llama.cpp knows the first few end tokens of a model only.
        end = next((place for place, token in enumerate(tokens) if token in self._end_ids), len(tokens))
        return tokens[: end + 1]

    def close(self) -> None:
        """Free the model. Safe to call twice."""
        self._server.close()
