"""Quality at equal file size: `smidgen cut` against llama.cpp's quantizer with an importance matrix from the same text.

    python -m benchmarks.off_lattice gemma-3-270m original.gguf
    python -m benchmarks.quality_vs_llama_cpp original.gguf --sizes 160MB,180MB \\
        --calibration wikitext2-valid.txt@0.5 --evaluation wikitext2-valid.txt [--other novel=emma.txt] [--heal 300000]

Both sides calibrate on the same tokens (calibrating.py). For each size:

- llama.cpp: the best of all mixtures in llama_cpp_mixtures.py whose file fits the size. A whole mixture is measured
  only if its parts promise something: each body is measured once with the embedding left at F16, each embedding once
  with the body left at F16, on a short text; mixtures are ranked by the sum of the two, and the first few are measured
  in full.
- smidgen: `smidgen cut --fit`, given exactly the bytes of llama.cpp's best file.

With `--heal`, smidgen's file is trained through its lattice afterwards (`smidgen cut --heal`), on more text of the same
kind (`--training`, `--training-tokens`; both sides then calibrate on `--tokens` of that). The result says how much
processor time that took.

The cost is KL(original ‖ cut) in nats a token on a text that neither side has seen, by smidgen's measure (float32,
whole vocabulary, every position of every window) for both, on the same windows. A ratio below 1 says that smidgen loses
less. The text is 30 articles or more (documents.py): every mean has a 95% interval over articles, and so has every
ratio, paired by article (bootstrap.py). With `--other NAME=FILE` the same two files are measured on text of other kinds
than they were made with.

Takes about an hour on 2 cores; a repeated run finds finished measurements in `--work`, where every file is named by the
hash of what it was made of (artefacts.py).
"""

import argparse
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from benchmarks import documents, llama_cpp_tools, record, texts
from benchmarks import options as shared
from benchmarks.artefacts import Shelf, name_of, sha256
from benchmarks.calibrating import Calibration, make_imatrix, same_for_both
from benchmarks.documents import Evaluation
from benchmarks.llama_cpp_mixtures import BODIES, EMBEDDINGS, UNTOUCHED, Body, Mixture, Quantizer
from benchmarks.meter import Meter, paired
from smidgen.errors import SmidgenError
from smidgen.formats.history import history
from smidgen.formats.opening import open_checkpoint
from smidgen.model.tokenizer import Tokenizer
from smidgen.progress import say
from smidgen.sizes import parse_size

_NEAR = 0.05  # a mixture that leaves more than this share of the size unused is not a candidate for it
_HOME = "evaluation"  # the text that mixtures are chosen on, among all that is measured on


@dataclass(frozen=True)
class Comparison:
    """What both sides work with.

    texts: to measure on, name → articles; the first is of the kind that both learn from.
    """

    options: argparse.Namespace
    shelf: Shelf
    quantizer: Quantizer
    meter: Meter
    calibration: Calibration
    texts: Mapping[str, Evaluation]

    @property
    def home(self) -> Evaluation:
        """The text that mixtures are chosen on."""
        return self.texts[_HOME]


@dataclass(frozen=True)
class Measured:
    """One file of llama.cpp's, measured in full."""

    mixture: Mixture
    path: Path
    nbytes: int
    figures: dict[str, Any]
    command: str

    def result(self) -> dict[str, Any]:
        """As it goes into the results."""
        return {
            "mixture": str(self.mixture), "file": self.path.name, "bytes": self.nbytes, **self.figures,
            "command": self.command,
        }  # fmt: skip


def screen(fitting: Iterable[Mixture], run: Comparison) -> dict[str, float]:
    """The KL of each body and of each embedding that occurs in `fitting`, the rest of the model left at F16."""
    windows, found, quantizer, meter = run.home.first(run.options.screen_tokens), {}, run.quantizer, run.meter
    fitting = list(fitting)
    alone = {str(mixture.body): Mixture(mixture.body, UNTOUCHED) for mixture in fitting}
    alone |= {mixture.embedding: Mixture(Body(UNTOUCHED.upper()), mixture.embedding) for mixture in fitting}
    path = run.shelf.folder / "screened.gguf"
    for name, mixture in alone.items():
        key = f"quick look {name_of(**quantizer.inputs(mixture), ids=windows.rows())}"
        if (remembered := meter.known.get(key)) is None:
            quantizer.make(mixture, path)
            remembered = meter.figures(path, windows, f"quick look at {mixture}")
            meter.remember(key, remembered)
        found[name] = remembered["kl_mean"]
        say(f"quick look, KL {found[name]:.4f}: {mixture}")
    path.unlink(missing_ok=True)
    return found


