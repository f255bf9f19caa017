"""What measuring the speed of one model finds, as data: `smidgen bench --json`, and `speed` and `energy` on a card."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from statistics import median
from typing import TypedDict

from smidgen.engines.busy import LEAST_S, Busy, Effort
from smidgen.engines.energy import Energy, Spent
from smidgen.engines.llama_cpp.by_context import ContextSpeed
from smidgen.engines.llama_cpp.process import Memory
from smidgen.engines.llama_cpp.timed import TimedModel, Timing
from smidgen.engines.llama_cpp.wheel import engine_version
from smidgen.engines.machine import ResidentParts, machine_name
from smidgen.model.kept import KVType


class SpeedResult(TypedDict):
    """Speed of one model. Rates are medians, `…_range` the slowest and the quickest run.

    They are None, with a `reason`, where the machine was so busy that they would be nonsense; so is the read bandwidth.
    busy: how busy it was, with a sentence to stand beside them where that matters (see ../busy.py).
    prompt_tokens, decode_tokens: how many were read and written; of a prompt of so many also time_to_first_token_s.
    by_context: the same after prompts of several lengths.  left_out: what there was no time for, a sentence each.
    resident_bytes: memory of the engine's process while it writes: mapped weights that it reads and a context of 512
    tokens included.  resident_parts: of which so much; None where the system does not tell.
    peak_ram_bytes: the most it ever had, which is while it loads.  loading: how it was loaded (see loading.py).
    kv: how keys and values were kept.
    bytes_per_token: weights read for each token, of a mixture's experts those that are used.
    bandwidth_limit_tokens_per_s: read bandwidth / bytes_per_token.
    seconds: what measuring took, of all models together.
    """

    path: str
    prompt_tokens_per_s: float | None
    prompt_tokens_per_s_range: list[float] | None
    decode_tokens_per_s: float | None
    decode_tokens_per_s_range: list[float] | None
    time_to_first_token_s: float | None
    time_to_first_token_s_range: list[float] | None
    prompt_tokens: int
    decode_tokens: int
    reason: str | None
    busy: Busy
    by_context: list[ContextSpeed]
    left_out: list[str]
    resident_bytes: int
    resident_parts: ResidentParts | None
    peak_ram_bytes: int
    loading: dict[str, bool]
    kv: KVType
    bytes_per_token: int
    read_bandwidth_bytes_per_s: float | None
    bandwidth_limit_tokens_per_s: float | None
    share_of_bandwidth_limit: float | None
    energy: Energy
    repeats: int
    threads: int
    machine: str
    engine: str
    seconds: float


@dataclass
class Rounds:
    """What was measured of one model: in each round a prompt, then decoding from an almost empty context."""

    prompt: list[Timing] = field(default_factory=list)
    decode: list[Timing] = field(default_factory=list)

    def efforts(self) -> list[Effort]:
        """Of each round."""
        return [prompt.effort + decode.effort for prompt, decode in zip(self.prompt, self.decode, strict=True)]

    def comparable_rates(self) -> list[float]:
        """Of decoding; none where it took moments, which differ of themselves."""
        long_enough = all(timing.decode_s >= LEAST_S for timing in self.decode)
        return [timing.decode_rate for timing in self.decode] if long_enough else []

    def read(self) -> list[Spent]:
        """What reading prompts took."""
        return [timing.spent(timing.prompt_tokens) for timing in self.prompt]

    def written(self) -> list[Spent]:
        """What decoding took; the first token, which the prompt of one token brings, counts."""
        return [timing.spent(timing.written + 1) for timing in self.decode]

    @property
    def prompt_rate(self) -> float:
        """Median, tokens a second."""
        return median(timing.prompt_rate for timing in self.prompt)

    @property
    def decode_rate(self) -> float:
        """Median, tokens a second."""
        return median(timing.decode_rate for timing in self.decode)


def result_of(
    model: TimedModel,
    memory: Memory,
    rounds: Rounds,
    bandwidth: float,
    threads: int,
    *,
    energy: Energy,
    busy: Busy,
    reason: str | None,
    by_context: Sequence[ContextSpeed],
    left_out: Sequence[str],
    seconds: float,
) -> SpeedResult:
    """Put together what was found of one model.

    bandwidth: bytes a second.  reason: why the rates are left out, if they are.  seconds: of the whole measurement.
    """

    def figure(values: Sequence[float]) -> float | None:
        return None if reason else median(values)

    def bounds(values: Sequence[float]) -> list[float] | None:
        return None if reason else [min(values), max(values)]

    read = [timing.prompt_rate for timing in rounds.prompt]
    first = [timing.first_token_s for timing in rounds.prompt]
    written = [timing.decode_rate for timing in rounds.decode]
    limit, decode = bandwidth / model.header.bytes_per_token, figure(written)
    return SpeedResult(
        path=str(model.path),
        prompt_tokens_per_s=figure(read),
        prompt_tokens_per_s_range=bounds(read),
        decode_tokens_per_s=decode,
        decode_tokens_per_s_range=bounds(written),
        time_to_first_token_s=figure(first),
        time_to_first_token_s_range=bounds(first),
        prompt_tokens=rounds.prompt[0].prompt_tokens,
        decode_tokens=rounds.decode[0].written,
        reason=reason,
        busy=busy,
        by_context=[] if reason else list(by_context),
        left_out=list(left_out),
        **memory,
        loading=asdict(model.loading),
        kv=model.kv,
        bytes_per_token=model.header.bytes_per_token,
        read_bandwidth_bytes_per_s=None if reason else bandwidth,
        bandwidth_limit_tokens_per_s=None if reason else limit,
        share_of_bandwidth_limit=None if decode is None else decode / limit,
        energy=energy,
        repeats=len(rounds.decode),
        threads=threads,
        machine=machine_name(),
        engine=engine_version(),
        seconds=seconds,
    )
