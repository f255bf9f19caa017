"""How quick a model is in llama.cpp, and how much memory it takes.

Each model runs in a process of its own (see child.py), so that its memory is its own. The processes take turns, so that
several models meet the same moods of the machine; the median counts. Decoding is compared with its bound: every
generated token reads all weights once (of an untied embedding only one row), so no engine can decode quicker than
read bandwidth / bytes per token.

Two figures of memory. What stays resident while it writes is what a device needs to have: each weight once, the
context, buffers, vocabulary, the engine and the Python that starts it. The peak comes while the model loads, when the
mapped file and repacked copies are resident at once (see loading.py); the system may drop the mapped part of it.
"""

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import TypedDict

from smidgen import progress
from smidgen.closing import Closing
from smidgen.engines.bandwidth import BandwidthMeter
from smidgen.engines.llama_cpp.loading import Loading, choose_loading
from smidgen.engines.llama_cpp.process import Memory
from smidgen.engines.llama_cpp.server import BUILT_IN_TEMPLATE, LlamaServer
from smidgen.engines.llama_cpp.wheel import engine_version
from smidgen.engines.machine import ResidentParts, default_threads, energy_microjoules, energy_reason, machine_name
from smidgen.errors import SmidgenError, printable
from smidgen.formats.gguf.contents import parts_of, refuse_damaged
from smidgen.formats.gguf.reader import GGUFFile
from smidgen.formats.gguf.traffic import bytes_per_token

PROMPT_TOKENS = 256
DECODE_TOKENS = 64
_CONTEXT = 512
_FIRST_ID, _ID_STEP = 1000, 7  # prompt ids: ordinary tokens in every vocabulary of practical size, wrapped in others


class Energy(TypedDict):
    """joules_per_token: of the whole processor while decoding, or null with a reason."""

    joules_per_token: float | None
    reason: str | None


class SpeedResult(TypedDict):
    """Speed of one model. Rates are medians, `…_range` the slowest and the quickest run.

    resident_bytes: memory of the engine's process while it writes: mapped weights that it reads and a context of 512
    tokens included.  resident_parts: of which so much; None where the system does not tell.
    peak_ram_bytes: the most it ever had, which is while it loads.  loading: how it was loaded (see loading.py).
    bytes_per_token: weights read for each token, of a mixture's experts those that are used.
    bandwidth_limit_tokens_per_s: read bandwidth / bytes_per_token.
    """

    path: str
    prompt_tokens_per_s: float
    prompt_tokens_per_s_range: list[float]
    decode_tokens_per_s: float
    decode_tokens_per_s_range: list[float]
    resident_bytes: int
    resident_parts: ResidentParts | None
    peak_ram_bytes: int
    loading: dict[str, bool]
    bytes_per_token: int
    read_bandwidth_bytes_per_s: float
    bandwidth_limit_tokens_per_s: float
    share_of_bandwidth_limit: float
    energy: Energy
    repeats: int
    threads: int
    machine: str
    engine: str


def measure_speed(
    paths: Sequence[Path],
    threads: int | None = None,
    repeats: int = 5,
    loadings: Sequence[Loading] | None = None,
) -> list[SpeedResult]:
    """Measure prompt processing (256 tokens) and decoding (64 tokens) of each model, `repeats` times in turns;
    half the context where that is shorter.

    threads: default the physical cores.  loadings: one for each path; default as `run` and `serve` load it.
    Takes about 10 s for a model of 270M parameters on two cores.
    Raises BadFile or Unsupported for a file that our reader refuses, SmidgenError if llama.cpp does.
    """
    threads = threads or default_threads()
    headers = [_read_header(path) for path in paths]
    loadings = loadings or [choose_loading(parts_of(path)) for path in paths]
    with ExitStack() as stack:
        workers = [
            stack.enter_context(_Worker(path, threads, header, loading))
            for path, header, loading in zip(paths, headers, loadings, strict=True)
        ]
        with progress.track("Measuring speed", 1 + repeats) as task:
            for worker in workers:
                worker.warm_up()
            memory = BandwidthMeter(threads)  # large, so made only when all models are known to run
            task.advance()
            for _ in range(repeats):
                for worker in workers:
                    worker.take_turn()
                memory.take_turn()
                task.advance()
        return [worker.result(memory.best, repeats) for worker in workers]


