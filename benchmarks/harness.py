"""Our engines behind lm-evaluation-harness against the harness's own model, on the same weights and items.

    python -m benchmarks.harness --data DIR [--items 100] [--rounds 2]

DIR holds MMLU as `smidgen measure --data` wants it. Each model is exported to a folder in 16 bits, which both sides
read; both compute in float32. The sides take turns. What is compared: which choice each item gets, the log probability
of every choice, and the seconds from the first question to the last answer, loading left out. The harness's model is
its `hf`, with the batch sizes of `--batch`, whichever is quicker (a batch of eight holds six gigabytes of Gemma's
logits).
"""

import argparse
import time
from collections.abc import Mapping
from pathlib import Path
from statistics import median
from typing import Any

import torch
from lm_eval.models.huggingface import HFLM

from benchmarks import options as shared
from benchmarks import record
from smidgen.engines.answers import ModelAnswers
from smidgen.engines.torch import TorchEngine
from smidgen.exporting.export import export
from smidgen.formats.opening import open_model
from smidgen.measuring.tasks.compare import Tasks
from smidgen.measuring.tasks.harness import EngineLM, Item, answer_items
from smidgen.model.tokenizer import Tokenizer

MODELS = ("gemma-3-270m", "smollm2-135m-instruct")


class _Watched:
    """Keeps what a model of the harness answers, and how long it takes."""

    def __init__(self, lm: Any) -> None:
        self.lm, self.scores, self.seconds = lm, list[float](), 0.0
        answer = lm.loglikelihood

        def loglikelihood(requests: Any, disable_tqdm: bool = True) -> Any:
            started = time.perf_counter()
            found = answer(requests, True)
            self.seconds = time.perf_counter() - started
            self.scores = [score for score, _ in found]
            return found

        lm.loglikelihood = loglikelihood

    def turn(self, options: argparse.Namespace) -> list[Item]:
        """All items once; the tasks are made anew, since the harness keeps answers in them."""
        asking = Tasks(["mmlu"], options.data, options.items, options.seed).asking("mmlu")
        return answer_items(self.lm, asking.tasks, asking.chosen)


def compare(name: str, folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Both sides on one model, in turns."""
    export(name, "hf", folder)
    with open_model(folder) as checkpoint:
        tokenizer = Tokenizer.from_gguf(checkpoint.tokenizer_metadata)
        with ModelAnswers(TorchEngine(checkpoint, options.threads), tokenizer, folder) as model:
            settings: dict[str, Any] = {"pretrained": str(folder), "device": "cpu", "dtype": "float32"}
            sides = {"smidgen": _Watched(EngineLM(model, name))}
            sides |= {f"hf, batch {size}": _Watched(HFLM(**settings, batch_size=size)) for size in options.batch}
            seconds: dict[str, list[float]] = {label: [] for label in sides}
            answers: dict[str, list[Item]] = {}
            for _ in range(options.rounds):
                for label, side in sides.items():
                    answers[label] = side.turn(options)
                    seconds[label].append(side.seconds)
    ours, theirs = sides["smidgen"].scores, sides[f"hf, batch {options.batch[0]}"].scores
    quickest = min(median(times) for label, times in seconds.items() if label != "smidgen")
    return {
        "model": name,
        "items": len(answers["smidgen"]),
        "same_choice": sum(
            a == b for a, b in zip(answers["smidgen"], answers[f"hf, batch {options.batch[0]}"], strict=True)
        ),
        "right": {label: sum(item.right for item in items) for label, items in answers.items()},
        "largest_difference_nats": max(abs(a - b) for a, b in zip(ours, theirs, strict=True)),
        "seconds": seconds,
        "times_as_quick": quickest / median(seconds["smidgen"]),
    }


def show(result: Mapping[str, Any]) -> str:
    """A row for each model."""
    rows = [
        (
            one["model"], str(one["items"]), str(one["same_choice"]), f"{one['largest_difference_nats']:.5f}",
            f"{median(one['seconds']['smidgen']):.1f} s", f"{one['times_as_quick']:.2f}",
        )
        for one in result["models"]
    ]  # fmt: skip
    return record.table(("model", "items", "same choice", "largest difference, nats", "ours", "times as quick"), rows)


def main() -> None:
    """Run the benchmark."""
    parser = shared.parser_of(__doc__, "harness.json")
    parser.add_argument("--data", type=Path, required=True, help="folder above mmlu/")
    parser.add_argument("--items", type=int, default=100, help="of MMLU, drawn by --seed")
    parser.add_argument("--batch", type=int, nargs="+", default=[1], help="rows that `hf` computes at once")
    parser.add_argument("--rounds", type=int, default=2)
    shared.add_seed(parser)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    with shared.work_folder("harness") as work:
        models = [compare(name, work / name, options) for name in MODELS]
    result = {"models": models, "settings": {"items": options.items, "rounds": options.rounds, "seed": options.seed}}
    shared.finish(options.output, result, show(result))


if __name__ == "__main__":
    main()
