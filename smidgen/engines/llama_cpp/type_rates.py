"""How many seconds llama.cpp takes here for a byte of weights, by their type.

A token that is written reads every matrix once, and how long that takes is not in the bytes alone: what little there is
to compute for a byte of float16 hides behind the memory, of a codebook it may take ten times as long. So each type is
measured, with the engine, the threads and the repacking that the models meet later.

For each type a small model is made whose weights are nearly all of that type, more bytes than the processor's caches
hold, and it writes some tokens. The same model with almost no weights says what a token takes besides, and

    seconds a byte = (time with − time without) / (bytes with − bytes without).

All weights are zero: how long a product takes does not depend on its numbers. About two seconds a type. What was found
is kept in the cache folder and holds for one processor, number of threads, and version of the engine. Of what was
measured while other programs were in the way nothing is kept, and all the rest is: the next time only those types are
measured again. For this once their figures are used.
"""

import hashlib
import json
import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from smidgen.atomic import replacing
from smidgen.engines.busy import Effort, is_nonsense, judge, why_left_out
from smidgen.engines.llama_cpp.loading import Loading
from smidgen.engines.llama_cpp.timed import TimedModel, Timing, read_header
from smidgen.engines.llama_cpp.wheel import engine_version
from smidgen.engines.machine import default_threads, largest_cache, machine_name
from smidgen.errors import SmidgenError
from smidgen.formats.gguf.writer import TensorPlan, gguf_types, write_gguf
from smidgen.formats.hub.home import rates_folder
from smidgen.memory import total_memory
from smidgen.numerics.block_types import F32, READABLE, BlockType
from smidgen.progress import say, track

_BYTES = 64 << 20  # of weights of a type, where two caches hold less
_CACHES = 2  # so many times what the largest cache holds
_MOST_OF_MEMORY = 0.1
_HIDDEN, _BLOCKS, _HEAD = 1024, 4, 64
_MULTIPLE = 256  # of every row, so that every type fits
_CONTEXT = 256
_TOKENS, _TURNS = 16, 5
_DIGITS = 4
_FILE_BYTES = 2**16
_ARRAY, _STRING, _INT32, _FLOAT32 = 9, 8, 5, 6
_UNKNOWN, _CONTROL, _BYTE = 2, 3, 6  # types of tokens


def type_rates(kinds: Collection[BlockType], threads: int | None = None) -> dict[str, float]:
    """Type name → seconds that one byte of it takes, for each token. Measured where that is not known yet.

    threads: default the physical cores.
    Raises SmidgenError where the machine is so busy that a type cannot be measured; what was before it is kept.
    """
    threads = threads or default_threads()
    key = {"machine": machine_name(), "engine": engine_version(), "threads": threads}  # a file for each
    file = rates_folder() / f"{hashlib.sha256(json.dumps(key).encode()).hexdigest()[:16]}.json"
    known = _kept(file, key)
    missing = [kind for kind in READABLE if kind in kinds and kind.name not in known]
    if missing:
        timed = _Timings()
        try:
            _time_all(missing, threads, timed)
        finally:
            if timed.calm():
                _keep(file, {**key, "seconds_per_byte": known | timed.calm()})
        known |= timed.seconds()
        say(_told(timed, threads))
    return {kind.name: known[kind.name] for kind in READABLE if kind in kinds}


@dataclass(frozen=True)
class _Timed:
    """One small model: bytes that a token reads, and seconds that it takes.  calm: whether nothing was in the way."""

    nbytes: int
    seconds: float
    calm: bool


@dataclass
class _Timings:
    """All that was timed so far.  empty: with almost no weights, None at the beginning.  full: of each type."""

    empty: _Timed | None = None
    full: dict[str, _Timed] = field(default_factory=dict)

    def seconds(self) -> dict[str, float]:
        """For a byte, by type name. Raises SmidgenError where a model was no slower with weights than without."""
        found = self._differences()
        for name, rate in found.items():
            if rate <= 0:
                raise SmidgenError(f"how quick {name} is here cannot be told: the machine was too busy")
        return found

    def calm(self) -> dict[str, float]:
        """The same of those where nothing was in the way."""
        if self.empty is None or not self.empty.calm:
            return {}
        return {name: rate for name, rate in self._differences().items() if self.full[name].calm and rate > 0}

    def _differences(self) -> dict[str, float]:
        assert self.empty is not None
        without, none = self.empty.seconds, self.empty.nbytes
        rates = {name: (timed.seconds - without) / (timed.nbytes - none) for name, timed in self.full.items()}
        return {name: float(f"{rate:.{_DIGITS}g}") for name, rate in rates.items()}


def _time_all(kinds: Sequence[BlockType], threads: int, timed: _Timings) -> None:
    """Add these types to `timed`, as far as the machine lets us. Raises SmidgenError where it is too busy for one.

    What has almost no weights stands in every figure: it is timed again after each type, until nothing is in its way.
    """
    with TemporaryDirectory(prefix="smidgen-") as folder, track("Measuring types of weights", len(kinds) + 1) as task:
        empty = _write(Path(folder) / "empty.gguf", kinds[0], _MULTIPLE)
        timed.empty = _timed(empty, threads)
        task.advance()
        for kind in kinds:
            timed.full[kind.name] = _timed(_write(Path(folder) / "one.gguf", kind, _width(kind)), threads)
            if not timed.empty.calm:
                again = _timed(empty, threads)
                timed.empty = again if again.calm else min(timed.empty, again, key=lambda one: one.seconds)
            task.advance()


