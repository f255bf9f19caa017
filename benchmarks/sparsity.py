"""Weight sparsity: magnitude, Wanda and SparseGPT on real models, at the same patterns and with the same text.

    python -m benchmarks.off_lattice gemma-3-270m original.gguf
    python -m benchmarks.sparsity original.gguf smollm2-135m-instruct \\
        --calibration wikitext2-valid.txt --evaluation wikitext2-valid.txt@0.5

Each model is thinned by each method to each pattern (`pruning/sparsity.py`), written as a GGUF file, read back and
measured on a text that the calibration has not seen: perplexity per token, bits per byte, KL from the dense model. This
is repeated with other calibration text (`--repeats`), no part of which was used before; magnitude uses none, so it
has one value. The published order is magnitude > Wanda ≥ SparseGPT in perplexity (arXiv:2306.11695, table 3).

Models that are quantized may be given as they are: which of their weights become zero has nothing to do with a lattice,
and the others are stored in 16 bits. A repeated run finds finished measurements in `--work`.
"""

import argparse
import json
import math
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks import options as shared
from benchmarks import record, texts
from smidgen.data.drawing import Runs, draw
from smidgen.data.text import WINDOW, Windows, cut_into_windows
from smidgen.engines.torch import TorchEngine
from smidgen.formats.derived import write_derived
from smidgen.formats.opening import open_checkpoint, open_model
from smidgen.formats.workspace import Workspace
from smidgen.measuring.divergence import compare
from smidgen.model.tokenizer import Tokenizer
from smidgen.progress import say
from smidgen.pruning.masks import Pattern
from smidgen.pruning.sparsity import METHODS, Method, sparsify


class Bench:
    """One dense model, its texts, and what was measured of thinned copies of it."""

    def __init__(self, model: str, options: argparse.Namespace) -> None:
        self.dense = open_model(model)
        tokenizer = Tokenizer.from_gguf(self.dense.tokenizer_metadata)
        self.calibration = texts.take(options.calibration, options.repeats * options.tokens, tokenizer)
        self.evaluation = texts.take(options.evaluation, options.evaluation_tokens, tokenizer)
        self.overlap = texts.refuse_overlap(self.calibration, self.evaluation)
        runs = Runs("calibration", (tokenizer.encode(self.calibration.text),))
        windows = draw([runs], runs.tokens, WINDOW, tokenizer, seed=0).windows
        self.calibrations = windows[: len(windows) - len(windows) % options.repeats].chunk(options.repeats)
        self.windows = cut_into_windows(self.evaluation.text, tokenizer)
        self.work: Path = options.work
        self.settings = [options.tokens, options.evaluation_tokens, self.dense.sha256()[:16]]

    def figures(self, pattern: str, method: Method, repeat: int) -> dict[str, Any]:
        """Of the model thinned with the `repeat`th piece of calibration text."""
        key = "-".join(str(part) for part in [*self.settings, pattern.replace(":", "of"), method, repeat])
        path = self.work / f"{key}.json"
        if not path.exists():
            record.save(path, self._measured(pattern, method, self.calibrations[repeat]))
        return json.loads(path.read_text())

    def _measured(self, pattern: str, method: Method, calibration: Tensor) -> dict[str, Any]:
        folder = self.work / "thinned"
        try:
            workspace = Workspace.start(folder, {})
            derived = sparsify(self.dense, Pattern.parse(pattern), method, calibration, workspace)
            write_derived(self.dense, derived, folder / "model.gguf", {"step": "weights"})
            with open_checkpoint(folder / "model.gguf") as thinned:
                found = compare(TorchEngine(self.dense), TorchEngine(thinned), self.windows)
        finally:
            shutil.rmtree(folder, ignore_errors=True)
        nats = math.log(2) * found.bytes / _predicted(self.windows)  # per token, for each bit per byte
        return {
            "perplexity_dense": math.exp(nats * found.bits_per_byte_original),
            "perplexity": math.exp(nats * found.bits_per_byte_cut),
            "bits_per_byte_dense": found.bits_per_byte_original, "bits_per_byte": found.bits_per_byte_cut,
            "kl_mean": found.kl_mean, "kl_standard_error": found.kl_standard_error, "same_top1": found.same_top1,
        }  # fmt: skip

    def results(self, patterns: Sequence[str], repeats: int) -> Iterator[dict[str, Any]]:
        """One for each pattern and method."""
        for pattern in patterns:
            for method in METHODS:
                runs = [
                    self.figures(pattern, method, repeat) for repeat in range(1 if method == "magnitude" else repeats)
                ]
                perplexity = record.spread([run["perplexity"] for run in runs])
                say(f"{self.dense.path.name} {pattern} {method}: perplexity {perplexity['median']:.2f}")
                yield {"pattern": pattern, "method": method, "perplexity": perplexity, "runs": runs}


