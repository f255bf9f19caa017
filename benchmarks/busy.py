"""Speed of decoding on a machine that does other work, by how llama.cpp's threads wait for each other.

    python -m benchmarks.busy smollm2-135m-instruct [--jobs 0 1 2] [--repeats 5] [--first]

Its threads meet some hundred times for every token. Each way of waiting has an engine of its own; they take turns, and
the median counts. `smidgen` is the way of `run`, `chat`, `serve` and `bench` (smidgen/openmp.py), `OpenMP` its own
default, `asleep` what torch gets. Each other job computes without an end in a session of its own, as another terminal's
or a service's does.

The share is what the engine's threads got of the time that they could have computed. A machine that others use has no
quiet moment: with `--first`, which takes root and `chrt`, the engine goes before all of them where no job is wanted.
"""

import argparse
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from benchmarks import record
from smidgen.engines.llama_cpp.server import BUILT_IN_TEMPLATE, LlamaServer
from smidgen.engines.machine import default_threads, load_average
from smidgen.formats.convert import gguf_of

_LOOKS = "GOMP_SPINCOUNT"
WAYS: dict[str, tuple[str | None, int | None]] = {  # looks before sleeping, threads; None: as smidgen has it
    "smidgen": (None, None),
    "OpenMP": ("300000", None),
    "asleep": ("0", None),
    "one thread": (None, 1),
}
_PROMPT, _TOKENS = 32, 32
_REQUEST = {"prompt": list(range(100, 100 + _PROMPT)), "temperature": 0, "ignore_eos": True, "cache_prompt": False}


@contextmanager
def engine(path: Path, way: str, first: bool) -> Iterator[LlamaServer]:
    """One that waits in this way.  first: before all others on this machine."""
    looks, threads = WAYS[way]
    before = os.environ.pop(_LOOKS, None)
    if looks is not None:
        os.environ[_LOOKS] = looks
    try:
        server = LlamaServer(path, ctx_size=256, threads=threads, template=BUILT_IN_TEMPLATE)
    finally:
        os.environ.pop(_LOOKS, None)
        if before is not None:
            os.environ[_LOOKS] = before
    with server:
        if first:
            number = str(server._process._process.pid)  # pyright: ignore[reportPrivateUsage]
            subprocess.run(["chrt", "--all-tasks", "--fifo", "--pid", "10", number], check=True)
        server.call("/completion", _REQUEST | {"n_predict": 2})
        yield server


@contextmanager
def other_job() -> Iterator[None]:
    """Computes without an end."""
    job = subprocess.Popen([sys.executable, "-c", "while True: pass"], start_new_session=True)
    try:
        yield
    finally:
        job.kill()
        job.wait()


def measure(path: Path, way: str, jobs: int, first: bool) -> dict[str, float]:
    """Tokens a second of one reply, and the share of the processors that it got."""
    with engine(path, way, first and not jobs) as server, ExitStack() as others:
        for _ in range(jobs):
            others.enter_context(other_job())
        before = server.processor()
        timings = server.call("/completion", _REQUEST | {"n_predict": _TOKENS})["timings"]
        after = server.processor()
        had = after["cpu_seconds"] - before["cpu_seconds"]
        waited = (after["waited_seconds"] or 0) - (before["waited_seconds"] or 0)
        return {"tokens_per_s": timings["predicted_per_second"], "share": had / (had + waited)}


def compare(path: Path, jobs: int, repeats: int, first: bool) -> dict[str, Any]:
    """Every way beside so many jobs."""
    found: dict[str, list[dict[str, float]]] = {way: [] for way in WAYS}
    loads: list[float] = []
    for _ in range(repeats):
        loads.append(load_average() or 0.0)
        for way in WAYS:
            found[way].append(measure(path, way, jobs, first))
    ways = {
        way: {key: record.spread([one[key] for one in ones]) for key in ("tokens_per_s", "share")}
        for way, ones in found.items()
    }
    return {"jobs": jobs, "load": record.spread(loads), "ways": ways}


def show(result: Mapping[str, Any]) -> str:
    """Medians and ranges of tokens a second."""
    rows = []
    for one in result["loads"]:
        rates = [one["ways"][way]["tokens_per_s"] for way in WAYS]
        cells = [f"{rate['median']:.1f} ({rate['lowest']:.1f}-{rate['highest']:.1f})" for rate in rates]
        rows.append((one["jobs"], f"{one['load']['median']:.0f}", *cells))
    return record.table(("other jobs", "load", *WAYS), rows)


def main(arguments: Sequence[str] | None = None) -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("model", metavar="MODEL")
    parser.add_argument("--jobs", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--first", action="store_true")
    parser.add_argument("--output", type=Path, default=record.RESULTS / "busy.json")
    options = parser.parse_args(arguments)
    path = gguf_of(options.model)
    settings = {
        "model": Path(options.model).name, "threads": default_threads(), "tokens": _TOKENS, "first": options.first,
    }  # fmt: skip
    loads = [compare(path, jobs, options.repeats, options.first) for jobs in options.jobs]
    result = {**record.facts(**settings), "loads": loads}
    record.save(options.output, result)
    print(show(result))


if __name__ == "__main__":
    main()
