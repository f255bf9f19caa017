"""Quality at equal file size: `smidgen cut` against llama.cpp's quantizer with an importance matrix from the same text.

    python -m benchmarks.off_lattice gemma-3-270m original.gguf
    python -m benchmarks.quality_vs_llama_cpp original.gguf --sizes 160MB,180MB \\
        --calibration wikitext2-valid.txt@0.5 --evaluation wikitext2-valid.txt [--heal 300000]

Both sides get the same calibration text and the same number of tokens. For each size:

- llama.cpp: the best of all mixtures in llama_cpp_mixtures.py whose file fits the size. A whole mixture is measured
  only if its parts promise something: each body is measured once with the embedding left at F16, each embedding once
  with the body left at F16, on a short text; mixtures are ranked by the sum of the two, and the first few are measured
  in full.
- smidgen: `smidgen cut --fit`, given exactly the bytes of llama.cpp's best file. (It keeps a fifth of the text for the
  report card, so it calibrates on four fifths of what llama.cpp sees.)

With `--heal`, smidgen's file is trained through its lattice afterwards (`smidgen cut --heal`), on more text of the same
kind (`--training`, `--training-tokens`; it still calibrates on `--tokens` of it). The result says how much processor
time that took.

The cost is KL(original ‖ cut) in nats a token on a text that neither side has seen, by smidgen's measure (float32,
whole vocabulary, every position of every window) for both, on the same windows. A ratio below 1 says that smidgen loses
less. Takes about an hour on 2 cores; a repeated run finds finished measurements in `--work`.
"""

import argparse
import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from benchmarks import llama_cpp_tools, record, texts
from benchmarks import options as shared
from benchmarks.llama_cpp_mixtures import BODIES, EMBEDDINGS, UNTOUCHED, Body, Mixture, Quantizer, candidates
from smidgen.data.text import Windows, cut_into_windows
from smidgen.engines.torch import TorchEngine
from smidgen.errors import SmidgenError, Unsupported
from smidgen.formats.opening import open_checkpoint
from smidgen.measuring.divergence import compare
from smidgen.model.tokenizer import Tokenizer
from smidgen.progress import say
from smidgen.sizes import parse_size

_IMATRIX_CHUNK = 512
_NEAR = 0.05  # a mixture that leaves more than this share of the size unused is not a candidate for it


