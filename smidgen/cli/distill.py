"""`smidgen distill`: a student learns to predict what its teacher predicts."""

import os
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from smidgen.cli import options
from smidgen.shell import path_of
from smidgen.sizes import parse_size

_FRESH, _TRAINING, _LOSS = "Fresh students", "Training", "Loss"


def _size(name: str, help: str) -> Any:
    return typer.Option(name, min=1, metavar="N", help=f"{help}  [default: the teacher's]", rich_help_panel=_FRESH)


def command(
    teacher: Annotated[str, typer.Argument(metavar="TEACHER", help=options.MODEL_HELP, show_default=False)],
    student: Annotated[
        str,
        typer.Argument(
            metavar="STUDENT|new", help="A model to train, quantized or not; 'new' for a fresh one.", show_default=False
        ),
    ],
    output: options.Output,
    steps: Annotated[int, typer.Option("--steps", min=1, metavar="N", help="Batches to learn from.")],
    text: Annotated[
        list[str] | None,
        typer.Option("--text", metavar="FILE", help="Text to learn from, repeatable.  [default: text by the teacher]"),
    ] = None,
    data: Annotated[
        list[Path] | None,
        typer.Option(
            "--data",
            metavar="FILE",
            parser=path_of,
            help="JSON Lines or a JSON list, as for tune (repeatable), or a corpus of `smidgen data`.",
        ),
    ] = None,
    layers: Annotated[int | None, _size("--layers", "Layers.")] = None,
    width: Annotated[int | None, _size("--width", "Width of the residual stream.")] = None,
    ffn: Annotated[int | None, _size("--ffn", "Width of the feed-forward networks.")] = None,
    heads: Annotated[int | None, _size("--heads", "Query heads.")] = None,
    kv_heads: Annotated[int | None, _size("--kv-heads", "Key/value heads.")] = None,
    init: Annotated[
        Literal["slices", "random"] | None,
        typer.Option("--init", help="Begin with slices of the teacher (the default), or at random.",
                     rich_help_panel=_FRESH),
    ] = None,
    lr: Annotated[
        float | None,
        typer.Option("--lr", min=1e-9, metavar="RATE", rich_help_panel=_TRAINING,
                     help="Highest learning rate.  [default: 1e-3 fresh, 1e-4, or 0.25/√steps codes]"),
    ] = None,
    batch: Annotated[
        int, typer.Option("--batch", min=1, metavar="N", help="Rows in a step.", rich_help_panel=_TRAINING)
    ] = 8,
    context: Annotated[
        int | None,
        typer.Option("--context", min=8, metavar="N", rich_help_panel=_TRAINING,
                     help="Tokens in a row.  [default: 512, or what the models know]"),
    ] = None,
    optimizer: Annotated[
        Literal["adamw", "muon"],
        typer.Option("--optimizer", rich_help_panel=_TRAINING, help="AdamW, or Muon for matrices."),
    ] = "adamw",
    schedule: Annotated[
        Literal["cosine", "wsd", "constant"],
        typer.Option("--schedule", rich_help_panel=_TRAINING, help="How the learning rate falls after its warm-up."),
    ] = "cosine",
    gradient_checkpointing: Annotated[
        bool,
        typer.Option("--gradient-checkpointing", rich_help_panel=_TRAINING,
                     help="Less memory, for a third more work."),
    ] = False,
    loss: Annotated[
        Literal["forward", "reverse", "jsd"],
        typer.Option("--loss", rich_help_panel=_LOSS, help="KL from the teacher, to it, or Jensen-Shannon."),
    ] = "forward",
    beta: Annotated[
        float,
        typer.Option("--beta", metavar="B", rich_help_panel=_LOSS, help="Of Jensen-Shannon: 0 forward, 1 reverse."),
    ] = 0.5,
    temperature: Annotated[
        float, typer.Option("--temperature", metavar="T", rich_help_panel=_LOSS, help="Softens both sides.")
    ] = 1.0,
    hard: Annotated[
        float,
        typer.Option("--hard", min=0, max=1, metavar="SHARE", rich_help_panel=_LOSS,
                     help="Share of cross-entropy with the text; 1 to do without the teacher."),
    ] = 0.0,
    match_hidden: Annotated[
        float,
        typer.Option("--match-hidden", min=0, metavar="WEIGHT", rich_help_panel=_LOSS,
                     help="Weight of making the layers' outputs like the teacher's, beside its predictions."),
    ] = 0.0,
    match_relations: Annotated[
        float,
        typer.Option("--match-relations", min=0, metavar="WEIGHT", rich_help_panel=_LOSS,
                     help="The same for relations between queries, keys and values in the last of these layers."),
    ] = 0.0,
    match_layers: Annotated[
        str | None,
        typer.Option("--match-layers", metavar="OWN:TEACHER,…", rich_help_panel=_LOSS,
                     help="Which of its layers is like which of the teacher's, from 0.  [default: by its history]"),
    ] = None,
    on_policy: Annotated[
        float,
        typer.Option("--on-policy", min=0, max=1, metavar="SHARE", rich_help_panel=_LOSS,
                     help="Share of the rows that the student writes and the teacher corrects."),
    ] = 0.0,
    on: Annotated[
        Literal["answers", "all"],
        typer.Option("--on", rich_help_panel=_LOSS, help="Of chats and completions: learn from answers alone, or all."),
    ] = "all",
    memory: Annotated[
        str | None,
        typer.Option("--memory", metavar="SIZE", rich_help_panel=_TRAINING,
                     help="Most memory to take, such as 8GB.  [default: what is free]"),
    ] = None,
    keep: Annotated[
        Literal["best", "last"],
        typer.Option("--keep", rich_help_panel=_TRAINING,
                     help="The state that is best on some held-out text, if that is enough; or the last."),
    ] = "best",
    cache_teacher: Annotated[
        bool,
        typer.Option("--cache-teacher", rich_help_panel=_LOSS,
                     help="Ask the teacher once about each text, for more than one epoch."),
    ] = False,
    checkpoint_every: Annotated[
        int | None,
        typer.Option("--checkpoint-every", min=1, metavar="N", help="Steps.  [default: ten times in all]"),
    ] = None,
    tensorboard: Annotated[bool, typer.Option("--tensorboard", help="Write DIR/tensorboard too.")] = False,
    trackio: Annotated[bool, typer.Option("--trackio", help="Log to trackio, on this machine.")] = False,
    resume: options.Resume = False,
    seed: options.EverySeed = 0,
    threads: options.Threads = None,
    workers: options.Workers = None,
    ray: options.Ray = None,
    json: options.Json = False,
    quiet: options.Quiet = False,
    debug: options.Debug = False,
) -> None:  # fmt: skip
    """Train a student to predict what its teacher predicts, and write it as a GGUF file.

    The student is a model of yours, which keeps its types (a quantized one is trained through them, so that nothing is
    lost when it is packed), or a fresh one with the teacher's vocabulary in 16 bits, for `cut` to go on with. A student
    with some of the teacher's tokens is taught in its own.

    Writes DIR/model.gguf, README.md with loss.svg, metrics.jsonl and the originals' licences. A sixteenth of the text
    is held out: on half of it the best state is chosen, which may be the first, and the other half says how good it is.

    \b
    Examples:
      smidgen distill gemma-3-270m new --layers 12 --width 512 --steps 2000 --text books.txt -o student
      smidgen distill gemma-3-270m pruned/model.gguf --steps 200 -o healed
      smidgen distill model-f16.gguf small/model.gguf --steps 100 --text my-field.txt -o better
      smidgen distill gemma-3-270m new --layers 6 --init random --data corpus --optimizer muon --steps 5000 -o student
      smidgen distill gemma-3-270m pruned/model.gguf --steps 500 --match-hidden 0.5 --text books.txt -o recovered
      smidgen distill gemma-3-270m student --loss jsd --on-policy 0.5 --steps 500 --data questions.jsonl -o again
      smidgen distill gemma-3-270m new --layers 12 --steps 2000 --text books.txt -o student --resume
      smidgen distill gemma-3-270m new --layers 12 --steps 2000 --data corpus -o student --workers 4
      torchrun --nnodes 2 … -m smidgen distill gemma-3-270m new --layers 12 --steps 2000 --data corpus -o student
    """
    shape = {"layers": layers, "width": width, "ffn": ffn, "heads": heads, "kv_heads": kv_heads}
    fresh = student == "new"
    if fresh and os.path.lexists(student) and output != Path(student) and not any((*shape.values(), init)):
        raise typer.BadParameter("'new' is a fresh student, and there is a 'new' here too; say ./new, or --init slices")
    _refuse_shape_of_a_student_that_exists(fresh, {**shape, "init": init})
    pairs = None if match_layers is None else _pairs_of_layers(match_layers)
    most = None if memory is None else parse_size(memory)
    _refuse_early(teacher, None if fresh else student, output, text or [])
    from smidgen.distillation.objectives.losses import Divergence
    from smidgen.distillation.objectives.matching import MatchingOptions
    from smidgen.distillation.students.fresh import FreshShape
    from smidgen.distillation.team.team import is_writer
    from smidgen.training.distill import DistillOptions, distill, distill_together

    kind = "jensen-shannon" if loss == "jsd" else loss
    wanted = DistillOptions(
        steps, tuple(text or ()), tuple(data or ()), FreshShape(**shape), init or "slices", lr, batch, context,
        optimizer, schedule, Divergence(kind, beta, temperature, hard),
        MatchingOptions(match_hidden, match_relations, pairs), on_policy, cache_teacher, checkpoint_every,
        gradient_checkpointing, seed, threads, tensorboard, trackio, on, keep, most,
    )  # fmt: skip
    models = teacher, None if fresh else student, output, wanted
    if ray is None and workers in (None, 1):
        result = distill(*models, resume=resume)
    else:
        result = distill_together(*models, workers or 2, ray=ray, resume=resume)
    if is_writer():
        options.show(result, json)