def llama_cpp_best(
    size: int, sizes: Mapping[Mixture, int], costs: Mapping[str, float], run: Comparison
) -> list[Measured]:
    """The most promising mixtures of at most `size` bytes, measured in full, best first."""
    fitting = [mixture for mixture, nbytes in sizes.items() if (1 - _NEAR) * size < nbytes <= size]
    promising = [mixture for mixture in fitting if not any(_outdoes(other, mixture, sizes, costs) for other in fitting)]
    ranked = sorted(promising, key=lambda mixture: costs[str(mixture.body)] + costs[mixture.embedding])
    measured, quantizer = [], run.quantizer
    for mixture in ranked[: run.options.finalists]:
        path = quantizer.made(mixture)
        nbytes = path.stat().st_size
        if nbytes <= size:
            figures = run.meter.by_article(path, run.home, str(mixture))
            command = record.shown(quantizer.command(mixture, quantizer.original, Path("quantized.gguf")))
            measured.append(Measured(mixture, path, nbytes, figures, command))
            say(f"{nbytes:,} bytes, KL {figures['kl_mean']:.4f}: {mixture}")
    if not measured:
        raise SmidgenError(f"No mixture of llama.cpp's comes near {size} bytes; choose another size.")
    return sorted(measured, key=lambda one: one.figures["kl_mean"])


def _outdoes(other: Mixture, mixture: Mixture, sizes: Mapping[Mixture, int], costs: Mapping[str, float]) -> bool:
    """Whether `other` has the same body with an embedding that costs less and is no larger."""
    cheaper = costs[other.embedding] < costs[mixture.embedding]
    return cheaper and other.body == mixture.body and sizes[other] <= sizes[mixture]


