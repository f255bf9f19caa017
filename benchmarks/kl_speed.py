"""Time and memory of `smidgen measure` against llama.cpp's own measurement of KL, on the same text and tokens.

    python -m benchmarks.kl_speed original.gguf cut.gguf --text FILE[@START] [--tokens 8192] [--runs 3]

llama.cpp needs two runs of llama-perplexity: the original's, which writes its logits to disk (80 MB for a window of
512, with a vocabulary of 152,000), and the cut's, which reads them. smidgen needs one command. The sides take turns, so
that a slow spell of the machine meets both; what counts is the ratio of the medians. Times are those of whole
processes, and processor time is that of all their threads. Peak memory counts the mapped pages of model files.

Both read the same tokens in windows of 512. What they do with them is not the same, to smidgen's disadvantage:
llama.cpp scores the second half of each window, smidgen all of it, and it compares the original with itself once more
on 1,024 tokens (its noise floor) and hashes both files. Whether both find the same KL is told from the positions that
llama.cpp scores (kl_windows.py), once, and is not timed.
"""

import argparse
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks import llama_cpp_tools, record
from benchmarks import options as shared
from smidgen.errors import SmidgenError
from smidgen.progress import track

_WINDOW = 512
_SIDES = ("llama.cpp original", "llama.cpp cut", "llama.cpp both", "smidgen measure")
_KL = re.compile(r"^(Mean|Median)\s+KLD:\s+(-?[\d.]+)", re.MULTILINE)


def write_text(options: argparse.Namespace) -> dict[str, Any]:
    """The text, cut to a window more than is measured, in a process of its own: this one stays small (record.py)."""
    command = [
        *("-m", "benchmarks.texts", str(options.original), str(options.work / "text.txt")),
        *("--tokens", str(options.tokens + _WINDOW), *options.text),
    ]
    return record.json_from_python(command)


