"""Memory and speed of tuning a model of real size on a machine of sixteen gigabytes, beside PEFT.

    python -m benchmarks.large_tuning gemma-2-2b --work DIR [--context 1024] [--steps 3]

The weights are random (random_model.py) and the examples random text that fills each row: time and memory depend on
shapes alone, and quality is not looked at here. The sides, each a process of its own, a row of `--context` tokens a
step, all positions learned from:

    LoRA, F16       smidgen tune, rank 16 on all matrices, on a 16-bit file, with --memory 8GB
    LoRA, Q4_0      the same on a file of four bits
    blocks, Q4_0    smidgen tune --full --blocks: the last two blocks through their lattice, with --memory 12GB
    PEFT, float32   transformers and PEFT, the same rank and matrices, gradient checkpointing, AdamW
    PEFT, bfloat16  the same with the model in bfloat16 (which processors without it compute slowly)

Seconds are those of single steps after the first. Memory is that of the whole process tree, mapped files included, a
page once (process_tree.py), which is looked at four times a second. PEFT's sides read a folder that `smidgen export`
wrote of the same file.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from benchmarks import options as shared
from benchmarks import record
from benchmarks.process_tree import Watch
from smidgen.errors import SmidgenError
from smidgen.progress import say

_RANK = 16
_OURS = {
    "LoRA, F16": ("F16", ["--rank", str(_RANK), "--memory", "8GB"]),
    "LoRA, Q4_0": ("Q4_0", ["--rank", str(_RANK), "--memory", "8GB"]),
    "blocks, Q4_0": ("Q4_0", ["--full", "--memory", "12GB"]),
}
_PEFT = {"PEFT, float32": "float32", "PEFT, bfloat16": "bfloat16"}
_LAST = 2  # blocks that learn where only some do


def make(options: argparse.Namespace, kind: str) -> Path:
    """The model of a type, with the examples."""
    path = options.work / f"{options.shape}-{kind}.gguf"
    command = ["-m", "benchmarks.random_model", options.shape, str(path), "--type", kind]
    text = options.work / "text.txt"
    tokens = options.context * (options.steps + 4)
    options.made = record.json_from_python([*command, "--text", str(text), "--tokens", str(tokens)])
    lines = text.read_text(encoding="utf-8").splitlines()
    each = -(-len(lines) // (options.steps + 1))
    rows = [" ".join(lines[start : start + each]) for start in range(0, len(lines), each)]
    (options.work / "examples.jsonl").write_text("".join(json.dumps({"text": row}) + "\n" for row in rows))
    return path


def ours(options: argparse.Namespace, side: str) -> dict[str, Any]:
    """`smidgen tune`."""
    kind, more = _OURS[side]
    model, output = make(options, kind), options.work / "tuned"
    if "--full" in more:
        last = options.made["blocks"] - 1
        more = [*more, "--blocks", f"{last - _LAST + 1}-{last}"]
    command = record.smidgen(
        "tune", model, "--data", options.work / "examples.jsonl", "--held-out", "0", "--batch", "1", "--context",
        str(options.context), "--steps", str(options.steps), "--threads", str(options.threads), *more, "-o", output,
    )  # fmt: skip
    subprocess.run(["rm", "-rf", str(output)], check=True)
    found = _watched(options, command)
    lines = (output / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    return {
        **found,
        "command": record.shown(command),
        **_speed([json.loads(line)["seconds"] for line in lines], options),
    }


def theirs(options: argparse.Namespace, side: str) -> dict[str, Any]:
    """transformers and PEFT, in a process of this module."""
    folder = options.work / "hf"
    if not folder.exists():
        record.run(
            record.smidgen("export", make(options, "F16"), "--to", "hf", "-o", folder), options.work / "export.log"
        )
    command = [
        sys.executable, "-m", "benchmarks.large_tuning", options.shape, "--work", str(options.work), "--context",
        str(options.context), "--steps", str(options.steps), "--threads", str(options.threads), "--one", _PEFT[side],
    ]  # fmt: skip
    found = _watched(options, command)
    ends = json.loads((options.work / "peft.json").read_text())
    return {**found, **_speed(ends, options)}


def _watched(options: argparse.Namespace, command: Sequence[str | Path]) -> dict[str, Any]:
    log = options.work / "tuning.log"
    say(f"{record.shown(command)} ({log})")
    with log.open("ab") as output:
        process = subprocess.Popen(
            [str(word) for word in command], stdin=subprocess.DEVNULL, stdout=output, stderr=output
        )
        with Watch(process.pid) as watch:
            began = time.monotonic()
            code = process.wait()
            seconds = time.monotonic() - began
    if code:
        lines = log.read_text(errors="replace").strip().splitlines()
        raise SmidgenError(f"It ended with code {code}: {lines[-1]} (all of it is in {log})")
    return {"seconds": seconds, "peak": vars(watch.peak.held)}


def _speed(ends: Sequence[float], options: argparse.Namespace) -> dict[str, Any]:
    """ends: seconds at which each step was done."""
    steps = [after - before for before, after in zip(ends, ends[1:], strict=False)]
    return {
        "tokens_per_s": record.spread([options.context / step for step in steps]),
        "step_s": statistics.median(steps),
    }


def train_with_peft(options: argparse.Namespace) -> None:
    """The process of a side of PEFT: leaves when each step was done."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    torch.set_num_threads(options.threads)
    dtype = getattr(torch, options.one)
    model = AutoModelForCausalLM.from_pretrained(options.work / "hf", dtype=dtype, attn_implementation="eager")
    model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    model.enable_input_require_grads()
    model = get_peft_model(model, LoraConfig(r=_RANK, lora_alpha=2 * _RANK, target_modules="all-linear"))
    model.train()
    optimizer = torch.optim.AdamW([one for one in model.parameters() if one.requires_grad], lr=2e-4)
    generator, began, ends = torch.Generator().manual_seed(0), time.monotonic(), []
    for _ in range(options.steps):
        ids = torch.randint(260, model.config.vocab_size, (1, options.context), generator=generator)
        model(input_ids=ids, labels=ids, use_cache=False).loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        ends.append(time.monotonic() - began)
    (options.work / "peft.json").write_text(json.dumps(ends))


