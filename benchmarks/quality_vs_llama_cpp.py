"""Quality at equal file size: `smidgen cut` against llama.cpp's quantizer with an importance matrix from the same text.

    python -m benchmarks.off_lattice gemma-3-270m original.gguf
    python -m benchmarks.quality_vs_llama_cpp original.gguf --bits 4.6,5,5.5 \\
        --calibration wikitext2-valid.txt@0.5 --evaluation wikitext2-valid.txt@0-0.5 [--other novel=emma.txt] \\
        [--given 100000] [--heal 300000] [--ik-llama-cpp llama-quantize] [--file "AutoRound q4_k_m=FILE.gguf"]

Both sides calibrate on the same tokens (calibrating.py). For each size:

- llama.cpp: the best file that fits the size and uses most of it (best_mixture.py), out of all mixtures in
  llama_cpp_mixtures.py, or of those named with `--bodies` and `--embeddings`.
- smidgen: `smidgen cut --fit`, given exactly the bytes of llama.cpp's best file.

With `--heal`, smidgen's file is trained through its lattice afterwards (`smidgen cut --heal`), on all of the text that
it was given (`--given` tokens; both sides calibrate on `--tokens` of that, with and without `--heal`, so that a healed
run finds llama.cpp's files of the run before). The result says how much processor time that took.

Other engines' files go beside them, marked as such, since llama.cpp cannot read them or they are not of equal bytes:
ik_llama.cpp's types between the smallest and the largest size (ik_llama_cpp.py), and any GGUF file with `--file`.

The cost is KL(original ‖ cut) in nats a token on a text that neither side has seen, by smidgen's measure (float32,
whole vocabulary, every position of every window) for all, on the same windows. A ratio below 1 says that smidgen loses
less. The text is 30 articles or more (documents.py): every mean has a 95% interval over articles, and so has every
ratio, paired by article (bootstrap.py). With `--other NAME=FILE` the two files of a size are measured on text of other
kinds than they were made with.

A repeated run finds finished files and measurements in `--work`, where every file is named by the hash of what it was
made of (artefacts.py), smidgen's code included.
"""

import argparse
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from benchmarks import documents, llama_cpp_tools, record, texts
from benchmarks import options as shared
from benchmarks.artefacts import Shelf, code_of_a_cut, sha256
from benchmarks.best_mixture import Search, chosen_bodies, chosen_embeddings
from benchmarks.calibrating import Calibration, make_imatrix, same_for_both
from benchmarks.documents import Evaluation
from benchmarks.ik_llama_cpp import TYPES, IkQuantizer, chosen_types, measured
from benchmarks.llama_cpp_mixtures import BODIES, EMBEDDINGS, Quantizer
from benchmarks.meter import Meter, paired
from benchmarks.quality_shown import show
from smidgen.formats.history import history
from smidgen.formats.opening import open_checkpoint
from smidgen.model.tokenizer import Tokenizer
from smidgen.progress import say
from smidgen.sizes import parse_size

_HOME = "evaluation"  # the text that mixtures are chosen on, among all that is measured on


@dataclass(frozen=True)
class Comparison:
    """What both sides work with.

    sizes: in bytes.  texts: to measure on, name → articles; the first is of the kind that both learn from.
    """

    options: argparse.Namespace
    shelf: Shelf
    search: Search
    meter: Meter
    calibration: Calibration
    imatrix: Path
    sizes: Sequence[int]
    texts: Mapping[str, Evaluation]

    @property
    def home(self) -> Evaluation:
        """The text that mixtures are chosen on."""
        return self.texts[_HOME]


def smidgen_side(fit: int, run: Comparison) -> tuple[Path, dict[str, Any]]:
    """Cut the original to `fit` bytes. The file, and what goes into the results but for its figures."""
    options, given = run.options, run.calibration.given
    settings = {"fit": fit, "seed": options.seed, "tokens": options.tokens, "heal": options.heal}
    inputs = {"original": sha256(options.original), "text": sha256(given), "code": code_of_a_cut(), **settings}
    folder = run.shelf.path("smidgen", "", **inputs)
    finished = folder.with_suffix(".json")
    if not finished.exists():
        record.save(finished, _cut(folder, fit, run))
    return folder / "model.gguf", json.loads(finished.read_text())