def smidgen_side(fit: int, run: Comparison) -> tuple[Path, dict[str, Any]]:
    """Cut the original to `fit` bytes. The file, and what goes into the results but for its figures."""
    options, given = run.options, run.calibration.given
    settings = {"fit": fit, "seed": options.seed, "tokens": options.tokens, "heal": options.heal}
    folder = run.shelf.path("smidgen", "", original=sha256(options.original), text=sha256(given), **settings)
    command = record.smidgen(
        "cut", options.original, "--fit", str(fit), "--text", given, "-o", folder,
        "--seed", str(options.seed), "--threads", str(options.threads), "--tokens", str(options.tokens), "--no-measure",
        "--json", *(["--heal", options.heal] if options.heal else []),
    )  # fmt: skip
    log = run.shelf.folder / "smidgen.log"
    cost = record.run(command, log)
    path = folder / "model.gguf"
    steps = json.loads(log.read_text(errors="replace").strip().splitlines()[-1])["steps"]
    healing = next((step for step in steps if step["step"] == "heal"), None)
    return path, {
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
    learned, given = options.calibration, None
    if options.heal:
        learned, given = options.training or options.calibration, options.training_tokens
    calibration = same_for_both(learned, options.tokens, tokenizer, options.work, options.seed, given)
    measured_on = {
        name: documents.take(files, options.articles, options.evaluation_tokens, tokenizer)
        for name, files in {_HOME: options.evaluation, **{name: [file] for name, file in options.other}}.items()
    }
    overlaps = {name: texts.refuse_overlap(calibration.piece, text) for name, text in measured_on.items()}
    imatrix, command = make_imatrix(options, tools, shelf, calibration.learned)
    quantizer = Quantizer(tools, options.original, imatrix, shelf, options.threads)
    run = Comparison(
        options, shelf, quantizer, Meter(options.original, options.work / "measured.json"), calibration, measured_on
    )
    return run, {
        **record.facts(llama_cpp=f"{llama_cpp_tools.PACKAGE} {llama_cpp_tools.VERSION}: {tools.version()}"),
        "original": {"file": options.original.name, "sha256": sha256(options.original), "made_by": made_by},
        "calibration": calibration.description,
        "texts": {name: text.description | {"overlap": overlaps[name]} for name, text in measured_on.items()},
        "seed": options.seed, "threads": options.threads, "imatrix": command,
    }  # fmt: skip


def compare_sizes(options: argparse.Namespace) -> dict[str, Any]:
    """The whole comparison, as the object that is saved."""
    run, facts = prepared(options)
    sizes = run.quantizer.expected_sizes()
    near = [m for m, nbytes in sizes.items() if any((1 - _NEAR) * size < nbytes <= size for size in options.sizes)]
    costs = screen(near, run)
    found = [compare_at(size, sizes, costs, run) for size in options.sizes]
    return {
        **facts,
        "considered": {"bodies": len(BODIES), "embeddings": len(EMBEDDINGS), "near_a_size": len(near)},
        "screened": dict(sorted(costs.items(), key=lambda item: item[1])),
        "sizes": found,
        "artefacts": run.shelf.used,
    }


def compare_at(size: int, sizes: Mapping[Mixture, int], costs: Mapping[str, float], run: Comparison) -> dict[str, Any]:
    """Both sides at one size, on every text."""
    best, *others = llama_cpp_best(size, sizes, costs, run)
    result = {"size": size, "llama_cpp": [one.result() for one in (best, *others)], "smidgen": None, "ratio": None}
    if run.options.sides == "llama.cpp":
        return result
    path, ours = smidgen_side(best.nbytes, run)
    figures = run.meter.by_article(path, run.home, f"smidgen at {best.nbytes} bytes")
    result |= {"smidgen": ours | figures, **paired(figures, best.figures), "other": {}}
    for name, text in run.texts.items():
        if name == _HOME:
            continue
        sides = {
            side: run.meter.by_article(file, text, f"{side} on {name}")
            for side, file in (("smidgen", path), ("llama_cpp", best.path))
        }
        result["other"][name] = sides | paired(sides["smidgen"], sides["llama_cpp"])
    return result


def show(result: Mapping[str, Any]) -> str:
    """The tables that go into README.md: the home text, and the other texts beside it."""
    rows, kinds = [], []
    for one in result["sizes"]:
        for name, figures in [
            ("smidgen", one["smidgen"]),
            *((f"llama.cpp {m['mixture']}", m) for m in one["llama_cpp"]),
        ]:
            if figures:
                numbers = (f"{figures['kl_p99']:.2f}", f"{figures['same_top1']:.1%}")
                ratio = _ratio(one) if name == "smidgen" else ""
                rows.append(
                    (
                        name,
                        f"{figures['bytes']:,}",
                        _kl(figures),
                        *numbers,
                        f"{figures['bits_per_byte_cut']:.4f}",
                        ratio,
                    )
                )
        for name, other in (one.get("other") or {}).items():
            kinds.append((f"{one['size']:,}", name, _kl(other["smidgen"]), _kl(other["llama_cpp"]), _ratio(other)))
    head = ("file", "bytes", "KL mean (95%)", "KL p99", "same top-1", "bits per byte", "ratio to best (95%)")
    tables = [record.table(head, rows)]
    if kinds:
        tables.append(record.table(("size", "text", "smidgen, KL", "llama.cpp, KL", "ratio (95%)"), kinds))
    return "\n\n".join(tables)


def _kl(figures: Mapping[str, Any]) -> str:
    low, high = figures["kl_interval"]
    return f"{figures['kl_mean']:.4f} ({low:.4f} to {high:.4f})"


def _ratio(result: Mapping[str, Any]) -> str:
    low, high = result["ratio_interval"]
    return f"{result['ratio']:.2f} ({low:.2f} to {high:.2f})"


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
    parser.add_argument("--sizes", default="160MB,180MB", help="file sizes to compare at, with commas")
    shared.add_calibration(parser, 16_384)
    shared.add_evaluation(parser, 16_384)
    parser.add_argument("--articles", type=int, default=30, help="of each text that is measured on, at least")
    parser.add_argument(
        "--other", type=_named, action="append", default=[], metavar=f"NAME={shared.TEXTS}",
        help="text of another kind to measure both files on, repeatable",
    )  # fmt: skip
    parser.add_argument("--screen-tokens", type=int, default=2048, help="of evaluation, for the quick look")
    parser.add_argument(
        "--finalists", type=int, default=5, help="mixtures of llama.cpp's measured in full at each size"
    )
    shared.add_heal(parser)
    parser.add_argument(
        "--training", nargs="+", metavar="FILE[@START]", help="text for --heal  [default: that of calibration]"
    )
    parser.add_argument("--training-tokens", type=int, default=131_072, help="of text for --heal")
    parser.add_argument("--sides", choices=("both", "llama.cpp"), default="both")
    shared.add_seed(parser)
    shared.add_work(parser, "for files in between (some GB)", "out/quality")
    llama_cpp_tools.add_option(parser)
    options = parser.parse_args(arguments)
    options.sizes = [parse_size(size) for size in options.sizes.split(",")]
    return options


def main(arguments: Sequence[str] | None = None) -> None:
    """The command."""
    options = parse(arguments)
    result = compare_sizes(options)
    shared.finish(options.output, result, show(result))


if __name__ == "__main__":
    main()
