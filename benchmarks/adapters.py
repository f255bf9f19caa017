"""What an adapter learned, and what is left of it in the quantized file: a task with a score, beside PEFT.

    smidgen cut original.gguf --types Q4_0 --fit 84MB --no-measure --text FILE -o cut
    python -m benchmarks.adapters original.gguf cut/model.gguf --ask "Name the subject of the exam question" \\
        --kind Algebra=abstract_algebra_test.csv --kind Astronomy=astronomy_test.csv …

Two hundred examples of a task (labelling.py) are learned from, and others are asked about. `original.gguf` has 16 bits
a weight and lies on no lattice (off_lattice.py); the other file is cut from it. The sides:

    16 bits, untuned      the original
    quantized, untuned    its cut
    PEFT, 16 bits         transformers and PEFT on the original, the same batches, steps, rank, matrices and rate
    smidgen, beside       `smidgen tune` on the cut: the adapter stays beside the quantized file
    smidgen, merged       of the same command, with --merge: trained into the codes of the file
    rounded, own scales   that adapter added to the weights and each sum given the nearest code, the file's scales kept:
                          `smidgen tune --adapter --merge` without examples
    quantized anew        that adapter added to the decoded weights, the sum quantized to the same types by the gguf
                          package (round to nearest, scales from the largest weight): what merging a QLoRA adapter and
                          quantizing again does

PEFT's side answers in transformers; all others are read from the files that were written, by smidgen's decoder.
Intervals are over questions (bootstrap.py); one training of each kind, so they say nothing of the luck of a seed.
"""

import argparse
import functools
import json
import sys
import time
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import gguf
import torch

from benchmarks import labelling, record
from benchmarks import options as shared
from smidgen.distillation.students.lora import Adapted
from smidgen.formats.adapters import read_adapter
from smidgen.formats.checkpoint import Checkpoint
from smidgen.formats.opening import open_checkpoint
from smidgen.formats.parts import load_decoder
from smidgen.model.decoder import Decoder
from smidgen.model.tokenizer import Tokenizer
from smidgen.progress import say