def compare(options: argparse.Namespace) -> dict[str, Any]:
    """All sides, as the object that is saved; after each of them, too."""
    options.work.mkdir(parents=True, exist_ok=True)
    result: dict[str, Any] = {
        **record.facts(peft=version("peft"), transformers=version("transformers")), "shape": options.shape,
        "context": options.context, "steps": options.steps, "threads": options.threads, "rank": _RANK, "sides": {},
    }  # fmt: skip
    for side in options.sides:
        try:
            result["sides"][side] = ours(options, side) if side in _OURS else theirs(options, side)
        except SmidgenError as error:
            result["sides"][side] = {"failed": str(error)}
        record.save(options.output, result)
    return result


def show(result: dict[str, Any]) -> str:
    """A table."""
    rows = []
    for side, found in result["sides"].items():
        if "failed" in found:
            rows.append((side, found["failed"][:80], "", ""))
            continue
        peak = found["peak"]
        whole, own = (peak["anonymous"] + peak["mapped"]) / 1e9, peak["anonymous"] / 1e9
        rows.append((side, f"{whole:.1f}", f"{own:.1f}", f"{found['tokens_per_s']['median']:.1f}"))
    return record.table(("side", "peak memory, GB", "of it anonymous, GB", "tokens/s"), rows)


def main(arguments: Sequence[str] | None = None) -> None:
    """The command."""
    parser = shared.parser_of(__doc__, "large_tuning.json")
    parser.add_argument("shape", choices=["gemma-2-2b", "mistral-7b"])
    parser.add_argument("--work", type=Path, required=True, help="for models, 12 GB; kept")
    parser.add_argument("--context", type=int, default=1024)
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--sides", nargs="+", choices=[*_OURS, *_PEFT], default=[*_OURS, *_PEFT])
    parser.add_argument("--one", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    if options.one:
        train_with_peft(options)
    else:
        result = compare(options)
        shared.finish(options.output, result, show(result))


if __name__ == "__main__":
    main()
