"""Tuning: a model learns from examples of your own. LoRA adapters by default, all of its weights on request.

Examples in (JSON Lines, the model's chat template) → packed rows → training, with the loss on held-out examples before
and after → what was learned, written: an adapter in PEFT's layout and as GGUF, or a model with it merged in. A model
whose weights are quantized keeps its types: an adapter stands beside them, or is rounded onto their lattice, and with
`full` the lattice itself is trained through. What was written is opened again and measured.
"""

import json
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import torch

from smidgen.data.conversations import Coder, Example, Tally
from smidgen.distill.batch import Batch
from smidgen.distill.lattice import LatticeStudent, careful_rate
from smidgen.distill.lora import Adapted, LoraOptions
from smidgen.distill.losses import LanguageObjective
from smidgen.distill.packing import Document, PackedBatches
from smidgen.distill.trainee import Plain, Trainee, open_decoder
from smidgen.distill.trainer import Trainer, TrainingOptions, TrainingResult
from smidgen.errors import SmidgenError, Unsupported, printable
from smidgen.formats.adapters import read_adapter, write_gguf_lora, write_peft
from smidgen.formats.checkpoint import Checkpoint, load
from smidgen.formats.derived import Derived, Packed, write_derived
from smidgen.formats.workspace import Workspace
from smidgen.model.chat import chat_template
from smidgen.model.decoder import Decoder
from smidgen.model.tokenizer import Tokenizer
from smidgen.numerics.grids import GRIDS
from smidgen.numerics.precision import fast_product_dtype
from smidgen.outputs import WORK, refuse_output, write_tuning_notes
from smidgen.progress import say, track

_CONTEXT, _ROWS, _STEPS_AN_EPOCH = 1024, 4, 16
_TOKENS_AT_ONCE = 4096
_EVALUATIONS, _SAVES = 4, 10
#: Learning rates: of adapters as in QLoRA (arXiv:2305.14314, table 9), a tenth of it for whole weights.
_RATES = {"lora": 2e-4, "full": 2e-5}


@dataclass(frozen=True)
class TuneOptions:
    """How to tune.

    steps: batches to learn from; None for `epochs` passes over the examples.  learning_rate: None for a usual one.
    batch: rows of `context` tokens that a step learns from, each with as many examples as fit; None for 4, fewer where
    there are few examples.  context: None for 1024, or the model's own if that is shorter.
    lora: of new adapters.  adapter: go on from this one (a folder of PEFT, or adapter.gguf).  full: train all weights.
    merge: write model.gguf with the adapter in it.  on_prompts: learn from questions too.  skip_bad: pass over
    malformed lines.  raw: give prompts with completions to the model as they stand, without its chat template.
    held_out: share of the examples that are kept aside to measure on.
    """

    steps: int | None = None
    epochs: float = 3.0
    learning_rate: float | None = None
    batch: int | None = None
    context: int | None = None
    lora: LoraOptions = field(default_factory=LoraOptions)
    adapter: Path | None = None
    full: bool = False
    merge: bool = False
    on_prompts: bool = False
    skip_bad: bool = False
    raw: bool = False
    held_out: float = 0.05
    seed: int = 0
    threads: int | None = None


@dataclass
class TuneResult:
    """What came of it. Losses are nats per token of answer, on the held-out examples; None where there are none.

    written: names of files in `path`.  after: with the best weights met in training, which are the ones written.
    merged: of model.gguf, opened again.
    """

    path: Path
    written: list[str]
    examples: int = 0
    held_out: int = 0
    steps: int = 0
    tokens: int = 0
    before: float | None = None
    after: float | None = None
    merged: float | None = None
    seconds: float = 0.0
    notes: list[str] = field(default_factory=list)

    def to_json(self) -> str:
        """Everything as one JSON object."""
        return json.dumps(
            {
                "path": str(self.path), "written": self.written, "examples": self.examples, "held_out": self.held_out,
                "steps": self.steps, "tokens": self.tokens, "loss_before": self.before, "loss_after": self.after,
                "loss_of_model": self.merged, "seconds": self.seconds, "notes": self.notes,
            }
        )  # fmt: skip

    def figures(self) -> list[str]:
        """The loss before and after, in words."""
        if self.before is None or self.after is None:
            return []
        lines = [f"Loss on {self.held_out} held-out examples: {self.before:.4f} before, {self.after:.4f} after."]
        if self.merged is not None:
            lines.append(f"Loss of model.gguf, read back: {self.merged:.4f}.")
        return lines

    def describe(self, model: str) -> str:
        """What a person wants to know at the end, in a few lines."""
        lines = [f"{self.path}: {', '.join(self.written)}, in {self.seconds:.0f} s", *self.notes, *self.figures()]
        use = f"{self.path}" if "model.gguf" in self.written else f"{model} --lora {self.path}"
        return "\n".join([*lines, f"Try it: smidgen chat {use}"])