def _cut(folder: Path, fit: int, run: Comparison) -> dict[str, Any]:
    options = run.options
    command = record.smidgen(
        "cut", options.original, "--fit", str(fit), "--text", run.calibration.given, "-o", folder,
        "--seed", str(options.seed), "--threads", str(options.threads), "--tokens", str(options.tokens), "--no-measure",
        "--json", *(["--heal", options.heal] if options.heal else []),
    )  # fmt: skip
    log = run.shelf.folder / "smidgen.log"
    cost = record.run(command, log)
    path = folder / "model.gguf"
    steps = json.loads(log.read_text(errors="replace").strip().splitlines()[-1])["steps"]
    healing = next((step for step in steps if step["step"] == "heal"), None)
    return {
        "file": folder.name, "sha256": sha256(path), "bytes": path.stat().st_size, "healing": healing, "cost": cost,
        "command": record.shown(command[1:]),
    }  # fmt: skip


def prepared(options: argparse.Namespace) -> tuple[Comparison, dict[str, Any]]:
    """All that both sides need, and what the result says of it. Refuses text that is learned from and measured on."""
    torch.set_num_threads(options.threads)
    options.work.mkdir(parents=True, exist_ok=True)
    tools, shelf = llama_cpp_tools.find_or_build(options.tools), Shelf(options.work)
    with open_checkpoint(options.original) as original:
        tokenizer, made_by = Tokenizer.from_gguf(original.tokenizer_metadata), history(original.file.metadata)
        weights = original.parameters
    calibration = same_for_both(
        options.calibration, options.tokens, tokenizer, options.work, options.seed, options.given
    )
    measured_on = {
        name: documents.take(files, options.articles, options.evaluation_tokens, tokenizer)
        for name, files in {_HOME: options.evaluation, **{name: [file] for name, file in options.other}}.items()
    }
    overlaps = {name: texts.refuse_overlap(calibration.piece, text) for name, text in measured_on.items()}
    imatrix, command = make_imatrix(options, tools, shelf, calibration.learned)
    quantizer = Quantizer(tools, options.original, imatrix, shelf, options.threads)
    meter = Meter(options.original, options.work / "measured.json")
    search = Search(
        quantizer, meter, measured_on[_HOME], options.bodies, options.embeddings, options.screen_tokens,
        options.finalists,
    )  # fmt: skip
    sizes = options.sizes or [int(bits * weights / 8) for bits in options.bits]
    run = Comparison(options, shelf, search, meter, calibration, imatrix, sizes, measured_on)
    return run, {
        **record.facts(llama_cpp=f"{llama_cpp_tools.PACKAGE} {llama_cpp_tools.VERSION}: {tools.version()}"),
        "original": {
            "file": options.original.name, "sha256": sha256(options.original), "weights": weights, "made_by": made_by,
        },
        "calibration": calibration.description,
        "texts": {name: text.description | {"overlap": overlaps[name]} for name, text in measured_on.items()},
        "seed": options.seed, "threads": options.threads, "imatrix": command,
    }  # fmt: skip


def compare_sizes(options: argparse.Namespace) -> dict[str, Any]:
    """The whole comparison, as the object that is saved."""
    run, facts = prepared(options)
    near = {size: len(run.search.near(size)) for size in run.sizes}  # refuses a size before hours of work
    found = [compare_at(size, run) for size in run.sizes]
    others, failed = other_engines(run)
    return {
        **facts,
        "considered": {"bodies": len(options.bodies), "embeddings": len(options.embeddings), "near_a_size": near},
        "screened": dict(sorted(run.search.costs.items(), key=lambda item: item[1])),
        "sizes": found,
        "other_engines": others,
        "notes": [*options.note, *failed],
        "artefacts": run.shelf.used,
    }


def compare_at(size: int, run: Comparison) -> dict[str, Any]:
    """Both sides at one size, on every text."""
    best, *others = run.search.best(size)
    result = {"size": size, "llama_cpp": [one.result() for one in (best, *others)], "smidgen": None, "ratio": None}
    if run.options.sides == "llama.cpp":
        return result
    path, ours = smidgen_side(best.nbytes, run)
    figures = run.meter.by_article(path, run.home, f"smidgen at {best.nbytes} bytes")
    result |= {"smidgen": ours | figures, **paired(figures, best.figures), "other": {}}
    say(f"{ours['bytes']:,} bytes, KL {figures['kl_mean']:.4f}, {result['ratio']:.2f} times llama.cpp's: smidgen")
    for name, text in run.texts.items():
        if name == _HOME:
            continue
        sides = {
            side: run.meter.by_article(file, text, f"{side} on {name}")
            for side, file in (("smidgen", path), ("llama_cpp", best.path))
        }
        result["other"][name] = sides | paired(sides["smidgen"], sides["llama_cpp"])
    return result


