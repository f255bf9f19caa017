"""Tokens per second and peak memory of a step of distillation, against plain PyTorch loops with full logits.

    python -m benchmarks.training_step gemma-3-270m [--rows 4 --length 256] [--steps 2] [--turns 3]

A step: the teacher reads a batch, the student reads it, forward KL over the whole vocabulary at every position,
gradients of all parameters, AdamW. Teacher and student begin as the same model; the batch is random tokens, since only
the work counts. The sides:

    smidgen                     our objective, in bfloat16 where that is quick
    smidgen, float32            the same with nothing rounded
    transformers                transformers' model in float32, `kl_div` of two log-softmaxes
    transformers, autocast      the same under bfloat16 autocast
    TRL                         the same with the loss of TRL's GKDTrainer (beta 0: forward KL) on logits in float32, as
                                that trainer makes them; only where TRL can be imported, for it is no dependency of
                                ours: `pip install --target FOLDER trl`, and put the folder on PYTHONPATH

Each turn of each side is a process of its own, the sides take turns, so that a slow spell of the machine meets all of
them. Seconds are those of single steps after the first one of a process, which is not counted. Peak memory is the
largest resident set of the process, weights, gradients and optimizer included. The loss of the first step is kept: it
says that all sides compute the same thing.
"""

import argparse
import importlib.util
import json
import platform
import resource
import time
from collections.abc import Callable, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from benchmarks import options as shared
from benchmarks import record
from smidgen.errors import SmidgenError
from smidgen.progress import track

_SIDES = ("smidgen", "smidgen, float32", "transformers", "transformers, autocast", "TRL")
_LEARNING_RATE = 1e-5
_APART = 0.02  # the student's weights are moved by so much of their size, or there would be nothing to learn


def our_step(options: argparse.Namespace) -> Callable[[], float]:
    """A function that does a step and returns the mean KL before it."""
    import torch

    from smidgen.distillation.loop.optimizer import Optimizer
    from smidgen.distillation.objectives.losses import DistillObjective
    from smidgen.distillation.students.trainee import Plain
    from smidgen.distillation.teachers.live import LiveTeacher
    from smidgen.distillation.text.batch import Batch
    from smidgen.formats.opening import open_checkpoint
    from smidgen.formats.parts import load_decoder

    quick = options.side == "smidgen"
    torch.set_num_threads(options.threads)
    checkpoint = open_checkpoint(options.gguf)  # until the process ends: a large teacher stays in it
    teacher, decoder = LiveTeacher(checkpoint, quick=quick), load_decoder(checkpoint)
    ids = _tokens(options, checkpoint.config.vocabulary)
    trainee = Plain(decoder)
    move(decoder)
    objective = DistillObjective(teacher, bf16=quick)
    optimizer = Optimizer(trainee.tensors(), "adamw", weight_decay=0.0, rates={})
    shape = options.rows, options.length
    batch = Batch(ids[:, :-1], ids[:, 1:], torch.ones(shape), torch.zeros(shape, dtype=torch.long))

    def step() -> float:
        trainee.prepare()
        loss, sums = objective(trainee.decoder, batch)
        (loss / batch.weight()).backward()
        trainee.collect()
        optimizer.step(_LEARNING_RATE)
        return sums["kl"] / batch.weight()

    return step


def their_step(options: argparse.Namespace) -> Callable[[], float]:
    """The same as a plain loop."""
    import torch
    from torch.nn import functional
    from transformers import AutoModelForCausalLM

    torch.set_num_threads(options.threads)
    student, teacher = (
        AutoModelForCausalLM.from_pretrained(options.folder, dtype=torch.float32, attn_implementation="sdpa")
        for _ in range(2)
    )
    move(student)
    teacher.requires_grad_(False)
    optimizer = torch.optim.AdamW(student.parameters(), lr=_LEARNING_RATE, weight_decay=0.0)
    ids = _tokens(options, student.config.vocab_size)[:, :-1]
    divergence = _trl_divergence() if options.side == "TRL" else None

    def step() -> float:
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=options.side != "transformers"):
            with torch.no_grad():
                taught = teacher(ids, use_cache=False).logits.float()
            logits = student(ids, use_cache=False).logits.float()
        if divergence is not None:
            loss = divergence(logits, taught, beta=0.0, reduction="sum") / ids.numel()
        else:
            log_q, log_p = (functional.log_softmax(scores.flatten(0, 1), -1) for scores in (logits, taught))
            loss = functional.kl_div(log_q, log_p, log_target=True, reduction="batchmean")
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return loss.item()

    return step


def move(model: Any) -> None:
    """Random changes of a model's matrices, the same for the same order of parameters of the same size."""
    import torch

    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for weight in model.parameters():
            if weight.dim() == 2:
                scale = _APART * weight.square().mean().sqrt()
                for rows in weight.split(2**14):
                    rows.add_(torch.randn(rows.shape, generator=generator).mul_(scale))


