"""What taking out layers and channels costs without any training: compensated, plainly removed, and chosen at random.

    python -m benchmarks.pruning_curves original.gguf --calibration wikitext2-valid.txt@0.5 \\
        --evaluation wikitext2-valid.txt [--layers 1,2,4] [--widths 1792,1536,1024]

For depth: so many layers out, as `smidgen.pruning.depth` finds them, with the rest refitted (compensated) and without
(plain); and the same number chosen at random, plainly. For width: so many feed-forward channels kept, as
`smidgen.pruning.width` ranks them, in the same three ways. Beside them, the field's cheap rankings: block influence and
mean activation. Cost: KL(original ‖ pruned) in nats a token and bits per byte on text that was not calibrated on.
"""

import argparse
import random
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from benchmarks import options as shared
from benchmarks import record, texts
from smidgen.data.drawing import Runs, draw
from smidgen.data.text import WINDOW, Windows, cut_into_windows
from smidgen.engines.torch import TorchEngine
from smidgen.formats.derived import Derived, write_derived
from smidgen.formats.opening import open_checkpoint
from smidgen.formats.workspace import Workspace
from smidgen.measuring.divergence import compare
from smidgen.model.tokenizer import Tokenizer
from smidgen.progress import say, track
from smidgen.pruning import depth, width
from smidgen.pruning.depth import DepthPlan
from smidgen.pruning.width import WidthPlan


class Bench:
    """One original, its calibration windows, and the text to measure on."""

    def __init__(self, options: argparse.Namespace, work: Path) -> None:
        self.options, self.work = options, work
        self.original = open_checkpoint(options.original)
        tokenizer = Tokenizer.from_gguf(self.original.tokenizer_metadata)
        self.calibration = texts.take(options.calibration, options.tokens, tokenizer)
        self.evaluation = texts.take(options.evaluation, options.evaluation_tokens, tokenizer)
        texts.refuse_overlap(self.calibration, self.evaluation)
        runs = Runs("calibration", (tokenizer.encode(self.calibration.text),))
        self.windows = draw([runs], runs.tokens, WINDOW, tokenizer, seed=0).windows
        self.scored: Windows = cut_into_windows(self.evaluation.text, tokenizer)
        self.engine = TorchEngine(self.original, options.threads)
        self.made = 0

    def workspace(self) -> Workspace:
        """A fresh folder: nothing is found that an earlier point has left."""
        self.made += 1
        return Workspace.start(self.work / f"point-{self.made}", {})

    def cost(self, derived: Derived) -> dict[str, float]:
        """Write the pruned model, read it back and measure it."""
        path = self.work / "pruned.gguf"
        write_derived(self.original, derived, path, {"step": "benchmark"})
        with open_checkpoint(path) as pruned:
            figures = compare(self.engine, TorchEngine(pruned), self.scored, "measuring").figures()
        keys = ("kl_mean", "kl_standard_error", "same_top1", "bits_per_byte_original", "bits_per_byte_cut")
        return {key: figures[key] for key in keys} | {"bytes": path.stat().st_size}  # type: ignore[return-value]

    # -- depth -------------------------------------------------------------------------------------------------------

    def depth(self, most: int) -> DepthPlan:
        """The search, once: it takes layers out one after the other."""
        return depth.search(self.original, self.windows, len(self.original.config.layers) - most, self.workspace())

    def depth_point(self, plan: DepthPlan, runs: int) -> dict[str, Any]:
        """The first so many removals of the search."""
        part, layers = _beginning(plan, runs), range(len(self.original.config.layers))
        removed = len(layers) - len(part.kept)
        found = {
            name: self._without(part, compensate) for name, compensate in (("compensated", True), ("plain", False))
        }
        by_influence = sorted(layers, key=lambda layer: plan.influence[layer])[:removed]
        guesses = [set(random.Random(seed).sample(layers, removed)) for seed in range(self.options.random)]
        return {
            "removed": removed, "layers": [list(run) for run in part.removed], **found,
            "plain, by block influence": self._without(_plan_of(plan, set(by_influence)), compensate=False),
            "random": [self._without(_plan_of(plan, gone), compensate=False) for gone in guesses],
        }  # fmt: skip

    def _without(self, plan: DepthPlan, compensate: bool) -> dict[str, float]:
        return self.cost(depth.apply(self.original, plan, self.windows, self.workspace(), compensate=compensate))

    # -- width -------------------------------------------------------------------------------------------------------

    def width_point(self, ffn: int, ranking: Workspace) -> dict[str, Any]:
        """One feed-forward width. ranking: a workspace where the channels of all methods are weighed once."""
        plans = {
            method: width.plan(self.original, ffn, None, None, self.windows, ranking, method=method)
            for method in ("obs", "activation", "random")
        }
        found = {
            name: self._narrow(plans[method], compensate)
            for name, method, compensate in (
                ("compensated", "obs", True), ("plain", "obs", False), ("plain, by activation", "activation", False),
            )
        }  # fmt: skip
        return {"ffn": ffn, **found, "random": [self._narrow(plans["random"], compensate=False)]}

    def _narrow(self, plan: WidthPlan, compensate: bool) -> dict[str, float]:
        return self.cost(width.apply(self.original, plan, self.windows, self.workspace(), compensate))


