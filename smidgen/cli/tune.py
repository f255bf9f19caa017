"""`smidgen tune`: teach a model from examples of your own."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from smidgen.cli import options
from smidgen.errors import SmidgenError
from smidgen.shell import path_of
from smidgen.sizes import parse_size

_TRAINING, _ADAPTER = "Training", "Adapter"


def _training(*names: str, help: str, **more: Any) -> Any:
    return typer.Option(*names, help=help, rich_help_panel=_TRAINING, **more)


def _of_adapter(*names: str, help: str, **more: Any) -> Any:
    return typer.Option(*names, help=help, rich_help_panel=_ADAPTER, **more)


def command(
    model: options.Model,
    output: options.Output,
    data: Annotated[
        list[Path] | None,
        typer.Option(
            "--data", metavar="FILE", parser=path_of, help="Examples: JSON Lines, or a JSON list; repeatable."
        ),
    ] = None,
    valid: Annotated[
        Path | None,
        typer.Option(
            "--valid", metavar="FILE", parser=path_of, help="Examples to measure on.  [default: held-out ones]"
        ),
    ] = None,
    held_out: Annotated[
        float | None,
        typer.Option("--held-out", min=0, max=0.9, metavar="SHARE", help="Of the examples.  [default: 0.05]"),
    ] = None,
    keep: Annotated[
        Literal["best", "last"],
        _training("--keep", help="The state that is best on some held-out examples, if these are enough; or the last."),
    ] = "best",
    steps: Annotated[
        int | None, _training("--steps", min=1, metavar="N", help="Batches to learn from, in place of --epochs.")
    ] = None,
    epochs: Annotated[
        float | None, _training("--epochs", min=0.01, metavar="N", help="Passes over the examples.  [default: 3]")
    ] = None,
    lr: Annotated[
        float | None,
        _training(
            "--lr",
            min=1e-9,
            max=1,
            metavar="RATE",
            help="Learning rate.  [default: 2e-4; --full 2e-5, or 0.25/√steps codes]",
        ),
    ] = None,
    batch: Annotated[
        int | None,
        _training("--batch", min=1, metavar="N", help="Rows a step learns from.  [default: 4, fewer for few examples]"),
    ] = None,
    context: Annotated[
        int | None, _training("--context", min=8, metavar="N", help="Tokens of a row.  [default: 1024]")
    ] = None,
    full: Annotated[bool, _training("--full", help="Train all weights, in the types that they have.")] = False,
    blocks: Annotated[
        str | None,
        _training("--blocks", metavar="A-B", help="With --full: only these blocks learn, from 0, such as 20-25."),
    ] = None,
    memory: Annotated[
        str | None,
        _training("--memory", metavar="SIZE", help="Most memory to take, such as 8GB.  [default: what is free]"),
    ] = None,
    train_on_prompts: Annotated[
        bool, _training("--train-on-prompts", help="Learn from the questions too, not from the answers alone.")
    ] = False,
    raw: Annotated[
        bool, _training("--raw", help="Give prompts with completions as they stand, without the chat template.")
    ] = False,
    skip_bad: Annotated[bool, _training("--skip-bad", help="Pass over malformed lines, and count them.")] = False,
    rank: Annotated[
        int | None, _of_adapter("--rank", min=1, max=4096, metavar="N", help="Of the matrices.  [default: 16]")
    ] = None,
    alpha: Annotated[
        float | None, _of_adapter("--alpha", min=0.01, metavar="X", help="Strength.  [default: twice the rank]")
    ] = None,
    dropout: Annotated[
        float | None,
        _of_adapter("--dropout", min=0, max=0.9, metavar="SHARE", help="Of a layer's inputs.  [default: 0]"),
    ] = None,
    rslora: Annotated[bool, _of_adapter("--rslora", help="Scale by alpha / √rank: for large ranks.")] = False,
    targets: Annotated[
        str | None,
        _of_adapter(
            "--targets",
            metavar="A,B…",
            help="Of query, key, value, output, gate, up, down; attention, feed_forward, all.  [default: all]",
        ),
    ] = None,
    adapter: Annotated[
        Path | None,
        _of_adapter(
            "--adapter",
            metavar="DIR|FILE",
            parser=path_of,
            help="Go on from this one: PEFT's folder, or adapter.gguf.",
        ),
    ] = None,
    merge: Annotated[bool, _of_adapter("--merge", help="Write model.gguf with the adapter in it, too.")] = False,
    resume: options.Resume = False,
    seed: options.GivenSeed = None,
    threads: options.Threads = None,
    workers: options.Workers = None,
    ray: options.Ray = None,
    json: options.Json = False,
    quiet: options.Quiet = False,
    debug: options.Debug = False,
) -> None:
    """Teach a model from examples of your own: a small adapter beside it, or all of its weights with --full.

    A line of a data file is {"messages": [{"role": …, "content": …}, …]}, {"prompt": …, "completion": …} or
    {"text": …}; ShareGPT's "conversations" are read too. Learned from are the answers, in the model's own chat
    template, except messages with "weight": 0 or "train": false. A conversation longer than the context is cut between
    its turns. Quantized models, cut ones too, are tuned as they are.

    Writes DIR/adapter.gguf (for `smidgen run`, `chat` and `serve` with --lora, and llama.cpp), the same in PEFT's
    layout (adapter_model.safetensors), metrics.jsonl, README.md with loss.svg, and with --merge or --full
    model.gguf. Into a quantized model an adapter is merged by training its codes, on the same examples, to say what the
    two say together.

    \b
    Examples:
      smidgen tune smollm2-135m-instruct --data mine.jsonl -o tuned
      smidgen chat smollm2-135m-instruct --lora tuned
      smidgen tune model-f16.gguf --data mine.jsonl --epochs 2 --rank 32 --merge -o tuned
      smidgen tune gemma-small --data notes.jsonl --full --steps 200 -o tuned
      smidgen tune model-f16.gguf --adapter tuned --merge -o merged
      smidgen tune smollm2-135m-instruct --data mine.jsonl --workers 2 -o tuned
      torchrun --nnodes 2 … -m smidgen tune smollm2-135m-instruct --data mine.jsonl -o tuned
    """
    lora_only = {
        "rank": rank, "alpha": alpha, "dropout": dropout, "targets": targets, "rslora": rslora or None,
        "adapter": adapter, "merge": merge or None,
    }  # fmt: skip
    _refuse_contradictions({name for name, value in lora_only.items() if value is not None}, full, steps, epochs)
    some = None if blocks is None else _first_and_last(blocks)
    most = None if memory is None else parse_size(memory)
    _refuse_early(model, output, [*(data or ()), *([valid] if valid else ())])
    from smidgen.distillation.students.lora import TARGETS, LoraOptions, parse_targets
    from smidgen.distillation.team.team import is_writer
    from smidgen.training.tune import TuneOptions, tune, tune_together

    lora = LoraOptions(rank or 16, alpha, dropout or 0.0, parse_targets(options.comma_list(targets)) or TARGETS, rslora)
    wanted = TuneOptions(
        steps, epochs or TuneOptions.epochs, lr, batch, context, lora, adapter, full, merge, train_on_prompts, skip_bad,
        raw, TuneOptions.held_out if held_out is None else held_out, seed or 0, threads, keep, some, most,
    )  # fmt: skip
    what = model, data or (), output, wanted
    if ray is None and workers in (None, 1):
        result = tune(*what, valid=valid, resume=resume)
    else:
        result = tune_together(*what, workers or 2, valid=valid, ray=ray, resume=resume)
    if is_writer():
        print(result.to_json() if json else result.describe(model))


def _refuse_contradictions(said: set[str], full: bool, steps: int | None, epochs: float | None) -> None:
    if full and said:
        raise typer.BadParameter(f"--{min(said)} is about adapters, and --full makes none; leave one out")
    if steps is not None and epochs is not None:
        raise typer.BadParameter("--steps and --epochs say the same; give one of them")
    if "adapter" in said and said & {"rank", "alpha", "targets", "rslora"}:
        other = min(said & {"rank", "alpha", "targets", "rslora"})
        raise typer.BadParameter(f"--adapter already says what --{other} would; leave one out")


def _first_and_last(said: str) -> tuple[int, int]:
    """ "20-25" → (20, 25), "20" → (20, 20)."""
    first, dash, last = said.partition("-")
    if not (first.strip().isdecimal() and (last.strip().isdecimal() if dash else True)):
        raise typer.BadParameter("--blocks takes the first and the last block, from 0, such as 20-25")
    return int(first), int(last) if dash else int(first)


def _refuse_early(model: str, output: Path, files: Sequence[Path]) -> None:
    """What can be refused at once: loading torch takes seconds. The tuning looks again."""
    from smidgen.formats.hub.catalogue import origin_of
    from smidgen.formats.opening import read_config
    from smidgen.publishing.companions import refuse_output

    origin = origin_of(model)
    read_config(origin.path)
    refuse_output(output, origin)
    for file in files:
        if not file.is_file():
            raise SmidgenError(f"there is no file {file}. Give a JSONL file with --data.")
