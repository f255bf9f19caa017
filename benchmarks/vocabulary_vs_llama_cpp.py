"""A cut with its vocabulary trimmed against llama.cpp's best file of twice the bytes, and the stock file's speed.

    python -m benchmarks.vocabulary_vs_llama_cpp original.gguf --stock stock.gguf --name english --fit 80MB \\
        --text en=wikitext2-valid.txt [--text de=deu.txt … --text it=] [--untrimmed]

`original.gguf` is off its lattice (off_lattice.py), `stock.gguf` the file that people download. Each text calibrates
with its second half and is measured on the first; `it=` without a file is text that the original writes itself,
different for the two. Every text gives the same number of tokens to both sides' calibration; smidgen chooses its tokens
by the whole half.

- smidgen: `smidgen cut --fit --langs`, which chooses the vocabulary and the bits together. Nothing is trained, unless
  `--heal` says for how many tokens: on the half that chose the vocabulary, before and after quantization.
- llama.cpp: the best of the most promising mixtures (llama_cpp_mixtures.py) of at most twice the bytes. They are ranked
  by the quick looks of an earlier run of quality_vs_llama_cpp.py (`--screened`), and the first few are measured here,
  with an importance matrix from the same calibration text.
- `--untrimmed`: the original with exactly the same types and its whole vocabulary, for what trimming alone does.

KL is D(original ‖ file) in nats a token; for the trimmed file the original is restricted to the kept tokens and
renormalised, and the mass that this drops is given beside it. Bits per byte are each model's own, over the same bytes.
Speed: cut and stock file in llama.cpp, in turns, the same threads.
"""

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from benchmarks import llama_cpp_tools, record, texts
from benchmarks import options as shared
from benchmarks.artefacts import Shelf
from benchmarks.calibrating import make_imatrix
from benchmarks.llama_cpp_mixtures import Quantizer, candidates
from benchmarks.speeds import rates
from smidgen.cutting.plan import Choice, matrices
from smidgen.cutting.quantize import Quantization, surveyed_model
from smidgen.data.drawing import Runs, draw
from smidgen.data.languages import languages_of
from smidgen.data.self_written import self_written_in
from smidgen.data.sources import read_text
from smidgen.data.text import WINDOW, cut_into_windows
from smidgen.engines.torch import TorchEngine
from smidgen.errors import SmidgenError
from smidgen.formats.checkpoint import Checkpoint
from smidgen.formats.opening import open_checkpoint
from smidgen.measuring.divergence import compare
from smidgen.measuring.pairing import kept_tokens, pair_windows
from smidgen.model.tokenizer import Tokenizer
from smidgen.numerics.block_types import BY_NAME
from smidgen.progress import say
from smidgen.quantization.workspace import QuantWorkspace
from smidgen.sizes import parse_size

_FIGURES = ("kl_mean", "kl_standard_error", "same_top1", "bits_per_byte_original", "bits_per_byte_cut", "dropped_mass",
            "tokens_dropped", "aligned", "tokens_per_byte_original", "tokens_per_byte_cut")  # fmt: skip