class Comparison:
    """One task, two files of one model, and a folder for what is made of them."""

    def __init__(self, options: argparse.Namespace, folder: Path) -> None:
        self._options, self._folder = options, folder
        with open_checkpoint(options.original) as original:
            tokenizer = Tokenizer.from_gguf(original.tokenizer_metadata)
            self.task = labelling.read_task(
                options.kind, options.examples, options.questions, options.longest, tokenizer, options.seed
            )  # fmt: skip
            self._learned, asked = self.task.write(options.ask, folder)
            self._questions = labelling.Questions(original, asked, self.task.kinds)
        self._asked = asked

    def sides(self) -> dict[str, Callable[[], dict[str, Any]]]:
        """What is to be measured, in this order: some read what those before them wrote."""
        original, quantized = self._options.original, self._options.quantized
        return {
            "16 bits, untuned": lambda: self._scores(original),
            "quantized, untuned": lambda: self._scores(quantized),
            "PEFT, 16 bits": self._by_peft,
            "smidgen, beside": self._tuned,
            "smidgen, merged": lambda: self._scores(self._folder / "tuned" / "model.gguf"),
            "rounded, own scales": self._rounded,
            "quantized anew": self._quantized_anew,
        }

    def _scores(self, path: Path, adapter: Path | None = None) -> dict[str, Any]:
        """Of a file, alone or with an adapter beside it."""
        with open_checkpoint(path) as checkpoint:
            decoder = _with_adapter(checkpoint, adapter).decoder if adapter else load_decoder(checkpoint)
            return self._answered(decoder)

    def _answered(self, decoder: Decoder) -> dict[str, Any]:
        return self._questions.ask(functools.partial(_logits, decoder)).described()

    # -- smidgen -----------------------------------------------------------------------------------------------------

    def _tuned(self) -> dict[str, Any]:
        """`smidgen tune --merge`, and its adapter beside the model."""
        options, output, model = self._options, self._folder / "tuned", self._options.quantized
        command = record.smidgen(
            "tune", model, "--data", self._learned, "--held-out", "0", "--steps", str(self._steps), "--batch",
            str(options.batch), "--context", str(options.context), "--rank", str(options.rank), "--lr", str(options.lr),
            "--seed", str(options.seed), "--threads", str(options.threads), "--merge", "-o", output,
        )  # fmt: skip
        cost = self._run(command)
        lines = (output / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
        return {
            **self._scores(model, output), "command": record.shown(command), "seconds": cost.seconds,
            "tuning_seconds": json.loads(lines[-1])["seconds"], "peak_ram_bytes": cost.peak_ram_bytes,
            "last_loss": json.loads(lines[-1])["loss"],
        }  # fmt: skip

    def _rounded(self) -> dict[str, Any]:
        output = self._folder / "rounded"
        command = record.smidgen(
            "tune", self._options.quantized, "--adapter", self._folder / "tuned", "--merge", "--threads",
            str(self._options.threads), "-o", output,
        )  # fmt: skip
        self._run(command)
        return {**self._scores(output / "model.gguf"), "command": record.shown(command)}

    # -- others ------------------------------------------------------------------------------------------------------

    def _by_peft(self) -> dict[str, Any]:
        """transformers and PEFT, in a process of their own."""
        options, model = self._options, self._folder / "hf"
        self._run(record.smidgen("export", options.original, "--to", "hf", "-o", model))
        words = [
            "-m", "benchmarks.peft_tuning", str(options.original), str(model), "--data", str(self._learned),
            "--questions", str(self._asked), "--kinds", ",".join(self.task.kinds), "--rank", str(options.rank),
            "--steps", str(self._steps), "--batch", str(options.batch), "--context", str(options.context), "--lr",
            str(options.lr), "--seed", str(options.seed), "--threads", str(options.threads), "-o",
            str(self._folder / "peft"),
        ]  # fmt: skip
        found: dict[str, Any] = record.json_from_python(words)
        return {**found, "command": record.shown([sys.executable, *words])}

    def _quantized_anew(self) -> dict[str, Any]:
        """The sum of model and adapter, quantized by the gguf package."""
        with open_checkpoint(self._options.quantized) as checkpoint:
            adapted = _with_adapter(checkpoint, self._folder / "tuned")
            sums = {name: _requantized(adapted.merged(name), checkpoint.kind(name).name) for name in adapted.names}
            decoder = load_decoder(checkpoint)
            decoder.load_state_dict(sums, strict=False)
            return self._answered(decoder)

    @functools.cached_property
    def _steps(self) -> int:
        """So many that each example is seen so often."""
        with open_checkpoint(self._options.original) as checkpoint:
            batches = labelling.batches_of(checkpoint, self._learned, self._options)
        return max(1, round(self._options.epochs * len(batches) / self._options.batch))

    def _run(self, command: Sequence[str | Path]) -> record.Run:
        return record.run(command, self._folder / "commands.log")


def _with_adapter(checkpoint: Checkpoint, folder: Path) -> Adapted:
    return Adapted.continued(load_decoder(checkpoint), read_adapter(folder, checkpoint))


def _logits(decoder: Decoder, ids: torch.Tensor, rows: torch.Tensor, places: torch.Tensor) -> torch.Tensor:
    """As `labelling.Logits` says."""
    return decoder.logits(decoder.hidden_states(ids)[rows, places])


def _requantized(weight: torch.Tensor, kind: str) -> torch.Tensor:
    """A matrix as it is read from a file that the gguf package quantized. kind: a type's name, such as Q4_0."""
    packed = gguf.quantize(weight.numpy(), gguf.GGMLQuantizationType[kind])
    return torch.from_numpy(gguf.dequantize(packed, gguf.GGMLQuantizationType[kind]))


def compare(options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """All sides, as the object that is saved; after each of them, too."""
    comparison = Comparison(options, folder)
    result: dict[str, Any] = {
        **record.facts(peft=version("peft"), transformers=version("transformers")),
        "original": _described(options.original), "quantized": _described(options.quantized),
        "task": comparison.task.described(options.ask), "epochs": options.epochs, "batch": options.batch,
        "context": options.context, "rank": options.rank, "learning_rate": options.lr, "seed": options.seed,
        "threads": options.threads, "sides": {},
    }  # fmt: skip
    for side, measure in comparison.sides().items():
        began = time.monotonic()
        found = result["sides"][side] = measure()
        say(f"{side}: {found['exact']['mean']:.1%} exact, {time.monotonic() - began:.0f} s")
        record.save(options.output, result)
    result["differences"] = _differences(result["sides"])
    return result


def _described(path: Path) -> dict[str, Any]:
    with open_checkpoint(path) as checkpoint:
        kinds = sorted({checkpoint.kind(name).name for name in checkpoint.names()})
        return {"file": path.name, "sha256": checkpoint.sha256(), "bytes": path.stat().st_size, "types": kinds}


def _differences(sides: dict[str, Any]) -> dict[str, Any]:
    """Of shares of exact answers, on the same questions."""
    pairs = (
        ("smidgen, merged", "smidgen, beside"),
        ("smidgen, beside", "PEFT, 16 bits"),
        ("smidgen, merged", "PEFT, 16 bits"),
        ("smidgen, merged", "rounded, own scales"),
        ("smidgen, merged", "quantized anew"),
    )
    return {
        f"{ours} - {theirs}": labelling.against(sides[ours]["right"], sides[theirs]["right"]) for ours, theirs in pairs
    }


def show(result: dict[str, Any]) -> str:
    """A table."""
    rows = [
        (side, _percent(found["exact"]), _percent(found["chosen"]), _nats(found["loss"]))
        for side, found in result["sides"].items()
    ]
    return record.table(("side", "right, word for word", "right of all names", "loss of the answer, nats"), rows)


def _percent(found: dict[str, Any]) -> str:
    low, high = found["interval"]
    return f"{found['mean']:.1%} [{low:.1%}, {high:.1%}]"


def _nats(found: dict[str, Any]) -> str:
    low, high = found["interval"]
    return f"{found['mean']:.3f} [{low:.3f}, {high:.3f}]"


def main(arguments: Sequence[str] | None = None) -> None:
    """The command."""
    parser = shared.parser_of(__doc__, "adapters.json")
    parser.add_argument("original", type=Path, help="16 bits a weight")
    parser.add_argument("quantized", type=Path, help="cut from it")
    parser.add_argument("--ask", required=True, help="what the system message says before the names")
    parser.add_argument("--kind", action="append", required=True, metavar="NAME=FILE", help="see labelling.py")
    parser.add_argument("--examples", type=int, default=200, help="to learn from, of all kinds")
    parser.add_argument("--questions", type=int, default=300, help="that are held out, at most")
    parser.add_argument("--longest", type=int, default=150, help="characters of a text")
    parser.add_argument("--epochs", type=float, default=1.0)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--context", type=int, default=128)
    parser.add_argument("--rank", type=int, default=16)
    parser.add_argument("--lr", type=float, default=1e-3)
    shared.add_seed(parser)
    shared.add_work(parser, "folder for files in between, 1.5 GB")
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    with shared.work_folder("adapters", options.work) as folder:
        result = compare(options, folder)
    shared.finish(options.output, result, show(result))


if __name__ == "__main__":
    main()