def _trl_divergence() -> Callable[..., Any]:
    from trl.experimental.gkd import GKDTrainer  # pyright: ignore[reportMissingImports]

    return GKDTrainer.generalized_jsd_loss


def _tokens(options: argparse.Namespace, vocabulary: int) -> Any:
    import torch

    shape = (options.rows, options.length + 1)
    return torch.randint(vocabulary, shape, generator=torch.Generator().manual_seed(0))


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """What one process measures: seconds of single steps, and its own peak memory."""
    step = our_step(options) if options.side.startswith("smidgen") else their_step(options)
    kl, seconds = step(), []
    for _ in range(options.steps):
        started = time.perf_counter()
        step()
        seconds.append(time.perf_counter() - started)
    unit = 1 if platform.system() == "Darwin" else 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
    return {"kl": kl, "seconds": seconds, "peak_ram_bytes": peak}


def compare(options: argparse.Namespace) -> dict[str, Any]:
    """All turns, as the object that is saved."""
    options.gguf = record.json_from_python(["-c", _LOCATE, options.model])
    options.folder = options.work / "hf"
    record.run(record.smidgen("export", options.gguf, "--to", "hf", "-o", options.folder), options.work / "export.log")
    sides = [side for side in options.sides if side != "TRL" or importlib.util.find_spec("trl")]
    turns: dict[str, list[dict[str, Any]]] = {side: [] for side in sides}
    with track("taking turns", options.turns * len(sides)) as task:
        for _ in range(options.turns):
            for side in sides:
                turns[side].append(record.json_from_python(_one_process(options, side)))
                task.advance()
    tokens = options.rows * options.length
    return {
        **record.facts(trl=_version("trl"), transformers=_version("transformers")),
        "model": Path(options.model).name, "rows": options.rows, "length": options.length, "threads": options.threads,
        "sides": {side: summary(found, tokens) for side, found in turns.items()},
    }  # fmt: skip


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


_LOCATE = (
    "import json, sys; from smidgen.formats.hub.catalogue import locate; from pathlib import Path; "
    "name = sys.argv[1]; print(json.dumps(str(name if Path(name).is_file() else locate(name))))"
)


def _one_process(options: argparse.Namespace, side: str) -> list[str]:
    return [
        "-m", "benchmarks.training_step", str(options.model), "--side", side, "--gguf", str(options.gguf),
        "--folder", str(options.folder), "--rows", str(options.rows), "--length", str(options.length),
        "--steps", str(options.steps), "--threads", str(options.threads),
    ]  # fmt: skip


def summary(turns: Sequence[dict[str, Any]], tokens: int) -> dict[str, Any]:
    """Tokens per second over all steps of all turns, the largest memory, and the first step's KL."""
    speeds = [tokens / seconds for turn in turns for seconds in turn["seconds"]]
    return {
        "tokens_per_s": record.spread(speeds),
        "peak_ram_bytes": record.spread([turn["peak_ram_bytes"] for turn in turns]),
        "kl_of_first_step": turns[0]["kl"],
    }


def show(result: dict[str, Any]) -> str:
    """The table that goes into README.md. Ratios are smidgen's to the side's."""
    ours, rows = result["sides"].get("smidgen"), []
    for side, found in result["sides"].items():
        speed, memory = found["tokens_per_s"], found["peak_ram_bytes"]["median"]
        shown = f"{speed['median']:.1f} ({speed['lowest']:.1f}-{speed['highest']:.1f})"
        ratios = ["", ""]
        if ours and side != "smidgen":
            faster = ours["tokens_per_s"]["median"] / speed["median"]
            ratios = [f"{faster:.2f}", f"{ours['peak_ram_bytes']['median'] / memory:.2f}"]
        rows.append((side, shown, f"{memory / 1e9:.2f}", *ratios, f"{found['kl_of_first_step']:.4f}"))
    head = ("side", "tokens/s, median (range)", "peak memory, GB", "smidgen's speed", "smidgen's memory", "first KL")
    return record.table(head, rows)


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The options."""
    parser = shared.parser_of(__doc__, "training_step.json")
    parser.add_argument("model", help="catalogue name or GGUF file: both student and teacher")
    parser.add_argument("--rows", type=int, default=4)
    parser.add_argument("--length", type=int, default=256)
    parser.add_argument("--steps", type=int, default=2, help="that are timed, in each process")
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--sides", nargs="+", choices=_SIDES, default=_SIDES)
    for internal in ("--side", "--gguf", "--folder"):  # of the processes that it starts
        parser.add_argument(internal, help=argparse.SUPPRESS)
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> None:
    """The command."""
    options = parse(arguments)
    if options.side:
        print(json.dumps(measure(options)))
        return
    if not importlib.util.find_spec("transformers"):
        raise SmidgenError("The plain loops need transformers: pip install smidgen[dev].")
    with shared.work_folder("training-step") as folder:
        options.work = folder
        result = compare(options)
    shared.finish(options.output, result, show(result))


if __name__ == "__main__":
    main()