class Comparison:
    """The original, and texts to measure files on."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options, self.work = options, options.work
        self.original = open_checkpoint(options.original)
        self.tokenizer = Tokenizer.from_gguf(self.original.tokenizer_metadata)
        self.engine = TorchEngine(self.original, options.threads)
        self.calibration: dict[str, texts.Piece] = {}
        self.choosing: dict[str, str] = {}
        self.evaluation: dict[str, texts.Piece] = {}
        for given in options.text:
            name, _, file = given.partition("=")
            for pieces, start, tokens in (
                (self.calibration, "@0.5", -(-options.tokens // len(options.text))),
                (self.evaluation, "", options.evaluation_tokens),
            ):
                pieces[name] = (
                    texts.take([file + start], tokens, self.tokenizer) if file else self._written(name, start, tokens)
                )
            texts.refuse_overlap(self.calibration[name], self.evaluation[name])
            whole = read_text(file).text if file else ""
            self.choosing[name] = whole[whole.find("\n", len(whole) // 2) + 1 :] or self.calibration[name].text

    def _written(self, language: str, start: str, tokens: int) -> texts.Piece:
        purpose = "calibration" if start else "evaluation"
        (source,) = self_written_in(
            self.engine, self.tokenizer, self.original.sha256(), languages_of([language]), tokens, self.options.seed,
            purpose, self.work / "self-written",
        )  # fmt: skip
        about = {"file": source.name, "sha256": source.sha256, "from": 0.0, "characters": len(source.text)}
        return texts.Piece(source.text, self.tokenizer.encode(source.text), [about])

    def measure(self, model: Path) -> dict[str, Any]:
        """Figures of a file for each text, and their means."""
        found = {name: self._one(model, piece.text, name) for name, piece in self.evaluation.items()}
        means = {key: sum(one[key] for one in found.values()) / len(found) for key in _FIGURES if key != _FIGURES[1]}
        return {"bytes": model.stat().st_size, **means, "texts": found}

    def _one(self, model: Path, text: str, name: str) -> dict[str, Any]:
        windows = cut_into_windows(text, self.tokenizer)
        with open_checkpoint(model) as checkpoint:
            pairs = windows
            if checkpoint.config.vocabulary != self.original.config.vocabulary:
                before, after = (_tokens(one) for one in (self.original, checkpoint))
                kept = kept_tokens(before, after, ("original", "cut"))
                tokenizer = Tokenizer.from_gguf(checkpoint.tokenizer_metadata)
                pairs = pair_windows(windows, text, self.tokenizer, tokenizer, kept)
            figures = compare(self.engine, TorchEngine(checkpoint), pairs, f"{model.name} on {name}").figures()
        return {key: figures[key] for key in (*_FIGURES, "tokens", "bytes")}


def _tokens(checkpoint: Checkpoint) -> list[str]:
    tokens = checkpoint.file.metadata["tokenizer.ggml.tokens"]
    assert isinstance(tokens, list)
    return tokens


def smidgen_side(run: Comparison) -> tuple[Path, dict[str, Any]]:
    """The cut, and its figures."""
    options = run.options
    given: list[str] = []
    for name, text in run.choosing.items():
        path = run.work / f"calibration-{name}.txt"
        path.write_text(text, encoding="utf-8", newline="")
        given += ["--text", f"{name}={path}"]
    folder = run.work / "smidgen"
    command = record.smidgen(
        "cut", options.original, "--fit", str(options.fit), "--langs", ",".join(run.calibration), *given, "-o", folder,
        "--seed", str(options.seed), "--threads", str(options.threads), "--tokens", str(options.tokens), "--no-measure",
        "--json", *(["--heal", options.heal] if options.heal else []),
    )  # fmt: skip
    cost = record.run(command, run.work / "smidgen.log")
    answer = json.loads((run.work / "smidgen.log").read_text().strip().splitlines()[-1])
    figures = run.measure(folder / "model.gguf")
    done = {name: [step for step in answer["steps"] if step["step"] == name] for name in ("vocabulary", "heal")}
    kinds = {tensor["name"]: tensor["kind"] for tensor in answer["tensors"]}
    return folder / "model.gguf", {
        **figures, "vocabulary": done["vocabulary"], "healing": done["heal"], "types": kinds, "cost": cost,
        "command": record.shown(command[1:]),
    }  # fmt: skip


def untrimmed_side(run: Comparison, kinds: Mapping[str, str]) -> dict[str, Any]:
    """The original with the same types and all of its tokens."""
    options, original = run.options, run.original
    runs = [Runs(name, (run.tokenizer.encode(piece.text),)) for name, piece in run.calibration.items()]
    windows = draw(runs, options.tokens, WINDOW, run.tokenizer, options.seed).windows
    workspace = QuantWorkspace.start(run.work / "untrimmed-work", {})
    surveyed = surveyed_model(original, windows, (), options.seed, workspace)
    choices = [
        Choice(name, members, BY_NAME[kinds[name]], False, 0, 0.0) for name, members in matrices(original).items()
    ]
    Quantization(original, choices, surveyed, windows, workspace).write(run.work / "untrimmed.gguf")
    return run.measure(run.work / "untrimmed.gguf")


def llama_cpp_side(run: Comparison, size: int) -> list[dict[str, Any]]:
    """The most promising mixtures of at most `size` bytes, best first."""
    options = run.options
    tools = llama_cpp_tools.find_or_build(options.tools)
    joined = texts.Piece("\n".join(piece.text for piece in run.calibration.values()), [], [])
    shelf = Shelf(run.work)
    imatrix, _ = make_imatrix(options, tools, shelf, joined.write(run.work / "calibration.txt"))
    quantizer = Quantizer(tools, options.original, imatrix, shelf, options.threads)
    costs = {}
    for file in options.screened:
        costs |= json.loads(file.read_text())["screened"]
    known = [mixture for mixture in candidates() if str(mixture.body) in costs and mixture.embedding in costs]
    sizes = {mixture: quantizer.expected_bytes(mixture) for mixture in known}
    fitting = [mixture for mixture in known if sizes[mixture] <= size]
    ranked = sorted(fitting, key=lambda mixture: costs[str(mixture.body)] + costs[mixture.embedding])
    found = []
    for mixture in ranked:
        path = run.work / "llama.cpp.gguf"
        quantizer.make(mixture, path)
        figures = run.measure(path) if path.stat().st_size <= size else None
        if figures is not None:
            found.append({"mixture": str(mixture), **figures})
            say(f"{figures['bytes']:,} bytes, KL {figures['kl_mean']:.4f}: {mixture}")
        if len(found) == options.finalists:
            break
    if not found:
        raise SmidgenError(f"No mixture of llama.cpp's has at most {size} bytes; give a larger --fit.")
    return sorted(found, key=lambda one: one["kl_mean"])


def speeds(options: argparse.Namespace, cut: Path) -> dict[str, Any]:
    """The stock file and the cut in llama.cpp, taking turns."""
    measured = rates([options.stock, cut], options.threads, options.repeats)
    keys = ("decode_tokens_per_s", "decode_tokens_per_s_range", "prompt_tokens_per_s", "peak_ram_bytes", "engine")
    found: dict[str, Any] = {
        name: {key: one[key] for key in keys} for name, one in zip(("stock", "smidgen"), measured, strict=True)
    }
    return found | {"times": found["smidgen"]["decode_tokens_per_s"] / found["stock"]["decode_tokens_per_s"]}


def run_all(options: argparse.Namespace) -> dict[str, Any]:
    """The whole comparison, as the object that is saved."""
    torch.set_num_threads(options.threads)
    options.work.mkdir(parents=True, exist_ok=True)
    run = Comparison(options)
    path, ours = smidgen_side(run)
    result: dict[str, Any] = {
        **record.facts(llama_cpp=f"{llama_cpp_tools.PACKAGE} {llama_cpp_tools.VERSION}"),
        "name": options.name, "original": {"file": options.original.name, "sha256": run.original.sha256()},
        "calibration": {name: piece.description for name, piece in run.calibration.items()},
        "evaluation": {name: piece.description for name, piece in run.evaluation.items()},
        "seed": options.seed, "threads": options.threads, "smidgen": ours,
    }  # fmt: skip
    if options.untrimmed:
        result["same_types_untrimmed"] = untrimmed_side(run, ours["types"])
    if not options.alone:
        result["llama_cpp"] = llama_cpp_side(run, 2 * ours["bytes"])
        result["ratio"] = ours["kl_mean"] / result["llama_cpp"][0]["kl_mean"]
    result["speed"] = speeds(options, path)
    return result


def show(result: Mapping[str, Any]) -> str:
    """The table that goes into README.md."""
    files = [("smidgen, trimmed", result["smidgen"]), ("same types, not trimmed", result.get("same_types_untrimmed"))]
    files += [(f"llama.cpp {one['mixture']}", one) for one in result.get("llama_cpp", [])]
    rows = [
        (
            name, f"{one['bytes']:,}", f"{one['kl_mean']:.4f}", f"{one['dropped_mass']:.2%}", f"{one['same_top1']:.1%}",
            f"{one['bits_per_byte_original']:.4f} → {one['bits_per_byte_cut']:.4f}",
        )
        for name, one in files if one
    ]  # fmt: skip
    table = record.table(("file", "bytes", "KL mean", "dropped", "same top-1", "bits per byte"), rows)
    speed = result["speed"]
    rates = " against ".join(f"{speed[name]['decode_tokens_per_s']:.1f}" for name in ("smidgen", "stock"))
    tokens = result["smidgen"]["vocabulary"][0]["parameters"]["tokens"]
    return f"{result['name']}: {tokens:,} tokens; {rates} tokens/s, {speed['times']:.2f} times\n\n{table}"


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The options."""
    parser = shared.parser_of(__doc__)
    parser.add_argument("original", type=Path)
    parser.add_argument("--stock", type=Path, required=True, help="the file that people download")
    parser.add_argument("--name", required=True, help="of the result")
    parser.add_argument("--fit", type=parse_size, required=True)
    parser.add_argument("--text", action="append", required=True, metavar="LANGUAGE=[FILE]")
    shared.add_tokens(parser, 16_384, "of calibration, all texts together")
    shared.add_evaluation_tokens(parser, 8192)
    parser.add_argument("--screened", nargs="+", type=Path, help="results of quality_vs_llama_cpp.py",
                        default=sorted(record.RESULTS.glob("quality_vs_llama_cpp*.json")))  # fmt: skip
    parser.add_argument("--finalists", type=int, default=3)
    shared.add_heal(parser)
    parser.add_argument("--untrimmed", action="store_true", help="also the same types without trimming")
    parser.add_argument("--alone", action="store_true", help="leave llama.cpp's files out")
    parser.add_argument("--repeats", type=int, default=5, help="of the speed measurement")
    shared.add_seed(parser)
    shared.add_work(parser, "for files in between", "out/vocabulary")
    llama_cpp_tools.add_option(parser)
    options = parser.parse_args(arguments)
    options.output = options.output or record.RESULTS / f"vocabulary_{options.name}.json"
    return options


def main(arguments: Sequence[str] | None = None) -> None:
    """The command."""
    options = parse(arguments)
    result = run_all(options)
    shared.finish(options.output, result, show(result))


if __name__ == "__main__":
    main()
