"""Time and memory of `smidgen cut` against llama.cpp's imatrix + quantize, on the same text and number of tokens.

    python -m benchmarks.cut_speed original.gguf --calibration wikitext2-valid.txt@0.5 [--fit 160MB] [--runs 3]

The two sides take turns, so that a slow spell of the machine meets both; what counts is the ratio of the medians. Times
are wall time of whole processes, from start to written file. Peak memory is the largest resident set of a process,
memory-mapped model files included. llama-imatrix runs without computing perplexity, which only slows it down.

`smidgen cut` is run without its report card, which llama.cpp's tools do not make; reading the text, planning and
writing are in. `--instructions AVX2` keeps torch from AVX-512 and bfloat16, as on most laptops; llama.cpp's tools use
what the processor has all the same.
"""

import argparse
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks import llama_cpp_tools, record
from benchmarks import options as shared
from smidgen.errors import SmidgenError
from smidgen.progress import track
from smidgen.sizes import parse_size

_CHUNK = 512


def write_calibration(options: argparse.Namespace) -> dict[str, Any]:
    """Cut the text to the wanted tokens and a quarter more, since smidgen keeps a fifth for measuring.

    In a process of its own: this one has to stay small (see record.py).
    """
    command = [
        *("-m", "benchmarks.texts", str(options.original), str(options.work / "calibration.txt")),
        *("--tokens", str(options.tokens * 5 // 4 + 2 * _CHUNK), *options.calibration),
    ]
    return record.json_from_python(command)


def llama_cpp_turn(options: argparse.Namespace, tools: llama_cpp_tools.Tools) -> dict[str, record.Run]:
    """One run of llama.cpp's two tools."""
    log, imatrix = options.work / "llama.cpp.log", options.work / "imatrix.gguf"
    threads = str(options.threads)
    calibration, quantized = options.work / "calibration.txt", options.work / "quantized.gguf"
    first = record.run(
        [tools.imatrix, "-m", options.original, "-f", calibration, "-o", imatrix, "-c", str(_CHUNK),
         "--chunks", str(options.tokens // _CHUNK), "--no-ppl", "-t", threads, "-tb", threads],
        log,
    )  # fmt: skip
    second = record.run(
        [tools.quantize, "--imatrix", imatrix, "--token-embedding-type", options.embedding,
         options.original, quantized, options.type, threads],
        log,
    )  # fmt: skip
    return {"imatrix": first, "quantize": second, "both": first + second}


def smidgen_turn(options: argparse.Namespace) -> record.Run:
    """One run of `smidgen cut`, into a fresh folder."""
    folder = options.work / "smidgen"
    shutil.rmtree(folder, ignore_errors=True)
    command = record.smidgen(
        "cut", options.original, "--fit", str(options.fit), "--text", options.work / "calibration.txt", "-o", folder,
        "--threads", str(options.threads), "--tokens", str(options.tokens), "--no-measure",
    )  # fmt: skip
    cost = record.run(command, options.work / "smidgen.log", shared.environment_of(options.instructions))
    if not (folder / "model.gguf").is_file():
        raise SmidgenError(f"smidgen cut left no model.gguf; see {options.work / 'smidgen.log'}.")
    return cost


def compare(options: argparse.Namespace) -> dict[str, Any]:
    """All turns, as the object that is saved."""
    tools = llama_cpp_tools.find_or_build(options.tools)
    calibration = write_calibration(options)
    theirs, ours = [], []
    with track("taking turns", 2 * options.runs) as task:
        for _ in range(options.runs):
            theirs.append(llama_cpp_turn(options, tools))
            task.advance()
            ours.append(smidgen_turn(options))
            task.advance()
    return {
        **record.facts(llama_cpp=f"{llama_cpp_tools.PACKAGE} {llama_cpp_tools.VERSION}: {tools.version()}"),
        "original": options.original.name, "calibration": calibration, "threads": options.threads,
        "llama_cpp_type": f"{options.type}, embedding {options.embedding}", "fit": options.fit,
        "instructions": options.instructions, **summarize(theirs, ours),
    }  # fmt: skip


def summarize(theirs: Sequence[Mapping[str, record.Run]], ours: Sequence[record.Run]) -> dict[str, Any]:
    """Seconds and peak memory of each side and of llama.cpp's parts, and the ratio of the medians, if there are two."""
    parts = ("imatrix", "quantize", "both") if theirs else ()
    sides = {f"llama.cpp {part}": [turn[part] for turn in theirs] for part in parts}
    sides["smidgen cut"] = list(ours)
    result = {name: _summary(runs) for name, runs in sides.items()}
    if not theirs:
        return {**result, "time_ratio": None}
    ratio = result["smidgen cut"]["seconds"]["median"] / result["llama.cpp both"]["seconds"]["median"]
    return {**result, "time_ratio": ratio}


def _summary(runs: Sequence[record.Run]) -> dict[str, Any]:
    return {
        "seconds": record.spread([run.seconds for run in runs]),
        "cpu_seconds": record.spread([run.cpu_seconds for run in runs]),
        "peak_ram_bytes": record.spread([run.peak_ram_bytes for run in runs]),
    }


def show(result: dict[str, Any]) -> str:
    """The table that goes into README.md."""
    rows = []
    for name in ("llama.cpp imatrix", "llama.cpp quantize", "llama.cpp both", "smidgen cut"):
        if name not in result:
            continue
        seconds, memory = result[name]["seconds"], result[name]["peak_ram_bytes"]
        times = f"{seconds['median']:.0f} ({seconds['lowest']:.0f}-{seconds['highest']:.0f})"
        ratio = f"{result['time_ratio']:.2f}" if name == "smidgen cut" and result["time_ratio"] else ""
        rows.append((name, times, f"{memory['highest'] / 1e9:.2f}", ratio))
    return record.table(("side", "seconds, median (range)", "peak memory, GB", "time ratio"), rows)


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The options."""
    parser = shared.parser_of(__doc__)
    parser.add_argument("original", type=Path, help="GGUF file with unquantized weights: see off_lattice.py")
    shared.add_calibration(parser, 16_384)
    parser.add_argument("--fit", type=parse_size, default=parse_size("160MB"))
    shared.add_llama_cpp_types(parser)
    parser.add_argument("--runs", type=int, default=3)
    shared.add_instructions(parser)
    llama_cpp_tools.add_option(parser)
    options = parser.parse_args(arguments)
    options.output = options.output or shared.result_with(options.instructions, "cut_speed")
    return options


def main(arguments: Sequence[str] | None = None) -> None:
    """The command."""
    options = parse(arguments)
    with shared.work_folder("cut-speed") as folder:
        options.work = folder
        result = compare(options)
    shared.finish(options.output, result, show(result))


if __name__ == "__main__":
    main()
