"""Memory while llama.cpp writes and at its peak, and what repacking gains: one model, loaded in five ways.

    python -m benchmarks.memory gemma-3-270m gemma-small smollm2-135m-instruct [--repeats 5]

For each model (a name, a .gguf file or the folder of a cut) five processes load the same file, each in its own way, and
take turns at a prompt of 256 tokens and at writing 64; the median counts. `smidgen` is the way of `run`, `chat` and
`serve` (smidgen/engines/llama_cpp/loading.py), `llama.cpp` is its own default. The speeds are there for their ratios
within one model: one thread by default, because two that wait for each other on a busy machine drown them. The bytes do
not depend on that.

What the memory holds is told by llama.cpp's log (buffers) and by the same process before it loads (Python, the engine's
libraries). What then remains of the process's own memory is mostly the vocabulary.
"""

import argparse
import json
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks import record
from benchmarks.speeds import rates
from smidgen.engines.llama_cpp.loading import Loading
from smidgen.engines.llama_cpp.speed_result import SpeedResult
from smidgen.errors import SmidgenError
from smidgen.formats.convert import gguf_of
from smidgen.formats.gguf.reader import GGUFFile

LOADINGS = {
    "smidgen": Loading(),
    "llama.cpp": Loading(given_back=False),
    "not mapped": Loading(mapped=False, given_back=False),
    "not repacked": Loading(repacked=False, given_back=False),
    "neither": Loading(mapped=False, repacked=False, given_back=False),
}
_FIGURES = ("resident_bytes", "resident_parts", "peak_ram_bytes")
_RATES = ("prompt_tokens_per_s", "decode_tokens_per_s")
_BUFFER = re.compile(r"(\w+) +(model|KV|compute|output) buffer size = +([\d.]+) MiB")
_PARTS = """
import json, sys
from smidgen.engines.machine import resident_memory
from smidgen.engines.llama_cpp import bench
alone = resident_memory()
import xllamacpp
with_engine = resident_memory()
params = xllamacpp.CommonParams()
params.model.path, params.n_ctx, params.verbosity, params.fit_params = sys.argv[1], 512, 10, False
params.n_batch = params.n_ubatch
server = xllamacpp.Server(params)
print(json.dumps([alone, with_engine]))
"""


def buffers(log: str) -> dict[str, int]:
    """Bytes of each of llama.cpp's buffers, those of one kind added up, from its log."""
    found: Counter[str] = Counter()
    for place, kind, size in _BUFFER.findall(log):
        found[place if kind == "model" else kind] += round(float(size) * 2**20)
    return dict(found)


def parts(path: Path) -> dict[str, Any]:
    """Resident bytes of a process before it loads, and llama.cpp's buffers once it has loaded."""
    answer = subprocess.run([sys.executable, "-c", _PARTS, str(path)], capture_output=True, text=True, errors="replace")
    if answer.returncode:
        raise SmidgenError(f"llama.cpp could not load {path}: {answer.stderr.strip()[-500:]}")
    (alone, alone_parts), (with_engine, _) = json.loads(answer.stdout.splitlines()[-1])
    return {
        "python": alone,
        "python_anonymous": alone_parts and alone_parts["anonymous"],
        "engine_libraries": with_engine - alone,
        "buffers": buffers(answer.stderr),
    }


def bytes_by_type(path: Path) -> dict[str, int]:
    """Bytes of the tensors of each type, the largest first."""
    found: Counter[str] = Counter()
    with GGUFFile.open(path) as file:
        for tensor in file.tensors.values():
            found[tensor.kind.name] += tensor.nbytes
    return dict(found.most_common())


def compare(name: str, options: argparse.Namespace) -> dict[str, Any]:
    """One model, loaded in every way."""
    path = gguf_of(name)
    speeds = rates([path] * len(LOADINGS), options.threads, options.repeats, list(LOADINGS.values()))
    return {
        "model": Path(name).name,
        "bytes": path.stat().st_size,
        "bytes_by_type": bytes_by_type(path),
        "parts": parts(path),
        "loadings": {label: _figures(speed) for label, speed in zip(LOADINGS, speeds, strict=True)},
    }


def _figures(speed: SpeedResult) -> dict[str, Any]:
    known: Mapping[str, Any] = {**speed}
    rates = {key: {"median": known[key], "range": known[f"{key}_range"]} for key in _RATES}
    return {key: known[key] for key in _FIGURES} | rates


def show(result: Mapping[str, Any]) -> str:
    """Memory of every way, speeds as multiples of smidgen's."""
    rows = []
    for one in result["models"]:
        first = one["loadings"]["smidgen"]
        for label, figures in one["loadings"].items():
            memory = (figures["resident_bytes"], *(figures["resident_parts"] or {}).values(), figures["peak_ram_bytes"])
            times = (figures[key]["median"] / first[key]["median"] for key in _RATES)
            model = f"{one['model']}, {one['bytes'] / 1e6:.0f} MB"
            rows.append((model, label, *(f"{size / 1e6:.0f}" for size in memory), *(f"{ratio:.2f}" for ratio in times)))
    head = ("model", "loaded", "resident, MB", "own", "mapped", "peak, MB", "prompt, times", "decode, times")
    return record.table(head, rows)


def show_parts(result: Mapping[str, Any]) -> str:
    """What is in the memory, in MB."""
    rows = []
    for one in result["models"]:
        held, sizes = one["parts"], one["parts"]["buffers"]
        buffered = [sizes.get(name, 0) for name in ("CPU_Mapped", "CPU_REPACK", "KV", "compute", "output")]
        unpacked = one["loadings"]["not repacked"]["resident_parts"]
        rest = unpacked["anonymous"] - held["python_anonymous"] - sum(buffered[2:])
        figures = (*buffered, held["python"], held["engine_libraries"], rest)
        rows.append((one["model"], *(f"{size / 1e6:.0f}" for size in figures)))
    head = ("model", "mapped", "repacked", "KV cache", "compute", "output", "Python", "libraries", "vocabulary, rest")
    return record.table(head, rows)


def main(arguments: Sequence[str] | None = None) -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("models", nargs="+", metavar="MODEL")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--output", type=Path, default=record.RESULTS / "memory.json")
    options = parser.parse_args(arguments)
    settings = {"threads": options.threads, "repeats": options.repeats, "context": 512}
    result = {**record.facts(**settings), "models": [compare(name, options) for name in options.models]}
    record.save(options.output, result)
    print(show(result), show_parts(result), sep="\n\n")


if __name__ == "__main__":
    main()