@dataclass(frozen=True)
class _Header:
    """bytes_per_token: of the weights that decoding one token reads.  vocabulary: tokens.

    prompt_tokens, decode_tokens: what is timed: as many as usual, or half of a shorter context.
    """

    bytes_per_token: int
    vocabulary: int
    prompt_tokens: int
    decode_tokens: int


def _read_header(path: Path) -> _Header:
    """What is asked of a model depends on its header. Refuses a file that llama.cpp should not see."""
    with GGUFFile.open(path) as file:
        refuse_damaged(file)
        embedding = file.tensors.get("token_embd.weight")
        context = file.metadata.get(f"{file.metadata.get('general.architecture')}.context_length")
        half = max(1, context // 2) if isinstance(context, int) else PROMPT_TOKENS
        return _Header(
            bytes_per_token(file),
            1 if embedding is None else embedding.shape[0],
            min(PROMPT_TOKENS, half),
            min(DECODE_TOKENS, half),
        )


class _Worker(Closing):
    """The engine of one model, and what it has measured so far."""

    def __init__(self, path: Path, threads: int, header: _Header, loading: Loading) -> None:
        self._path, self._threads, self._header, self._loading = path, threads, header, loading
        self._prompt: list[float] = []
        self._decode: list[float] = []
        self._joules: list[float] = []
        try:
            self._server = LlamaServer(
                path, ctx_size=_CONTEXT, threads=threads, loading=loading, warm_up=True, template=BUILT_IN_TEMPLATE
            )
        except SmidgenError as error:
            raise SmidgenError(f"cannot measure {printable(path.name)}: {error}") from error
        self._memory: Memory = self._server.memory()

    def close(self) -> None:
        """End the process."""
        self._server.close()

    def warm_up(self) -> None:
        """Touch all of the model's weights."""
        self._run(self._header.prompt_tokens, 1)

    def take_turn(self) -> None:
        """One run of each kind: a prompt, then decoding."""
        self._prompt.append(self._run(self._header.prompt_tokens, 1)["prompt_per_second"])
        before = energy_microjoules()
        timings = self._run(1, self._header.decode_tokens + 1)
        after = energy_microjoules()
        if before is not None and after is not None and after > before:  # the counter wraps around now and then
            self._joules.append((after - before) / 1e6 / self._header.decode_tokens)
        # Its clock starts when the first token is there.
        self._decode.append(1000 * (timings["predicted_n"] - 1) / timings["predicted_ms"])
        self._memory = self._server.memory()

    def result(self, bandwidth: float, repeats: int) -> SpeedResult:
        decode, limit = median(self._decode), bandwidth / self._header.bytes_per_token
        return SpeedResult(
            path=str(self._path),
            prompt_tokens_per_s=median(self._prompt),
            prompt_tokens_per_s_range=[min(self._prompt), max(self._prompt)],
            decode_tokens_per_s=decode,
            decode_tokens_per_s_range=[min(self._decode), max(self._decode)],
            **self._memory,
            loading=asdict(self._loading),
            bytes_per_token=self._header.bytes_per_token,
            read_bandwidth_bytes_per_s=bandwidth,
            bandwidth_limit_tokens_per_s=limit,
            share_of_bandwidth_limit=decode / limit,
            energy=self._energy(),
            repeats=repeats,
            threads=self._threads,
            machine=machine_name(),
            engine=engine_version(),
        )

    def _energy(self) -> Energy:
        if self._joules:
            return Energy(joules_per_token=median(self._joules), reason=None)
        return Energy(joules_per_token=None, reason=energy_reason())

    def _run(self, prompt_tokens: int, decode_tokens: int) -> dict[str, float]:
        """llama.cpp's own timings of one request."""
        request = {
            "prompt": [(_FIRST_ID + _ID_STEP * place) % self._header.vocabulary for place in range(prompt_tokens)],
            "n_predict": decode_tokens,
            "ignore_eos": True,
            "cache_prompt": False,
            "temperature": 0,
        }
        try:
            return self._server.call("/completion", request)["timings"]
        except SmidgenError as error:
            raise SmidgenError(f"cannot measure {printable(self._path.name)}: {error}") from error