@dataclass(frozen=True)
class _Data:
    """Examples to learn from and to measure on, and what a person should know about them."""

    examples: list[Example]
    held_out: list[Example]
    tally: Tally
    sha256: str


def tune(
    model: str,
    data: Sequence[Path],
    output: Path,
    options: TuneOptions,
    valid: Path | None = None,
    resume: bool = False,
) -> TuneResult:
    """Tune `model` on the examples of JSON Lines files and write what it learned into the folder `output`.

    model: as `catalogue.locate` takes it.  data: none at all writes `options.adapter` again, in all formats, and merged
    if asked for.  valid: examples to measure on, in place of held-out ones.  resume: go on where the same tuning was
    interrupted.

    Raises SmidgenError, BadFile or Unsupported for bad input, the first malformed line among it unless it is to be
    skipped, an unwritable or full disk, and for `resume` with other settings than the interrupted tuning had.
    """
    started = time.monotonic()
    _refuse_contradictions(data, options)
    if options.threads is not None:
        torch.set_num_threads(options.threads)
    with load(model) as checkpoint:
        refuse_output(output, checkpoint.path)
        options = replace(options, context=_context(checkpoint, options))
        found = _read(checkpoint, data, valid, options)
        try:
            output.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            reason = f"{printable(output)} cannot be written: {error.strerror}."
            raise SmidgenError(f"{reason} Choose another folder with -o.") from error
        trainee = _trainee(checkpoint, options)
        result = TuneResult(output, [], len(found.examples), len(found.held_out))
        result.notes += found.tally.notes(options.context or 0)
        if data:
            _train(trainee, checkpoint, found, output, options, result, resume)
        if isinstance(trainee, Adapted):
            _write_adapter(trainee, checkpoint, model, output, options, result)
        if options.full or options.merge:
            _write_model(trainee, checkpoint, found.held_out, output, options, result)
        result.seconds = time.monotonic() - started
        write_tuning_notes(output, model, checkpoint, result.written, [_summary(options, result), *result.figures()])
        result.written.append("README.md")
        Workspace(output / WORK).finish()
        return result


def _refuse_contradictions(data: Sequence[Path], options: TuneOptions) -> None:
    if not data and options.adapter is None:
        raise SmidgenError("there is nothing to learn from; give examples with --data FILE.jsonl.")
    if options.full and (options.adapter is not None or options.merge):
        raise SmidgenError("--full trains the model's own weights: leave out --adapter and --merge.")


def _context(checkpoint: Checkpoint, options: TuneOptions) -> int:
    longest = checkpoint.config.context_length
    if options.context is None:
        return min(_CONTEXT, longest)
    if options.context > longest:
        raise SmidgenError(f"--context {options.context} is more than the {longest} tokens the model was trained for.")
    return options.context


# -- examples --------------------------------------------------------------------------------------------------------


def _read(checkpoint: Checkpoint, data: Sequence[Path], valid: Path | None, options: TuneOptions) -> _Data:
    """All examples, with those that are held out set apart."""
    metadata = checkpoint.file.metadata
    try:
        template = chat_template(metadata)
    except SmidgenError:
        template = None
    tokenizer, context, tally = Tokenizer.from_gguf(metadata), options.context or _CONTEXT, Tally()
    coder = Coder(tokenizer, template, context, options.on_prompts, chat=not options.raw)
    examples: list[Example] = []
    with track("Reading examples", sum(path.stat().st_size for path in data if path.is_file()), in_bytes=True) as task:
        for path in data:
            for example in coder.read(path, tally, options.skip_bad):
                examples.append(example)
                task.advance(tally.size - task.done)
    if data and not examples:
        raise SmidgenError(f"no line of {printable(data[0])} can be learned from; {_told(tally, context)}")
    held_out: list[Example] = []
    if valid is not None:
        held_out = list(coder.read(valid, Tally(), options.skip_bad))
        if not held_out:
            raise SmidgenError(f"no line of {printable(valid)} can be measured on.")
    elif options.held_out > 0:
        examples, held_out = _split(examples, options.held_out, options.seed)
    digest = sha256()
    for example in (*examples, *held_out):
        digest.update(_fingerprint(example))
    return _Data(examples, held_out, tally, digest.hexdigest())