def _timed(path: Path, threads: int) -> _Timed:
    header = read_header(path)
    with TimedModel(path, header, threads, _CONTEXT, Loading()) as model:
        model.time(1, _TOKENS)  # what comes first is slower
        timings = [model.time(1, _TOKENS) for _ in range(_TURNS)]
    busy = judge([_effort(timings)], threads, [timing.decode_rate for timing in timings])
    if is_nonsense(busy):
        raise SmidgenError(why_left_out(busy))
    seconds = median(timing.decode_s / timing.written for timing in timings)
    return _Timed(header.bytes_per_token, seconds, busy["sentence"] is None)


def _effort(timings: Sequence[Timing]) -> Effort:
    first, *others = (timing.effort for timing in timings)
    return sum(others, start=first)


def _width(kind: BlockType) -> int:
    """How wide the feed-forward parts must be for enough bytes of a type."""
    wanted = min(max(_BYTES, _CACHES * largest_cache()), int(_MOST_OF_MEMORY * total_memory()))
    bytes_of_a_channel = 3 * _BLOCKS * kind.row_bytes(_HIDDEN)
    return _MULTIPLE * max(2, math.ceil(wanted / bytes_of_a_channel / _MULTIPLE))


def _write(path: Path, kind: BlockType, width: int) -> Path:
    """A small model of Llama's kind whose matrices are all of one type, and zero."""
    metadata, types = _header(width)
    tokens = len(metadata["tokenizer.ggml.tokens"])
    shapes: dict[str, tuple[int, ...]] = {"token_embd": (tokens, _HIDDEN), "output_norm": (_HIDDEN,)}
    for block in range(_BLOCKS):
        parts: dict[str, tuple[int, ...]] = {
            "attn_norm": (_HIDDEN,), "attn_q": (_MULTIPLE, _HIDDEN), "attn_k": (_HEAD, _HIDDEN),
            "attn_v": (_HEAD, _HIDDEN), "attn_output": (_HIDDEN, _MULTIPLE), "ffn_norm": (_HIDDEN,),
            "ffn_gate": (width, _HIDDEN), "ffn_up": (width, _HIDDEN), "ffn_down": (_HIDDEN, width),
        }  # fmt: skip
        shapes |= {f"blk.{block}.{name}": shape for name, shape in parts.items()}
    plans = [TensorPlan(f"{name}.weight", shape, kind if shape[1:] else F32) for name, shape in shapes.items()]
    sizes = {plan.name: plan.nbytes for plan in plans}
    write_gguf(path, metadata, types, plans, lambda name: np.zeros(sizes[name], np.uint8))
    return path


def _header(width: int) -> tuple[dict[str, Any], dict[str, tuple[int, ...]]]:
    """All that llama.cpp wants to know, and the value types."""
    own: dict[str, int | float] = {
        "context_length": _CONTEXT, "embedding_length": _HIDDEN, "block_count": _BLOCKS, "feed_forward_length": width,
        "attention.head_count": _MULTIPLE // _HEAD, "attention.head_count_kv": 1, "attention.key_length": _HEAD,
        "attention.value_length": _HEAD, "attention.layer_norm_rms_epsilon": 1e-5, "rope.dimension_count": _HEAD,
    }  # fmt: skip
    simple: dict[str, Any] = {"general.architecture": "llama", "tokenizer.ggml.model": "llama"}
    simple |= {f"llama.{key}": value for key, value in own.items()}
    simple |= {"tokenizer.ggml.unknown_token_id": 0, "tokenizer.ggml.bos_token_id": 1, "tokenizer.ggml.eos_token_id": 2}
    tokens = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    kinds = [_UNKNOWN, _CONTROL, _CONTROL, *(len(tokens) - 3) * [_BYTE]]
    arrays: dict[str, tuple[Any, tuple[int, ...]]] = {
        "tokenizer.ggml.tokens": (tokens, (_ARRAY, _STRING)),
        "tokenizer.ggml.scores": (np.zeros(len(tokens), np.float32), (_ARRAY, _FLOAT32)),
        "tokenizer.ggml.token_type": (np.array(kinds, np.int32), (_ARRAY, _INT32)),
    }
    types = {key: gguf_types(value) for key, value in simple.items()} | {key: kind for key, (_, kind) in arrays.items()}
    return simple | {key: value for key, (value, _) in arrays.items()}, types


def _kept(file: Path, key: Mapping[str, Any]) -> dict[str, float]:
    """What is known already; nothing where the file is not there, of another machine, or not as we write it."""
    try:
        if file.stat().st_size > _FILE_BYTES:
            return {}
        found = json.loads(file.read_text(encoding="utf-8"))
        if {name: found.get(name) for name in key} != key:
            return {}
        return {name: float(rate) for name, rate in found["seconds_per_byte"].items() if 0 < float(rate) < 1}
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return {}


def _keep(file: Path, rates: Mapping[str, Any]) -> None:
    content = (json.dumps(rates, indent=1) + "\n").encode()
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with replacing(file, len(content)) as target:
            target.write(content)
    except (OSError, SmidgenError) as error:  # the next cut measures again
        say(f"How quick the types of weights are here could not be kept: {error}.")


def _told(timed: _Timings, threads: int) -> str:
    rates = ", ".join(f"{name} {1000 * 1e9 * rate:.0f} ms" for name, rate in timed.seconds().items())
    with_threads = "one thread" if threads == 1 else f"{threads} threads"
    left_out = [name for name in timed.full if name not in timed.calm()]
    kept = "Measured now; kept for other cuts"
    if left_out:
        what = "none of it is" if len(left_out) == len(timed.full) else f"all but {', '.join(left_out)} is"
        kept = f"Measured now; {what} kept for other cuts, since other programs were in the way"
    return f"For each token, a GB of weights takes here, with {with_threads}: {rates}. {kept}."