def other_engines(run: Comparison) -> tuple[list[dict[str, Any]], list[str]]:
    """Files of other makers, measured on the home text, and what is to be said of those that could not be made."""
    options, found, failed = run.options, [], []
    if options.ik_llama_cpp is not None:
        tools = llama_cpp_tools.find_or_build(options.tools)
        quantizer = IkQuantizer(options.ik_llama_cpp, tools, options.original, run.imatrix, run.shelf, options.threads)
        found, failed = measured(quantizer, options.ik_types, run.sizes, run.home, run.meter)
    for name, file in ((name, Path(file)) for name, file in options.file):
        figures = run.meter.by_article(file, run.home, name)
        about = {"engine": name, "file": file.name, "sha256": sha256(file), "bytes": file.stat().st_size}
        found.append(about | figures)
    return found, failed


def _named(argument: str) -> tuple[str, str]:
    """`NAME=FILE`."""
    name, equals, file = argument.partition("=")
    if not (name and equals and file) or name == _HOME:
        raise argparse.ArgumentTypeError(f"{argument!r} is not NAME=FILE")
    return name, file


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The options."""
    parser = shared.parser_of(__doc__, "quality_vs_llama_cpp.json")
    parser.add_argument("original", type=Path, help="GGUF file with unquantized weights: see off_lattice.py")
    sizes = parser.add_mutually_exclusive_group(required=True)
    sizes.add_argument("--sizes", type=_sizes, help="file sizes to compare at: 160MB,180MB")
    sizes.add_argument("--bits", type=_numbers, help="the same in bits for each weight of the model: 4.6,5,5.5")
    shared.add_calibration(parser, 16_384)
    parser.add_argument("--given", type=int, help="tokens of that text smidgen may heal on  [default: what it needs]")
    shared.add_heal(parser)
    shared.add_evaluation(parser, 16_384)
    parser.add_argument("--articles", type=int, default=30, help="of each text that is measured on, at least")
    parser.add_argument(
        "--other", type=_named, action="append", default=[], metavar=f"NAME={shared.TEXTS}",
        help="text of another kind to measure both files on, repeatable",
    )  # fmt: skip
    parser.add_argument(
        "--bodies", type=chosen_bodies, default=BODIES, metavar="A,B…", help="of llama_cpp_mixtures.py  [default: all]"
    )
    parser.add_argument("--embeddings", type=chosen_embeddings, default=EMBEDDINGS, metavar="A,B…", help="the same")
    parser.add_argument("--screen-tokens", type=int, default=2048, help="of evaluation, for the quick look")
    parser.add_argument(
        "--finalists", type=int, default=5, help="mixtures of llama.cpp's measured in full at each size"
    )
    parser.add_argument("--ik-llama-cpp", type=Path, metavar="QUANTIZE", help="its llama-quantize: ik_llama_cpp.py")
    parser.add_argument("--ik-types", type=chosen_types, default=TYPES, metavar="A,B…", help="of it  [default: all]")
    parser.add_argument(
        "--file", type=_named, action="append", default=[], metavar="NAME=FILE.gguf",
        help="a file of another maker, to be measured beside them, repeatable",
    )  # fmt: skip
    parser.add_argument("--note", action="append", default=[], help="a sentence that goes into the result, repeatable")
    parser.add_argument("--sides", choices=("both", "llama.cpp"), default="both")
    shared.add_seed(parser)
    shared.add_work(parser, "for files in between (some GB)", "out/quality")
    llama_cpp_tools.add_option(parser)
    return parser.parse_args(arguments)


def _sizes(argument: str) -> list[int]:
    return [parse_size(size) for size in argument.split(",")]


def _numbers(argument: str) -> list[float]:
    return [float(number) for number in argument.split(",")]


def main(arguments: Sequence[str] | None = None) -> None:
    """The command."""
    options = parse(arguments)
    result = compare_sizes(options)
    shared.finish(options.output, result, show(result))


if __name__ == "__main__":
    main()