def llama_cpp_turn(options: argparse.Namespace, tools: llama_cpp_tools.Tools) -> dict[str, record.Run]:
    """Both runs of llama-perplexity. The second's log is left in the work folder."""
    logits, log = options.work / "logits.bin", options.work / "llama.cpp.log"
    common = [
        *("-c", _WINDOW, "--chunks", options.tokens // _WINDOW, "-t", options.threads, "-tb", options.threads),
        *("--kl-divergence-base", logits),
    ]
    text = options.work / "text.txt"
    first = record.run([tools.perplexity, "-m", options.original, "-f", text, *map(str, common)], log)
    log.unlink()
    second = record.run([tools.perplexity, "-m", options.cut, "--kl-divergence", *map(str, common)], log)
    logits.unlink()
    return {"llama.cpp original": first, "llama.cpp cut": second, "llama.cpp both": first + second}


def smidgen_turn(options: argparse.Namespace) -> dict[str, record.Run]:
    """`smidgen measure`, without speed and answers to prompts, which are no part of KL."""
    command = record.smidgen(
        "measure", options.original, options.cut, "--text", options.work / "text.txt", "--no-speed", "--no-answers",
        "--tokens", str(options.tokens), "--threads", str(options.threads), "-o", options.work / "card.json",
    )  # fmt: skip
    return {"smidgen measure": record.run(command, options.work / "smidgen.log")}


def both_kl(options: argparse.Namespace) -> dict[str, Any]:
    """KL as llama.cpp's last run found it, and as smidgen finds it at the same positions."""
    found = dict(_KL.findall((options.work / "llama.cpp.log").read_text(errors="replace")))
    if set(found) != {"Mean", "Median"}:
        raise SmidgenError("llama-perplexity did not say what KL it found.")
    windows = str(options.tokens // _WINDOW)
    ours = record.json_from_python(
        ["-m", "benchmarks.kl_windows", str(options.original), str(options.cut), str(options.work / "text.txt"),
         "--windows", windows, "--threads", str(options.threads)]
    )  # fmt: skip
    return {"llama.cpp": {"kl_mean": float(found["Mean"]), "kl_median": float(found["Median"])}, "smidgen": ours}


def compare(options: argparse.Namespace) -> dict[str, Any]:
    """All turns, as the object that is saved."""
    tools = llama_cpp_tools.find_or_build(options.tools)
    text = write_text(options)
    turns: list[dict[str, record.Run]] = []
    with track("taking turns", 2 * options.runs) as task:
        for _ in range(options.runs):
            theirs = llama_cpp_turn(options, tools)
            task.advance()
            turns.append({**theirs, **smidgen_turn(options)})
            task.advance()
    return {
        **record.facts(llama_cpp=f"{llama_cpp_tools.PACKAGE} {llama_cpp_tools.VERSION}: {tools.version()}"),
        "original": options.original.name, "cut": options.cut.name, "text": text, "tokens": options.tokens,
        "threads": options.threads, **summarize(turns), "same_positions": both_kl(options),
    }  # fmt: skip


def summarize(turns: Sequence[Mapping[str, record.Run]]) -> dict[str, Any]:
    """Seconds, processor time and peak memory of each side, and the ratios of smidgen's medians to llama.cpp's."""
    result: dict[str, Any] = {}
    for side in _SIDES:
        runs = [turn[side] for turn in turns]
        result[side] = {
            "seconds": record.spread([run.seconds for run in runs]),
            "cpu_seconds": record.spread([run.cpu_seconds for run in runs]),
            "peak_ram_bytes": record.spread([run.peak_ram_bytes for run in runs]),
        }
    ours, theirs = result["smidgen measure"], result["llama.cpp both"]
    for ratio, key in (("time_ratio", "seconds"), ("cpu_time_ratio", "cpu_seconds")):
        result[ratio] = ours[key]["median"] / theirs[key]["median"]
    return result


def show(result: dict[str, Any]) -> str:
    """The table."""
    rows = []
    for side in _SIDES:
        seconds, cpu, memory = (result[side][key] for key in ("seconds", "cpu_seconds", "peak_ram_bytes"))
        ratio = f"{result['time_ratio']:.2f}" if side == "smidgen measure" else ""
        times = (f"{one['median']:.0f} ({one['lowest']:.0f}-{one['highest']:.0f})" for one in (seconds, cpu))
        rows.append((side, *times, f"{memory['highest'] / 1e9:.2f}", ratio))
    head = ("side", "seconds, median (range)", "processor seconds", "peak memory, GB", "time ratio")
    kl = result["same_positions"]
    same = f"mean KL at the same positions: llama.cpp {kl['llama.cpp']['kl_mean']:.5f}, "
    return f"{record.table(head, rows)}\n\n{same}smidgen {kl['smidgen']['kl_mean']:.5f}"


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The options."""
    parser = shared.parser_of(__doc__, "kl_speed.json")
    parser.add_argument("original", type=Path, help="GGUF file")
    parser.add_argument("cut", type=Path, help="GGUF file made from it, of types that llama.cpp reads")
    parser.add_argument("--text", nargs="+", required=True, metavar=shared.TEXTS)
    shared.add_tokens(parser, 8192, "that are measured on, whole windows of 512")
    shared.add_work(parser, "folder for the text and llama.cpp's logits, 80 MB a window")
    parser.add_argument("--runs", type=int, default=3)
    llama_cpp_tools.add_option(parser)
    options = parser.parse_args(arguments)
    if options.tokens % _WINDOW or options.tokens < 2 * _WINDOW:
        parser.error(f"--tokens must be a multiple of {_WINDOW}, {2 * _WINDOW} or more")
    return options


def main(arguments: Sequence[str] | None = None) -> None:
    """The command."""
    options = parse(arguments)
    with shared.work_folder("kl-speed", options.work) as folder:
        options.work = folder
        result = compare(options)
    shared.finish(options.output, result, show(result))


if __name__ == "__main__":
    main()