def _predicted(windows: Windows) -> int:
    """Tokens that something before them in their window predicts."""
    return int((windows.lengths - 1).sum())


def ordered(results: Sequence[Mapping[str, Any]]) -> bool:
    """Whether magnitude > Wanda ≥ SparseGPT for every pattern: the lowest of one above the highest of the next."""
    found = {(one["pattern"], one["method"]): one["perplexity"] for one in results}
    return all(
        found[pattern, "magnitude"]["lowest"] > found[pattern, "wanda"]["highest"]
        and found[pattern, "wanda"]["lowest"] >= found[pattern, "sparsegpt"]["highest"]
        for pattern in {one["pattern"] for one in results}
    )


def measure_model(model: str, options: argparse.Namespace) -> dict[str, Any]:
    """All patterns and methods on one model."""
    bench = Bench(model, options)
    with bench.dense:
        results = list(bench.results(options.patterns, options.repeats))
        return {
            "model": {"file": bench.dense.path.name, "sha256": bench.dense.sha256()},
            "calibration": bench.calibration.description, "evaluation": bench.evaluation.description,
            "overlap": bench.overlap, "perplexity_dense": results[0]["runs"][0]["perplexity_dense"],
            "results": results, "order_reproduced": ordered(results),
        }  # fmt: skip


def show(result: Mapping[str, Any]) -> str:
    """The table that goes into README.md."""
    rows = []
    for model in result["models"]:
        found = {(one["pattern"], one["method"]): one for one in model["results"]}
        for pattern in dict.fromkeys(one["pattern"] for one in model["results"]):
            cells = [_cell(found[pattern, method]["perplexity"]) for method in METHODS]
            rows.append((model["model"]["file"], f"{model['perplexity_dense']:.2f}", pattern, *cells))
    return record.table(("model", "dense", "zeros", "magnitude", "Wanda", "SparseGPT"), rows)


def _cell(perplexity: Mapping[str, float]) -> str:
    low, high = perplexity["lowest"], perplexity["highest"]
    return f"{low:.2f}" if low == high else f"{low:.2f} – {high:.2f}"


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The options."""
    parser = shared.parser_of(__doc__, "sparsity.json")
    parser.add_argument("models", nargs="+", help="as for every command of smidgen")
    parser.add_argument("--patterns", nargs="+", default=["50%", "2:4"])
    shared.add_calibration(parser, 8192, "of calibration, each time")
    shared.add_evaluation(parser, 8192)
    parser.add_argument("--repeats", type=int, default=2, help="with other calibration text")
    shared.add_work(parser, "for files in between (some GB)", "out/sparsity")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> None:
    """The command."""
    options = parse(arguments)
    torch.set_num_threads(options.threads)
    options.work.mkdir(parents=True, exist_ok=True)
    settings = {name: getattr(options, name) for name in ("tokens", "evaluation_tokens", "repeats", "threads")}
    models = [measure_model(model, options) for model in options.models]
    result = {**record.facts(), **settings, "models": models}
    shared.finish(options.output, result, show(result))


if __name__ == "__main__":
    main()