def _told(tally: Tally, context: int) -> str:
    return " ".join(tally.notes(context)) or "give a file with one JSON object a line."


def _split(examples: list[Example], share: float, seed: int) -> tuple[list[Example], list[Example]]:
    """Examples to learn from and to measure on. Equal examples are on the same side, wherever they stand."""
    keys = [sha256(seed.to_bytes(8, "little") + _fingerprint(example)).digest() for example in examples]
    distinct = sorted(set(keys))
    if len(distinct) < 2:
        return examples, []
    kept_aside = set(distinct[: min(max(1, round(share * len(distinct))), len(distinct) - 1)])
    return (
        [example for example, key in zip(examples, keys, strict=True) if key not in kept_aside],
        [example for example, key in zip(examples, keys, strict=True) if key in kept_aside],
    )


def _fingerprint(example: Example) -> bytes:
    return sha256(repr((example.ids, example.weights)).encode()).digest()


def _packed(examples: Sequence[Example], rows: int, options: TuneOptions) -> PackedBatches:
    documents = [Document(example.ids, example.name, example.weights) for example in examples]
    return PackedBatches(documents, None, rows, options.context or _CONTEXT, options.seed)


# -- training --------------------------------------------------------------------------------------------------------


def _trainee(checkpoint: Checkpoint, options: TuneOptions) -> Trainee:
    if options.full:
        quantized = any(checkpoint.kind(name) in GRIDS for name in checkpoint.names())
        return LatticeStudent(checkpoint) if quantized else Plain(open_decoder(checkpoint))
    if options.adapter is not None:
        adapter = read_adapter(options.adapter, checkpoint)
        return Adapted.continued(open_decoder(checkpoint), adapter, options.lora.dropout)
    return Adapted(open_decoder(checkpoint), replace(options.lora, seed=options.seed))


