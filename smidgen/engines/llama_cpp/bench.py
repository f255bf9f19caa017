"""How quick a model is in llama.cpp, how much memory it takes, and how much energy.

Each model runs in a process of its own (see child.py), so that its memory is its own. The processes take turns, so that
several models meet the same moods of the machine; the median counts. Decoding is compared with its bound: every
generated token reads all weights once (of an untied embedding only one row), so no engine can decode quicker than
read bandwidth / bytes per token.

Two figures of memory. What stays resident while it writes is what a device needs to have: each weight once, the
context, buffers, vocabulary, the engine and the Python that starts it. The peak comes while the model loads, when the
mapped file and repacked copies are resident at once (see loading.py); the system may drop the mapped part of it.

All of it has a time limit. A first, small request tells how long a round takes: fewer rounds and fewer lengths of
prompts are measured where not all of them fit, and the result says which were left out. On a machine that is busy with
other work the rates are marked or left out (see ../busy.py), and then nothing more is tried.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from smidgen import progress
from smidgen.bounds import within
from smidgen.engines import time_limit
from smidgen.engines.bandwidth import BandwidthMeter
from smidgen.engines.busy import Busy, is_nonsense, judge, why_left_out, worse
from smidgen.engines.energy import EnergyMeter, energy_of, not_said
from smidgen.engines.llama_cpp.by_context import CONTEXTS, ContextRounds, Known, measure_contexts
from smidgen.engines.llama_cpp.loading import Loading, choose_loading
from smidgen.engines.llama_cpp.process import Memory
from smidgen.engines.llama_cpp.speed_result import Rounds, SpeedResult, result_of
from smidgen.engines.llama_cpp.timed import TimedModel, read_header
from smidgen.engines.machine import default_threads
from smidgen.engines.time_limit import TimeLimit
from smidgen.formats.gguf.contents import parts_of
from smidgen.formats.gguf.kept import refuse_kv_of
from smidgen.model.kept import AS_USUAL, KVType

PROMPT_TOKENS = 256
DECODE_TOKENS = 64
LEAST_SECONDS, MOST_SECONDS = 10, 86400
_CONTEXT = 512
_PROBE_PROMPT, _PROBE_DECODE = 32, 4
_LEAST_PROMPT, _LEAST_DECODE = 16, 8  # tokens, where a usual round would take too long
_SECONDS, _SECONDS_PER_BYTE = 120.0, 60e-9  # the default limit: so long, and a minute for each GB
_PATIENCE_S = 15.0  # on a machine that is far too busy
_IDLE_S = 1.5


def measure_speed(
    paths: Sequence[Path],
    threads: int | None = None,
    repeats: int = 5,
    loadings: Sequence[Loading] | None = None,
    *,
    contexts: Sequence[int] = CONTEXTS,
    seconds: float | None = None,
    kv: Sequence[KVType] | None = None,
) -> list[SpeedResult]:
    """Measure prompt processing (256 tokens) and decoding (64 tokens) of each model, `repeats` times in turns, half the
    context where that is shorter; then both with prompts of other lengths.

    threads: default the physical cores.  loadings: one for each path; default as `run` and `serve` load it.
    contexts: lengths of these prompts, tokens; none if empty.
    kv: how each keeps keys and values; default f16.
    seconds: about how long all of it may take, loading included; default two minutes, and one more for each GB. It may
    take one round longer.
    Takes about a minute for a model of 270M parameters on two cores, a quarter of that without `contexts`.
    Raises BadFile or Unsupported for a file that our reader refuses and for one that `kv` does not fit, SmidgenError if
    llama.cpp refuses it.
    """
    within("repeats", repeats, 1)
    within("seconds", seconds, LEAST_SECONDS, MOST_SECONDS, whole=False)
    threads = threads or default_threads()
    headers = [read_header(path) for path in paths]
    usual: KVType = AS_USUAL
    kept = kv or [usual for _ in paths]
    for path, one in zip(paths, kept, strict=True):
        refuse_kv_of(path, one)
    loadings = loadings or [choose_loading(parts_of(path)) for path in paths]
    if seconds is None:
        seconds = _SECONDS + _SECONDS_PER_BYTE * sum(part.stat().st_size for path in paths for part in parts_of(path))
    limit, what = TimeLimit(seconds), list(zip(paths, headers, loadings, kept, strict=True))

    @contextmanager
    def start(ctx_size: int) -> Iterator[list[TimedModel]]:
        with ExitStack() as stack:
            yield [stack.enter_context(TimedModel(path, header, threads, ctx_size, loading, one_kv))
                   for path, header, loading, one_kv in what]  # fmt: skip

    with start(_CONTEXT) as models, EnergyMeter(models[0].on_gpu) as meter:
        short = _measure_rounds(models, meter, threads, repeats, TimeLimit((0.5 if contexts else 1.0) * limit.left))
        energies = [energy_of(rounds.read(), rounds.written(), meter) for rounds in short.rounds]
    lengths = _measure_lengths(start, models, short, threads, contexts, repeats, limit)
    busy = [worse(*both) for both in zip(short.busy(threads), lengths.busy(threads), strict=True)]
    reason = _why_left_out(busy)
    if reason is not None:
        energies = [not_said("the machine was too busy") for _ in models]
    return [
        result_of(
            model, memory, rounds, short.bandwidth, threads, energy=energy, busy=one_busy, reason=reason,
            by_context=more.figures(), left_out=[*short.left_out, *lengths.left_out], seconds=seconds - limit.left,
        )
        for model, memory, rounds, energy, one_busy, more in zip(
            models, short.memory, short.rounds, energies, busy, lengths.rounds, strict=True
        )
    ]  # fmt: skip


def _why_left_out(busy: Sequence[Busy]) -> str | None:
    """The reason if one of these measurements is nonsense. Models take turns, so then all of them are."""
    nonsense = [one for one in busy if is_nonsense(one)]
    return why_left_out(min(nonsense, key=lambda one: one["share"] or 0.0)) if nonsense else None


@dataclass
class _Short:
    """What was measured with a short context, of each model.  bandwidth: bytes a second that memory is read."""

    rounds: list[Rounds]
    memory: list[Memory]
    bandwidth: float
    left_out: list[str]

    def busy(self, threads: int) -> list[Busy]:
        """How busy the machine was, while each model computed."""
        return [judge(rounds.efforts(), threads, rounds.comparable_rates()) for rounds in self.rounds]


def _measure_rounds(
    models: Sequence[TimedModel], meter: EnergyMeter, threads: int, repeats: int, limit: TimeLimit
) -> _Short:
    """Rounds in which all models take turns, as many as the time allows, but one."""
    sizes = _sizes(models, limit)
    prompt_tokens, decode_tokens = sizes.prompt, sizes.decode
    short = _Short([Rounds() for _ in models], [], 0.0, sizes.left_out)
    with progress.track("Measuring speed", [sizes.reading_s, *repeats * [sizes.round_s]]) as task:
        for model in models:
            model.time(prompt_tokens, 0)  # what comes first is slower
        bandwidth = BandwidthMeter(threads)  # large, so made only when all models are known to run
        _watch_idle(meter)
        task.advance()
        began = time_limit.now()
        for turn in range(repeats):
            started = time_limit.now()
            for model, rounds in zip(models, short.rounds, strict=True):
                rounds.prompt.append(model.time(prompt_tokens, 0, meter))
                rounds.decode.append(model.time(1, decode_tokens, meter))
            bandwidth.take_turn()
            task.advance()
            ended = time_limit.now()
            hopeless = ended - began > _PATIENCE_S and _why_left_out(short.busy(threads)) is not None
            if turn + 1 < repeats and (hopeless or limit.left < ended - started):
                why = "the machine is too busy" if hopeless else f"more do not fit into {limit.seconds:.0f} s"
                short.left_out.append(f"Only {turn + 1} of {repeats} rounds: {why}.")
                task.skip(repeats - turn - 1)
                break
        short.memory = [model.memory() for model in models]
    short.bandwidth = bandwidth.best
    return short


@dataclass(frozen=True)
class _Sizes:
    """Tokens that each model reads and writes in a round, and about how long that takes all of them.

    left_out: in words, where it is less than usual.
    """

    prompt: int
    decode: int
    reading_s: float
    round_s: float
    left_out: list[str]


def _sizes(models: Sequence[TimedModel], limit: TimeLimit) -> _Sizes:
    """Tokens to read and write in each round: as many as usual, half of a shorter context, or what there is time for.

    A first small request of each model tells how long that takes.
    """
    half = min(max(1, (model.header.context or 2 * PROMPT_TOKENS) // 2) for model in models)
    prompt, decode = min(PROMPT_TOKENS, half), min(DECODE_TOKENS, half)
    probes = [model.time(min(_PROBE_PROMPT, half), min(_PROBE_DECODE, half)) for model in models]

    def seconds(prompt: int, decode: int) -> tuple[float, float]:
        reading = sum(prompt / one.prompt_rate for one in probes)
        return reading, reading + sum(decode / one.decode_rate for one in probes)

    expected = sum(seconds(prompt, decode))
    if expected <= limit.left:
        return _Sizes(prompt, decode, *seconds(prompt, decode), [])
    share = max(0.0, limit.left / expected)
    fewer = max(min(prompt, _LEAST_PROMPT), int(share * prompt)), max(min(decode, _LEAST_DECODE), int(share * decode))
    why = f"Rounds are shorter: {fewer[0]} tokens read and {fewer[1]} written, since usual ones take {expected:.0f} s."
    return _Sizes(*fewer, *seconds(*fewer), [why])


@dataclass
class _Lengths:
    """What was measured with prompts of several lengths, of each model."""

    rounds: list[ContextRounds]
    left_out: list[str]

    def busy(self, threads: int) -> list[Busy]:
        """How busy the machine was, while each model computed."""
        return [judge(rounds.efforts(), threads, []) for rounds in self.rounds]


def _measure_lengths(
    start: Callable[[int], AbstractContextManager[Sequence[TimedModel]]],
    models: Sequence[TimedModel],
    short: _Short,
    threads: int,
    contexts: Sequence[int],
    repeats: int,
    limit: TimeLimit,
) -> _Lengths:
    """Prompts of other lengths, as far as the time allows; nothing where the machine is too busy, before or now."""
    nothing = [ContextRounds() for _ in models]
    if not contexts or _why_left_out(short.busy(threads)):
        return _Lengths(nothing, [])
    known = [
        Known(model.header.context, rounds.prompt_rate, rounds.decode_rate, model.load_s)
        for model, rounds in zip(models, short.rounds, strict=True)
    ]
    found = _Lengths(*measure_contexts(start, known, contexts, repeats, limit))
    reason = _why_left_out(found.busy(threads))
    return found if reason is None else _Lengths(nothing, [f"Prompts of other lengths were left out: {reason}."])


def _watch_idle(meter: EnergyMeter) -> None:
    """What the machine takes while the loaded engines wait; nothing to wait for where it has no counter."""
    before = meter.read()
    if before is not None:
        began = time_limit.now()
        time.sleep(_IDLE_S)
        meter.watch_idle(before, time_limit.now() - began)
