"""llama.cpp as the author of many documents at once, seen from the process that wants them (see author_child.py)."""

import math
from collections.abc import Collection
from pathlib import Path

import torch
from torch import Tensor

from smidgen.closing import Closing
from smidgen.engines.llama_cpp.author_child import Order
from smidgen.engines.llama_cpp.child import Settings
from smidgen.engines.llama_cpp.loading import choose_loading
from smidgen.engines.llama_cpp.process import EngineProcess
from smidgen.engines.machine import default_threads
from smidgen.errors import EngineEnded, SmidgenError, printable
from smidgen.formats.gguf.contents import parts_of, refuse_damaged
from smidgen.formats.gguf.reader import GGUFFile
from smidgen.model.config import ModelConfig
from smidgen.progress import Task
from smidgen.shapes import Int

_CHILD = "smidgen.engines.llama_cpp.author_child"
_KEYS_AND_VALUES = 512 * 2**20  # bytes, of all rows that are written side by side
_NUMBER = 2  # bytes of one of them, float16
_PADDED = 256  # tokens: what llama.cpp rounds the length of a row up to


def rows_at_once(config: ModelConfig, length: int) -> int:
    """How many rows of `length` tokens are written side by side at most: what bounds their keys and values."""
    token = _NUMBER * sum(2 * layer.kv_heads * layer.head_dim for layer in config.layers)
    return max(1, _KEYS_AND_VALUES // (token * math.ceil(length / _PADDED) * _PADDED))


class LlamaCppAuthor(Closing):
    """A model loaded by llama.cpp in a process of its own, that writes rows of tokens; close it.

    path: a GGUF file.  config: the model's shape.  rows, length: how many rows are wanted at a time at most, and how
    many tokens each of them can have; `rows` may be made fewer.  threads: default the physical cores.
    Raises BadFile or Unsupported for a file that our reader refuses, SmidgenError where llama.cpp cannot run it.
    """

    def __init__(
        self, path: Path, config: ModelConfig, rows: int, length: int, threads: int | None = None,
        name: str | None = None,
    ) -> None:  # fmt: skip
        with GGUFFile.open(path) as file:
            refuse_damaged(file)
        files = parts_of(path)
        self.length, self.rows = length, min(rows, rows_at_once(config, length))
        self._name = printable(name or path.name, 60)
        self._process = EngineProcess(
            Settings(
                path=str(files[0]),
                files=[str(file) for file in files],
                name=name or path.name,
                ctx_size=math.ceil(length / _PADDED) * _PADDED,
                threads=threads or default_threads(),
                parallel=self.rows,
                api_key="",
                loading=choose_loading(files),
            ),
            _CHILD,
        )

    def sample(
        self, prompts: Int[Tensor, "batch position"], tokens: int, temperature: float, seed: int, *,
        end_ids: Collection[int], bos_id: int | None, progress: Task | None,
    ) -> Int[Tensor, "batch tokens"]:  # fmt: skip
        """As `TorchEngine.sample`, which draws other random numbers.

        The same seed gives the same ids, whatever the number of threads. Raises EngineEnded where llama.cpp ends,
        SmidgenError where it fails otherwise.
        """
        groups = math.ceil(len(prompts) / self.rows)
        written, start = [], 0
        for group in range(groups):  # of one size, or nearly
            stop = len(prompts) * (group + 1) // groups
            order = Order(prompts[start:stop].tolist(), tokens, temperature, seed, start, sorted(end_ids), bos_id)
            written.append(self._carried_out(order, progress))
            start = stop
        return torch.cat(written)

    def close(self) -> None:
        """End the process and free the model. Safe to call twice."""
        self._process.close()

    def _carried_out(self, order: Order, progress: Task | None) -> Int[Tensor, "batch tokens"]:
        steps = []
        answer = self._process.ask(order.to_line())
        while True:
            if answer is None:
                raise EngineEnded(f"llama.cpp ended while {self._name} wrote: {self._process.how_it_ended()}.")
            if "refused" in answer:
                raise SmidgenError(f"llama.cpp failed while {self._name} wrote: {printable(answer['refused'])}.")
            steps.append(torch.tensor(answer["ids"], dtype=torch.long))
            if progress is not None:
                progress.advance(len(order.prompts))
            if len(steps) == order.tokens:
                return torch.stack(steps, dim=1)
            answer = self._process.next_answer()