def _beginning(plan: DepthPlan, runs: int) -> DepthPlan:
    gone = {layer for run in plan.removed[:runs] for layer in run}
    kept = tuple(layer for layer in range(len(plan.influence)) if layer not in gone)
    return DepthPlan(kept, plan.removed[:runs], plan.damage[:runs], plan.influence, plan.alone)


def _plan_of(plan: DepthPlan, gone: set[int]) -> DepthPlan:
    kept = tuple(layer for layer in range(len(plan.influence)) if layer not in gone)
    return DepthPlan(kept, tuple((layer,) for layer in sorted(gone)), (), plan.influence, {})


def run_all(options: argparse.Namespace, work: Path) -> dict[str, Any]:
    """Both curves, as the object that is saved."""
    torch.set_num_threads(options.threads)
    bench = Bench(options, work)
    curves: dict[str, list[dict[str, Any]]] = {"depth": [], "width": []}
    with track("points of the curves", len(options.layers) + len(options.widths)) as task:
        plan, ranking = bench.depth(max(options.layers)), bench.workspace()
        for removed in options.layers:
            curves["depth"].append(bench.depth_point(plan, removed))
            task.advance()
            say(_line(f"{removed} layers out", curves["depth"][-1]))
        for ffn in options.widths:
            curves["width"].append(bench.width_point(ffn, ranking))
            task.advance()
            say(_line(f"width {ffn}", curves["width"][-1]))
    return {
        **record.facts(), "original": {"file": options.original.name, "sha256": bench.original.sha256()},
        "calibration": bench.calibration.description, "evaluation": bench.evaluation.description,
        "threads": options.threads, **curves,
    }  # fmt: skip


def _line(label: str, point: Mapping[str, Any]) -> str:
    random_kl = [one["kl_mean"] for one in point["random"]]
    values = {name: one["kl_mean"] for name, one in point.items() if isinstance(one, dict)}
    values["random"] = sum(random_kl) / len(random_kl)
    return f"{label}: " + ", ".join(f"{name} {value:.4f}" for name, value in values.items())


def _bits(one: Mapping[str, float]) -> str:
    return f"{one['bits_per_byte_original']:.3f} → {one['bits_per_byte_cut']:.3f}"


def show(result: Mapping[str, Any]) -> str:
    """The table that goes into README.md."""
    rows = []
    for name, curve in (("layers out", result["depth"]), ("feed-forward width", result["width"])):
        for point in curve:
            random_kl = record.spread([one["kl_mean"] for one in point["random"]])
            rows.append((
                f"{name}: {point.get('removed', point.get('ffn'))}", f"{point['compensated']['kl_mean']:.3f}",
                f"{point['plain']['kl_mean']:.3f}", f"{random_kl['median']:.3f}",
                _bits(point["compensated"]),
            ))  # fmt: skip
    return record.table(("", "compensated", "plain", "random", "bits per byte (compensated)"), rows)


def main(arguments: Sequence[str] | None = None) -> None:
    """The command."""
    parser = shared.parser_of(__doc__)
    parser.add_argument("original", type=Path)
    shared.add_calibration(parser, 8192)
    shared.add_evaluation(parser, 4096)
    parser.add_argument("--layers", default="1,2,4", help="numbers of layers to take out, with commas")
    parser.add_argument("--widths", default="1792,1536,1024", help="of the feed-forward networks, with commas")
    parser.add_argument("--random", type=int, default=3, help="random choices of layers at each point")
    shared.add_work(parser, "folder for files in between")
    options = parser.parse_args(arguments)
    options.layers = [int(number) for number in options.layers.split(",") if number]
    options.widths = [int(width) for width in options.widths.split(",") if width]
    options.output = options.output or record.RESULTS / f"pruning_curves_{options.original.stem}.json"
    with shared.work_folder("pruning-curves", options.work) as folder:
        result = run_all(options, folder)
    shared.finish(options.output, result, show(result))


if __name__ == "__main__":
    main()
