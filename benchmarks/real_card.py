"""The report card of a real cut, beside that of llama.cpp's best file under the same limit: tasks, flips, KL, speed.

    python -m benchmarks.off_lattice qwen2.5-coder-1.5b original.gguf --tie-head
    python -m benchmarks.real_card original.gguf --fit 885640438 --calibration FILE@0 FILE@0 \\
        --text english=FILE --text code=FILE --data DIR --tasks mmlu:200,mbpp:100

Qwen2.5-Coder 1.5B is the one small model from PyPI on which MMLU and MBPP mean something. Both sides get the same limit
of bytes, the same calibration text and number of tokens. llama.cpp's best is the best of MIXTURES that fits, chosen by
KL on the evaluation text itself; smidgen gets one attempt. Then `smidgen measure` compares each file with the original.
The result holds both cards (speed and answers of smidgen's alone); smidgen's page is written to `--page`. What is
finished in `--work` is not done again.
"""

import argparse
import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from benchmarks import llama_cpp_tools, record, texts
from benchmarks import options as shared
from benchmarks.artefacts import Shelf
from benchmarks.calibrating import make_imatrix
from benchmarks.llama_cpp_mixtures import Body, Mixture, Quantizer
from benchmarks.meter import Meter
from smidgen.data.sources import read_text
from smidgen.data.text import cut_into_windows
from smidgen.errors import SmidgenError
from smidgen.formats.opening import open_checkpoint
from smidgen.model.tokenizer import Tokenizer
from smidgen.progress import say
from smidgen.sizes import parse_size

MIXTURES = (
    Mixture(Body("IQ4_XS", (("attn_output", "q5_k"), ("attn_v", "q8_0"))), "q5_k"),
    Mixture(Body("IQ4_NL"), "q4_k"),
    Mixture(Body("Q4_K_S"), "q4_k"),
)


def llama_cpp_best(options: argparse.Namespace) -> tuple[Path, list[dict[str, Any]]]:
    """llama.cpp's file that loses least, and what was seen of all that fit, the best first."""
    tools = llama_cpp_tools.find_or_build(options.tools)
    with open_checkpoint(options.original) as original:
        tokenizer = Tokenizer.from_gguf(original.tokenizer_metadata)
    calibration = texts.take(options.calibration, options.tokens, tokenizer)
    shelf = Shelf(options.work)
    imatrix, _ = make_imatrix(options, tools, shelf, calibration.write(options.work / "calibration.txt"))
    quantizer = Quantizer(tools, options.original, imatrix, shelf, options.threads)
    evaluation = texts.take([text.partition("=")[2] for text in options.text], options.quick_tokens, tokenizer)
    windows = cut_into_windows(evaluation.text, tokenizer)
    meter = Meter(options.original, options.work / "measured.json")
    found = []
    for mixture in MIXTURES:
        path = quantizer.made(mixture)
        if path.stat().st_size <= options.fit:
            figures = meter.figures(path, windows, str(mixture))
            found.append({"mixture": str(mixture), "bytes": path.stat().st_size, "path": path,
                          "kl_mean": figures["kl_mean"], "tokens": figures["tokens"]})  # fmt: skip
            say(f"{path.stat().st_size:,} bytes, KL {figures['kl_mean']:.4f}: {mixture}")
    if not found:
        raise SmidgenError(f"none of llama.cpp's files fits {options.fit} bytes; choose another size.")
    found.sort(key=lambda one: one["kl_mean"])
    return found[0]["path"], [{key: value for key, value in one.items() if key != "path"} for one in found]


def smidgen_cut(options: argparse.Namespace) -> Path:
    """smidgen's folder, made if it is not there."""
    folder = options.work / "smidgen"
    if not (folder / "model.gguf").exists():
        calibration = [word for name in options.calibration for word in ("--text", _piece(options.work, name))]
        command = record.smidgen(
            "cut", options.original, "--fit", str(options.fit), *calibration, "-o", folder, "--tokens",
            str(options.tokens), "--threads", str(options.threads), "--seed", str(options.seed), "--no-measure",
        )  # fmt: skip
        record.run(command, options.work / "cut.log")
    return folder