def _refuse_shape_of_a_student_that_exists(fresh: bool, said: dict[str, Any]) -> None:
    given = [name.replace("_", "-") for name, value in said.items() if value is not None]
    if given and not fresh:
        raise typer.BadParameter(f"--{given[0]} is for a fresh student; a model has its shape. Say 'new' for STUDENT")


def _pairs_of_layers(said: str) -> tuple[tuple[int, int], ...]:
    """ "0:2,1:5" → ((0, 2), (1, 5)), each of the student's layers once."""
    found: dict[int, int] = {}
    for pair in said.split(","):
        own, colon, teachers = pair.strip().partition(":")
        if not (colon and own.isdecimal() and teachers.isdecimal()):
            raise typer.BadParameter("--match-layers takes pairs of numbers from 0, such as 0:2,1:5")
        if int(own) in found:
            raise typer.BadParameter(f"--match-layers has layer {int(own)} of the student twice")
        found[int(own)] = int(teachers)
    return tuple(found.items())


def _refuse_early(teacher: str, student: str | None, output: Path, texts: list[str]) -> None:
    """What can be refused at once: loading torch takes seconds. The training looks again."""
    from smidgen.data.sources import read_texts
    from smidgen.formats.hub.catalogue import origin_of
    from smidgen.formats.opening import read_config
    from smidgen.publishing.companions import refuse_output

    for model in (teacher, student):
        if model is not None:
            origin = origin_of(model)
            read_config(origin.path)
            refuse_output(output, origin)
    read_texts(texts)
