"""One model in llama.cpp, timed: single requests, what they took, and what was in their way."""

from dataclasses import dataclass
from pathlib import Path

from smidgen.closing import Closing
from smidgen.engines import time_limit
from smidgen.engines.busy import Effort
from smidgen.engines.energy import EnergyMeter, Joules, Spent, difference
from smidgen.engines.llama_cpp.loading import Loading
from smidgen.engines.llama_cpp.process import Memory
from smidgen.engines.llama_cpp.server import BUILT_IN_TEMPLATE, LlamaServer
from smidgen.engines.machine import allowed_cpus, busy_seconds
from smidgen.errors import SmidgenError, printable
from smidgen.formats.gguf.contents import refuse_damaged
from smidgen.formats.gguf.reader import GGUFFile
from smidgen.formats.gguf.traffic import bytes_per_token
from smidgen.model.kept import AS_USUAL, KVType

_FIRST_ID, _ID_STEP = 1000, 7  # prompt ids: ordinary tokens in every vocabulary of practical size, wrapped in others


@dataclass(frozen=True)
class Header:
    """What is asked of a model depends on it.

    bytes_per_token: of the weights that decoding one token reads.  vocabulary, context: tokens; None if not said.
    """

    bytes_per_token: int
    vocabulary: int
    context: int | None


def read_header(path: Path) -> Header:
    """Refuses a file that llama.cpp should not see."""
    with GGUFFile.open(path) as file:
        refuse_damaged(file)
        embedding = file.tensors.get("token_embd.weight")
        context = file.metadata.get(f"{file.metadata.get('general.architecture')}.context_length")
        return Header(
            bytes_per_token(file),
            1 if embedding is None else embedding.shape[0],
            context if isinstance(context, int) else None,
        )


@dataclass(frozen=True)
class Timing:
    """One request: a prompt of `prompt_tokens`, then `written` tokens after the first, which the prompt brings.

    prompt_s, decode_s: by llama.cpp's own clock.  first_token_s: by ours, from the request to the first token.
    """

    prompt_tokens: int
    written: int
    prompt_s: float
    decode_s: float
    first_token_s: float
    effort: Effort
    joules: Joules | None

    @property
    def prompt_rate(self) -> float:
        """Tokens read in a second."""
        return self.prompt_tokens / self.prompt_s

    @property
    def decode_rate(self) -> float:
        """Tokens written in a second, the first not counted."""
        return self.written / self.decode_s

    def spent(self, tokens: int) -> Spent:
        """What the whole request took, as the cost of so many tokens."""
        return Spent(tokens, self.effort.wall, self.effort.cpu, self.joules)


class TimedModel(Closing):
    """The engine with one model and a context of `ctx_size` tokens, keys and values kept as `kv`.

    load_s: how long it took to start.
    """

    def __init__(
        self, path: Path, header: Header, threads: int, ctx_size: int, loading: Loading, kv: KVType = AS_USUAL
    ) -> None:
        self.path, self.header, self.loading = path, header, loading
        self.kv: KVType = kv
        started = time_limit.now()
        try:
            self._server = LlamaServer(
                path, ctx_size=ctx_size, threads=threads, loading=loading, warm_up=True, template=BUILT_IN_TEMPLATE,
                kv=kv,
            )  # fmt: skip
        except SmidgenError as error:
            raise self._named(error) from error
        self.load_s = time_limit.now() - started

    def close(self) -> None:
        """End the process."""
        self._server.close()

    def memory(self) -> Memory:
        """What the engine's process takes now, and the most it had."""
        return self._server.memory()

    @property
    def on_gpu(self) -> bool:
        """Whether it computes on a graphics card."""
        return self._server.processor()["on_gpu"]

    def time(self, prompt_tokens: int, written: int, meter: EnergyMeter | None = None) -> Timing:
        """Send one request. Nothing of an earlier one is reused."""
        request = {
            "prompt": [(_FIRST_ID + _ID_STEP * place) % self.header.vocabulary for place in range(prompt_tokens)],
            "n_predict": written + 1,
            "ignore_eos": True,
            "cache_prompt": False,
            "temperature": 0,
        }
        try:
            before, busy_before = self._server.processor(), busy_seconds()
            joules_before = None if meter is None else meter.read()
            started = time_limit.now()
            timings = self._server.call("/completion", request)["timings"]
            wall = time_limit.now() - started
            joules = None if meter is None else difference(joules_before, meter.read())
            after, busy_after = self._server.processor(), busy_seconds()
        except SmidgenError as error:
            raise self._named(error) from error
        decode_s = timings["predicted_ms"] / 1000  # its clock starts when the first token is there
        cpu = after["cpu_seconds"] - before["cpu_seconds"]
        waits = before["waited_seconds"], after["waited_seconds"]
        effort = Effort(
            wall=wall,
            cpu=cpu,
            waited=None if waits[0] is None or waits[1] is None else max(0.0, waits[1] - waits[0]),
            others=None if busy_before is None or busy_after is None else max(0.0, busy_after - busy_before - cpu),
            processors=len(allowed_cpus()),
        )
        return Timing(
            prompt_tokens=int(timings["prompt_n"]),
            written=int(timings["predicted_n"]) - 1,
            prompt_s=timings["prompt_ms"] / 1000,
            decode_s=decode_s,
            first_token_s=max(0.0, wall - decode_s),
            effort=effort,
            joules=joules,
        )

    def _named(self, error: SmidgenError) -> SmidgenError:
        return SmidgenError(f"cannot measure {printable(self.path.name)}: {error}")