def _piece(work: Path, argument: str) -> Path:
    """A file with what `FILE@START` names, up to the middle where it starts at the beginning."""
    name, _, start = argument.rpartition("@")
    text = read_text(name or argument).text
    begin = int(float(start or 0) * len(text))
    path = work / f"{Path(name or argument).stem}-calibration.txt"
    path.write_text(text[begin : begin + len(text) // 2], encoding="utf-8", newline="")
    return path


def card_of(options: argparse.Namespace, model: Path, name: str, *without: str) -> dict[str, Any]:
    """The report card of one file against the original."""
    path = options.work / f"{name}-card" / "card.json"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        command = record.smidgen(
            "measure", options.original, model, *(word for text in options.text for word in ("--text", text)),
            "--tokens", str(options.evaluation_tokens), "--tasks", options.tasks, "--data", options.data,
            "--threads", str(options.threads), "--seed", str(options.seed), "-o", path, *without,
        )  # fmt: skip
        record.run(command, options.work / "measure.log")
    card = json.loads(path.read_text(encoding="utf-8"))
    del card["cut"]["tensors"]  # hundreds of rows, which the recipe makes again
    return card


def show(result: Mapping[str, Any]) -> str:
    """A row for each task and text."""
    cards = result["cards"]
    rows = []
    for name, card in cards.items():
        for task, score in card["tasks"].items():
            low, high = (100 * bound for bound in score["interval"])
            flips = score["flips"]
            rows.append(
                (
                    name, task, f"{score['original']:.1%}", f"{score['cut']:.1%}",
                    f"{100 * score['difference']:+.1f} [{low:+.1f}, {high:+.1f}]",
                    f"{flips['right_to_wrong']} / {flips['wrong_to_right']}", str(score["items"]),
                )
            )  # fmt: skip
        for text in card["fidelity"]:
            rows.append((name, f"KL, {text['text']}", "0", f"{text['kl_mean']:.4f}", "", "", f"{text['tokens']:,}"))
    return record.table(("file", "what", "original", "cut", "difference", "flips", "items"), rows)


def main() -> None:
    """Run the benchmark."""
    parser = shared.parser_of(__doc__, "real_card.json")
    parser.add_argument("original", type=Path, help="GGUF file with unquantized weights: see off_lattice.py")
    parser.add_argument("--fit", type=parse_size, required=True, help="limit of bytes for both sides")
    shared.add_calibration(parser, 16_384)
    parser.add_argument("--text", action="append", required=True, metavar="NAME=FILE", help="to measure on")
    shared.add_evaluation_tokens(parser, 2048)
    parser.add_argument("--quick-tokens", type=int, default=1024, help="of them, to choose among llama.cpp's files")
    parser.add_argument("--tasks", default="mmlu:200,mbpp:100")
    parser.add_argument("--data", type=Path, required=True, help="folder with mmlu/ and mbpp/")
    parser.add_argument("--page", type=Path, help="where to copy the page of smidgen's card")
    shared.add_seed(parser)
    shared.add_work(parser, "for files in between (some GB)", "out/real-card")
    llama_cpp_tools.add_option(parser)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    options.work.mkdir(parents=True, exist_ok=True)
    ours = smidgen_cut(options)
    theirs, seen = llama_cpp_best(options)
    cards = {
        "smidgen": card_of(options, ours, "smidgen"),
        "llama.cpp": card_of(options, theirs, "llama.cpp", "--no-speed", "--no-answers"),
    }
    if options.page is not None:
        shutil.copyfile(options.work / "smidgen-card" / "card.html", options.page)
    facts = record.facts(llama_cpp=llama_cpp_tools.VERSION)
    result = {**facts, "fit": options.fit, "llama_cpp": seen, "cards": cards}
    shared.finish(options.output, result, show(result))


if __name__ == "__main__":
    main()
