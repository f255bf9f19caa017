"""Time and memory of `smidgen inspect` and `smidgen cut` on a model of real size, beside llama.cpp's two tools.

    python -m benchmarks.real_size gemma-2-2b [--tokens 4096] [--runs 1] [--work DIR]
    python -m benchmarks.real_size mistral-7b --layout hf --tokens 1024

The weights are random (random_model.py): time and memory depend on shapes and not on values, and quality is not looked
at here. Both sides calibrate on the same number of tokens of the same text. It is smaller than either side's
default, so that a turn takes some 15 minutes on two cores; what grows with the tokens grows on both sides alike.

Times are wall time of whole processes, from start to written file; peak memory is the largest resident set of a
process, memory-mapped model files included. The sides take turns. `smidgen cut` runs without its report card, which
llama.cpp's tools do not make. The model file is read once before the first turn, so that no side finds a cold disk.

With `--layout hf` the model is a folder in Hugging Face layout, its weights in shards; llama.cpp's tools, which cannot
read that, take no turn, and what counts is memory.

    python -m benchmarks.real_size gemma-2-2b --card --work DIR [--fit 1GB] [--langs en] [--instructions AVX2]

is another measurement (whole_cut.py): the cut as people call it, without a text, from the start to the report card.

- Wall time, processor time and memory, of each stage too. Memory is that of everything: the cut and the engines that it
  starts at each moment, with their mapped files, a page once (process_tree.py).
- Bytes, and the share of `--fit` that is left unused.
- Speed of the file in llama-bench beside llama.cpp's Q2_K and Q3_K_S of the same model, in turns, and the memory of
  running each. These two are larger than 1 GB.

The cut has a home of its own (SMIDGEN_HOME), so it writes its text anew. What is measured stays in DIR, and a repeated
run goes on from there: after a failure, or with other options.
"""

import argparse
from collections.abc import Sequence
from typing import Any

from benchmarks import llama_cpp_tools, record, whole_cut
from benchmarks import options as shared
from benchmarks.cut_speed import llama_cpp_turn, show, smidgen_turn, summarize
from smidgen.progress import track
from smidgen.sizes import parse_size

#: Shape → size to cut to, about 4.6 bits a weight.
_FITS = {"gemma-2-2b": "1.5GB", "mistral-7b": "4.2GB", "gemma-4-e2b": "2.7GB"}
_CARD_FIT = "1GB"
_READ_BYTES = 2**24


def make_model(options: argparse.Namespace) -> None:
    """The model and the calibration text, in a process of its own: this one has to stay small (see record.py)."""
    size = "".join(f"-{number}" for number in (options.blocks, options.vocabulary) if number)
    options.original = options.work / f"{options.shape}{size}.gguf"
    shape = [f"--blocks={options.blocks}"] if options.blocks else []
    shape += [f"--vocabulary={options.vocabulary}"] if options.vocabulary else []
    command = ["-m", "benchmarks.random_model", options.shape, str(options.original), *shape]
    if not options.card:
        tokens = options.tokens * 5 // 4 + 1024
        command += ["--text", str(options.work / "calibration.txt"), "--tokens", str(tokens)]
    options.made = record.json_from_python(command)
    with options.original.open("rb") as file:
        while file.read(_READ_BYTES):
            pass


def make_folder(options: argparse.Namespace) -> None:
    """The same model in shards, in place of the file."""
    folder = options.work / f"{options.shape}-hf"
    record.run(record.smidgen("export", options.original, "--to", "hf", "-o", folder), options.work / "export.log")
    options.original.unlink()
    options.original = folder
    options.made["shards"] = len(list(folder.glob("*.safetensors")))


def compare(options: argparse.Namespace) -> dict[str, Any]:
    """All turns, as the object that is saved."""
    tools = llama_cpp_tools.find_or_build(options.tools) if options.layout == "gguf" else None
    make_model(options)
    if tools is None:
        make_folder(options)
    theirs, ours = [], []
    with track("taking turns", 2 * options.runs + 1) as task:
        inspected = record.run(record.smidgen("inspect", options.original), options.work / "inspect.log")
        task.advance()
        for _ in range(options.runs):
            if tools is not None:
                theirs.append(llama_cpp_turn(options, tools))
            task.advance()
            ours.append(smidgen_turn(options))
            task.advance()
    return {
        **record.facts(llama_cpp=None if tools is None else f"{llama_cpp_tools.PACKAGE} {llama_cpp_tools.VERSION}"),
        "layout": options.layout, "shape": options.shape, "model": options.made, "tokens": options.tokens,
        "threads": options.threads, "llama_cpp_type": f"{options.type}, embedding {options.embedding}",
        "fit": options.fit, "bytes": (options.work / "smidgen" / "model.gguf").stat().st_size, "inspect": inspected,
        "instructions": options.instructions, **summarize(theirs, ours),
    }  # fmt: skip


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The options."""
    parser = shared.parser_of(__doc__)
    parser.add_argument("shape", choices=_FITS)
    parser.add_argument("--tokens", type=int, help="of calibration  [default: 4096; with --card the cut's own]")
    parser.add_argument("--layout", choices=["gguf", "hf"], default="gguf", help="of the model that is cut")
    parser.add_argument("--fit", type=parse_size, help="default: about 4.6 bits a weight")
    parser.add_argument("--blocks", type=int, help="fewer than the real model has, to try this out")
    parser.add_argument("--vocabulary", type=int, help="a smaller one, to try this out")
    shared.add_llama_cpp_types(parser)
    parser.add_argument("--runs", type=int, default=1)
    parser.add_argument("--card", action="store_true", help="the cut without a text, up to its report card")
    parser.add_argument("--langs", help="with --card: of the cut")
    parser.add_argument("--cut-alone", action="store_true", help="with --card: nothing beside it")
    parser.add_argument("--repeats", type=int, default=5, help="with --card: turns of llama-bench")
    shared.add_seed(parser)
    shared.add_instructions(parser)
    shared.add_work(parser, "folder for the model and what is made of it: some 10 to 25 GB; with --card it is kept")
    llama_cpp_tools.add_option(parser)
    options = parser.parse_args(arguments)
    if options.card and (options.work is None or options.layout != "gguf"):
        parser.error("--card needs --work DIR, and is for --layout gguf")
    options.fit = options.fit or parse_size(_CARD_FIT if options.card else _FITS[options.shape])
    options.tokens = options.tokens if options.card else options.tokens or 4096
    name = f"real_size_{options.shape}_{'card' if options.card else options.layout}"
    name += f"_{options.langs.replace(',', '-')}" if options.langs else ""
    options.output = options.output or shared.result_with(options.instructions, name)
    return options


def compare_card(options: argparse.Namespace) -> dict[str, Any]:
    """The other measurement."""
    options.work.mkdir(parents=True, exist_ok=True)
    make_model(options)
    return whole_cut.compare(options)


def main(arguments: Sequence[str] | None = None) -> None:
    """The command."""
    options = parse(arguments)
    if options.card:
        result = compare_card(options)
        shared.finish(options.output, result, whole_cut.show(result))
        return
    with shared.work_folder("real-size", options.work) as folder:
        options.work = folder
        result = compare(options)
    shared.finish(options.output, result, show(result))


if __name__ == "__main__":
    main()