def _train(
    trainee: Trainee,
    checkpoint: Checkpoint,
    data: _Data,
    output: Path,
    options: TuneOptions,
    result: TuneResult,
    resume: bool,
) -> None:
    """Train, and note in `result` how that went."""
    batches, rows = _batches(data, options)
    steps = options.steps or math.ceil(len(batches) * options.epochs / rows)
    say(
        f"{len(data.examples)} examples in {len(batches)} rows of {options.context} tokens; "
        f"{steps} steps of {rows} rows. {len(data.held_out)} examples are held out."
    )
    if isinstance(trainee, LatticeStudent):
        rate = careful_rate(steps)
    else:
        rate = _RATES["lora" if isinstance(trainee, Adapted) else "full"]
    training = TrainingOptions(
        steps,
        learning_rate=options.learning_rate or rate,
        rows_at_once=max(1, _TOKENS_AT_ONCE // (options.context or _CONTEXT)),
        checkpoint_every=max(1, steps // _SAVES),
        seed=options.seed,
    )
    objective = LanguageObjective(fast_product_dtype() is torch.bfloat16)
    evaluate = _evaluation(trainee.decoder, objective, data.held_out, options) if data.held_out else None
    trainer = Trainer(
        trainee, objective, batches, training, output / WORK, _fingerprint_of(checkpoint, data, options), evaluate,
        evaluate_every=max(1, steps // _EVALUATIONS), metrics=output / "metrics.jsonl", label="Tuning",
    )  # fmt: skip
    _note(trainer.run(resume), result)


def _batches(data: _Data, options: TuneOptions) -> tuple[PackedBatches, int]:
    """Rows, and how many of them a step takes."""
    if options.batch is not None:
        return _packed(data.examples, options.batch, options), options.batch
    rows = max(1, min(_ROWS, len(_packed(data.examples, 1, options)) // _STEPS_AN_EPOCH))
    return _packed(data.examples, rows, options), rows


def _note(trained: TrainingResult, result: TuneResult) -> None:
    result.steps, result.tokens = trained.steps, trained.tokens
    result.written.append("metrics.jsonl")
    if trained.best is None:
        return
    result.before, result.after = trained.evaluations[0][1], trained.best[1]
    if trained.best[0] == 0:
        result.notes.append("Nothing learned helped on the held-out examples: what was written is the model as it was.")


def _fingerprint_of(checkpoint: Checkpoint, data: _Data, options: TuneOptions) -> dict[str, Any]:
    """What the result depends on."""
    settings = {key: value for key, value in asdict(options).items() if key not in ("threads", "merge", "skip_bad")}
    adapter = None if options.adapter is None else str(options.adapter)
    return {"model": checkpoint.sha256(), "data": data.sha256, **settings, "adapter": adapter}


def _evaluation(
    decoder: Decoder, objective: LanguageObjective, examples: Sequence[Example], options: TuneOptions
) -> Callable[[], float]:
    """The mean loss on examples, in nats per token that counts."""
    packed = _packed(examples, 1, options)

    def evaluate() -> float:
        total = weight = 0.0
        decoder.eval()
        for row in range(len(packed)):
            batch: Batch = packed.rows([row])
            total += float(objective(decoder, batch)[0])
            weight += batch.weight()
        decoder.train()
        return total / weight

    return evaluate


# -- writing ---------------------------------------------------------------------------------------------------------


def _write_adapter(
    trainee: Adapted, checkpoint: Checkpoint, model: str, output: Path, options: TuneOptions, result: TuneResult
) -> None:
    """The adapter in all formats that can hold it."""
    adapter, name = trainee.adapter(), str(checkpoint.file.metadata.get("general.name", model))
    try:
        write_peft(adapter, checkpoint, output, name, options.lora.dropout)
        result.written += ["adapter_model.safetensors", "adapter_config.json"]
    except Unsupported as error:
        result.notes.append(f"No adapter for transformers: {error}")
    write_gguf_lora(adapter, checkpoint, output / "adapter.gguf", f"Adapter for {name}")
    result.written.append("adapter.gguf")


def _write_model(
    trainee: Trainee,
    checkpoint: Checkpoint,
    held_out: Sequence[Example],
    output: Path,
    options: TuneOptions,
    result: TuneResult,
) -> None:
    """model.gguf, measured as it was written."""
    parts = trainee.parts_in(checkpoint) if isinstance(trainee, Adapted) else trainee.parts()
    step = {"step": "tune", "parameters": _parameters(options, result), "summary": _summary(options, result)}
    path = output / "model.gguf"
    write_derived(checkpoint, Derived(checkpoint.config, parts), path, step)
    result.written.append(path.name)
    if not held_out:
        return
    with Checkpoint.open(path) as written, torch.no_grad():
        objective = LanguageObjective(fast_product_dtype() is torch.bfloat16)
        result.merged = _evaluation(open_decoder(written), objective, held_out, options)()
    if result.before is not None and result.after is not None and isinstance(trainee, Adapted):
        kept = (result.before - result.merged) / max(result.before - result.after, 1e-9)
        if kept < 0.9 and any(isinstance(part, Packed) for part in parts.values()):
            result.notes.append(
                f"Rounded onto the model's lattice, the adapter keeps {100 * max(0.0, kept):.0f}% of what it gained: "
                "most changes are smaller than the steps of its types. Use it beside the model, or tune with --full."
            )


def _parameters(options: TuneOptions, result: TuneResult) -> dict[str, Any]:
    lora = {} if options.full else {"rank": options.lora.rank, "targets": list(options.lora.targets)}
    return {"full": options.full, "steps": result.steps, "tokens": result.tokens, "seed": options.seed, **lora}


def _summary(options: TuneOptions, result: TuneResult) -> str:
    how = "All weights tuned" if options.full else "Tuned with low-rank adapters (LoRA)"
    return f"{how} on {result.examples} examples, {result.tokens} tokens of answers in {result.steps} steps."