class Meter:
    """Measures files against the original on fixed windows, and remembers: each measurement takes minutes."""

    def __init__(self, original: Path, text: str, tokens: int, memory: Path, quantizer: Quantizer) -> None:
        self.original = TorchEngine(open_checkpoint(original))
        tokenizer = Tokenizer.from_gguf(self.original.checkpoint.tokenizer_metadata)
        self.windows = cut_into_windows(text, tokenizer).take(range(-(-tokens // _IMATRIX_CHUNK)))
        self.memory, self.quantizer = memory, quantizer
        self.known: dict[str, dict[str, Any]] = json.loads(memory.read_text()) if memory.exists() else {}

    def first(self, tokens: int) -> Windows:
        """The windows of a quick look."""
        return self.windows.take(range(min(len(self.windows), -(-tokens // _IMATRIX_CHUNK))))

    def figures(self, model: Path, windows: Windows, label: str) -> dict[str, Any]:
        """The fidelity figures of one file (`Divergence.figures`)."""
        with model.open("rb") as stream:
            model_hash = hashlib.file_digest(stream, "sha256").hexdigest()
        windows_hash = hashlib.sha256(windows.ids.numpy().tobytes()).hexdigest()
        key = f"{self.original.checkpoint.sha256()} {model_hash} {windows_hash}"
        if key not in self.known:
            self.remember(key, self._measure(model, windows, label))
        return self.known[key]

    def remember(self, key: str, figures: dict[str, Any]) -> None:
        """Keep figures for a repeated run."""
        self.known[key] = figures
        self.memory.write_text(json.dumps(self.known, indent=1))

    def _measure(self, model: Path, windows: Windows, label: str) -> dict[str, Any]:
        try:
            checkpoint = open_checkpoint(model)
        except Unsupported:  # a type that smidgen does not read: let llama.cpp decode it
            decoded = model.with_suffix(".f32.gguf")
            try:
                self.quantizer.decoded(model, decoded)
                return self._measure(decoded, windows, label)
            finally:
                decoded.unlink(missing_ok=True)
        with checkpoint:
            figures = compare(self.original, TorchEngine(checkpoint), windows, label).figures()
        figures["text_bytes"] = figures.pop("bytes")
        return figures


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
        return {"mixture": str(self.mixture), "bytes": self.nbytes, **self.figures, "command": self.command}


def screen(fitting: Iterable[Mixture], quantizer: Quantizer, meter: Meter, tokens: int) -> dict[str, float]:
    """The KL of each body and of each embedding that occurs in `fitting`, the rest of the model left at F16."""
    windows, found = meter.first(tokens), {}
    fitting = list(fitting)
    alone = {str(mixture.body): Mixture(mixture.body, UNTOUCHED) for mixture in fitting}
    alone |= {mixture.embedding: Mixture(Body(UNTOUCHED.upper()), mixture.embedding) for mixture in fitting}
    path = quantizer.folder / "screened.gguf"
    for name, mixture in alone.items():
        if (remembered := meter.known.get(f"quick look, {tokens} tokens: {mixture}")) is None:
            quantizer.make(mixture, path)
            remembered = meter.figures(path, windows, f"quick look at {mixture}")
            meter.remember(f"quick look, {tokens} tokens: {mixture}", remembered)
        found[name] = remembered["kl_mean"]
        say(f"quick look, KL {found[name]:.4f}: {mixture}")
    path.unlink(missing_ok=True)
    return found


def llama_cpp_best(
    size: int,
    sizes: Mapping[Mixture, int],
    costs: Mapping[str, float],
    quantizer: Quantizer,
    meter: Meter,
    finalists: int,
) -> list[Measured]:
    """The most promising mixtures of at most `size` bytes, measured in full, best first."""
    fitting = [mixture for mixture, nbytes in sizes.items() if (1 - _NEAR) * size < nbytes <= size]
    promising = [mixture for mixture in fitting if not any(_outdoes(other, mixture, sizes, costs) for other in fitting)]
    ranked = sorted(promising, key=lambda mixture: costs[str(mixture.body)] + costs[mixture.embedding])
    measured = []
    for place, mixture in enumerate(ranked[:finalists]):
        path = quantizer.folder / f"llama.cpp-{size}-{place}.gguf"
        quantizer.make(mixture, path)
        nbytes = path.stat().st_size
        if nbytes <= size:
            figures = meter.figures(path, meter.windows, str(mixture))
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


def smidgen_side(options: argparse.Namespace, calibration: Path, fit: int, size: int, meter: Meter) -> dict[str, Any]:
    """Cut the original to `fit` bytes and measure the file."""
    folder = options.work / f"smidgen-{size}{'-healed' if options.heal else ''}"
    command = record.smidgen(
        "cut", options.original, "--fit", str(fit), "--text", calibration, "-o", folder,
        "--seed", str(options.seed), "--threads", str(options.threads), "--tokens", str(options.tokens), "--no-measure",
        "--json", *(["--heal", options.heal] if options.heal else []),
    )  # fmt: skip
    log = options.work / "smidgen.log"
    cost = record.run(command, log)
    path = folder / "model.gguf"
    figures = meter.figures(path, meter.windows, f"smidgen at {fit} bytes")
    steps = json.loads(log.read_text(errors="replace").strip().splitlines()[-1])["steps"]
    healing = next((step for step in steps if step["step"] == "heal"), None)
    return {"bytes": path.stat().st_size, **figures, "healing": healing, "cost": cost,
            "command": record.shown(command[1:])}  # fmt: skip


def make_imatrix(options: argparse.Namespace, tools: llama_cpp_tools.Tools, calibration: Path) -> tuple[Path, str]:
    """llama-imatrix on the calibration text (BOS at the start of each chunk, as the model's metadata asks)."""
    path = options.work / "imatrix.gguf"
    unfinished = path.with_name("unfinished-imatrix.gguf")  # the tool saves what it has now and then
    command = [
        tools.imatrix, "-m", options.original, "-f", calibration, "-o", unfinished, "-c", str(_IMATRIX_CHUNK),
        "--chunks", str(options.tokens // _IMATRIX_CHUNK), "--no-ppl", "-t", str(options.threads),
    ]  # fmt: skip
    if not path.exists():
        record.run(command, options.work / "llama-imatrix.log")
        unfinished.replace(path)
    return path, record.shown(command)


def compare_sizes(options: argparse.Namespace) -> dict[str, Any]:
    """The whole comparison, as the object that is saved."""
    torch.set_num_threads(options.threads)
    options.work.mkdir(parents=True, exist_ok=True)
    tools = llama_cpp_tools.find_or_build(options.tools)
    with open_checkpoint(options.original) as original:
        tokenizer, original_hash = Tokenizer.from_gguf(original.tokenizer_metadata), original.sha256()
    calibration = texts.take(options.calibration, options.tokens, tokenizer)
    evaluation = texts.take(options.evaluation, options.evaluation_tokens, tokenizer)
    training = (
        texts.take(options.training or options.calibration, options.training_tokens, tokenizer)
        if options.heal
        else calibration
    )
    shared = texts.refuse_overlap(training, evaluation)
    calibration_file = calibration.write(options.work / "calibration.txt")
    training_file = training.write(options.work / "training.txt")
    imatrix, imatrix_command = make_imatrix(options, tools, calibration_file)
    quantizer = Quantizer(tools, options.original, imatrix, options.work, options.threads)
    meter = Meter(
        options.original, evaluation.text, options.evaluation_tokens, options.work / "measured.json", quantizer
    )
    sizes = {mixture: quantizer.expected_bytes(mixture) for mixture in candidates()}
    near = [m for m, nbytes in sizes.items() if any((1 - _NEAR) * size < nbytes <= size for size in options.sizes)]
    costs = screen(near, quantizer, meter, options.screen_tokens)
    return {
        **record.facts(llama_cpp=f"{llama_cpp_tools.PACKAGE} {llama_cpp_tools.VERSION}: {tools.version()}"),
        "original": {"file": options.original.name, "sha256": original_hash},
        "calibration": calibration.description, "training": training.description,
        "evaluation": evaluation.description, "overlap": shared,
        "seed": options.seed, "threads": options.threads, "imatrix": imatrix_command,
        "considered": {"bodies": len(BODIES), "embeddings": len(EMBEDDINGS), "near_a_size": len(near)},
        "screened": dict(sorted(costs.items(), key=lambda item: item[1])),
        "sizes": [compare_at(size, sizes, costs, quantizer, meter, options, training_file)
                  for size in options.sizes],
    }  # fmt: skip


def compare_at(
    size: int, sizes: Mapping[Mixture, int], costs: Mapping[str, float], quantizer: Quantizer, meter: Meter,
    options: argparse.Namespace, calibration: Path,
) -> dict[str, Any]:  # fmt: skip
    """Both sides at one size."""
    best, *others = llama_cpp_best(size, sizes, costs, quantizer, meter, options.finalists)
    result = {"size": size, "llama_cpp": [one.result() for one in (best, *others)], "smidgen": None, "ratio": None}
    if options.sides == "both":
        ours = smidgen_side(options, calibration, best.nbytes, size, meter)
        result |= {"smidgen": ours, "ratio": ours["kl_mean"] / best.figures["kl_mean"]}
    return result


def show(result: Mapping[str, Any]) -> str:
    """The table that goes into README.md."""
    rows = []
    for one in result["sizes"]:
        for name, figures in [
            ("smidgen", one["smidgen"]),
            *((f"llama.cpp {m['mixture']}", m) for m in one["llama_cpp"]),
        ]:
            if figures:
                kl = f"{figures['kl_mean']:.4f} ± {figures['kl_standard_error']:.4f}"
                numbers = (f"{figures['kl_p99']:.2f}", f"{figures['same_top1']:.1%}")
                ratio = f"{one['ratio']:.2f}" if name == "smidgen" else ""
                rows.append((name, f"{figures['bytes']:,}", kl, *numbers, f"{figures['bits_per_byte_cut']:.4f}", ratio))
    return record.table(("file", "bytes", "KL mean", "KL p99", "same top-1", "bits per byte", "ratio to best"), rows)


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The options."""
    parser = shared.parser_of(__doc__, "quality_vs_llama_cpp.json")
    parser.add_argument("original", type=Path, help="GGUF file with unquantized weights: see off_lattice.py")
    parser.add_argument("--sizes", default="160MB,180MB", help="file sizes to compare at, with commas")
    shared.add_calibration(parser, 16_384)
    shared.add_evaluation(parser, 16_384)
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
