"""The cut: from a model and a byte budget to a smaller file, its report card, and the recipe that made both.

The stages meet only here. Weights in → calibration text → survey (what would each type cost?) → plan → quantize
block by block → write → measure what was written. Everything up to the written file is kept in `DIR/work` as it is
finished, and `--resume` goes on from there.
"""

import json
import time
import tomllib
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from torch import Tensor

from smidgen import __version__
from smidgen.calibrate.walk import StateShelf
from smidgen.data.self_written import self_written
from smidgen.data.sources import TextSource, read_texts
from smidgen.data.text import WINDOW, Windows, cut_into_windows, spread
from smidgen.engines.machine import peak_memory
from smidgen.engines.torch import TorchEngine
from smidgen.errors import BadFile, SmidgenError, printable
from smidgen.formats.catalogue import cache_folder
from smidgen.formats.checkpoint import Checkpoint, load
from smidgen.formats.gguf_writer import write_gguf
from smidgen.measure import measure
from smidgen.model.tokenizer import Tokenizer
from smidgen.numerics.block_types import BY_NAME, BlockType
from smidgen.numerics.grids import GRIDS
from smidgen.outputs import WORK, refuse_output, remove_outdated, write_companions
from smidgen.plan import Choice, choose, layout, refuse_impossible
from smidgen.progress import say
from smidgen.quant.blockwise import quantize
from smidgen.quant.survey import TARGET_TYPES, Survey, survey
from smidgen.quant.workspace import QuantWorkspace
from smidgen.shapes import Int
from smidgen.sizes import format_size

#: Tokens of calibration, where nobody says otherwise.
DEFAULT_TOKENS = 16_384

#: Of a text that is given, one window in so many is kept for measuring.
HELD_OUT_EVERY = 5


@dataclass(frozen=True)
class CutOptions:
    """What a cut depends on: the same options, model and versions give the same file, bit for bit.

    fit: largest size of the file in bytes.  texts: calibration files; empty for text that the model writes itself.
    tokens: of calibration.  seed: of every random choice.  threads: of torch (sums depend on it in the last bit).
    types: GGUF types to choose from; empty for `quant.survey.TARGET_TYPES`.
    original: the sha256 that the model must have; None for any.
    """

    fit: int
    texts: tuple[str, ...] = ()
    tokens: int = DEFAULT_TOKENS
    seed: int = 0
    threads: int | None = None
    types: tuple[str, ...] = ()
    original: str | None = None

    def __post_init__(self) -> None:
        """Raises SmidgenError for numbers that mean nothing, whether a program or a recipe gave them."""
        least = {"fit": 1, "tokens": WINDOW, "seed": 0, "threads": 1}
        for name, smallest in least.items():
            value = getattr(self, name)
            if value is not None and not smallest <= value < 2**63:
                raise SmidgenError(f"{name} is {value}; it must be {smallest} or more, and below 2^63.")
        known = {kind.name for kind in GRIDS}
        for name in self.types:
            if name not in known:
                raise SmidgenError(f"{name!r} is not a type to quantize to. Choose from {', '.join(sorted(known))}.")

    @property
    def kinds(self) -> tuple[BlockType, ...]:
        """The types to choose from."""
        return tuple(BY_NAME[name] for name in self.types) or TARGET_TYPES

    def as_recipe(self, model: str, sha256: str, sources: Sequence[TextSource]) -> dict[str, Any]:
        """What `recipe.toml` says: everything that is needed to make the same file again."""
        texts = [{"file": given, "sha256": source.sha256} for given, source in zip(self.texts, sources, strict=True)]
        versions = {"smidgen": __version__, "torch": torch.__version__}
        step = {"step": "quantize", "fit": self.fit, "tokens": self.tokens, "seed": self.seed, "texts": texts}
        step["types"] = list(self.types)
        threads = torch.get_num_threads()
        return {"model": model, "sha256": sha256, "threads": threads, "versions": versions, "steps": [step]}


@dataclass
class CutResult:
    """Where things are, and the plan that was carried out.

    path: None after a dry run.  plan: the choices in a line for people.
    card: what `card.json` holds, None where nothing was measured.
    """

    path: Path | None
    choices: list[Choice]
    size: int
    seconds: float
    plan: str
    card: dict[str, Any] | None = None

    def to_json(self) -> str:
        """Everything as one JSON object."""
        return json.dumps(
            {
                "path": None if self.path is None else str(self.path), "bytes": self.size, "seconds": self.seconds,
                "expected_kl": sum(choice.damage for choice in self.choices),
                "tensors": [
                    {"name": c.name, "kind": c.kind.name, "kept": c.keep, "bytes": c.nbytes, "expected_kl": c.damage}
                    for c in self.choices
                ],
                "card": self.card,
            }
        )  # fmt: skip

    def describe(self) -> str:
        """What a person wants to know at the end, in a few lines."""
        if self.path is None:
            return f"{self.plan}\nNothing was written (--dry-run)."
        lines = [f"{self.path}: {self.size} bytes, in {self.seconds:.0f} s"]
        if self.card is not None:
            lines.append(f"Report card: {self.path.parent / 'card.html'}")
        lines.append(f'Try it: smidgen run {self.path.parent} "Once upon a time"')
        return "\n".join(lines)


def cut(
    model: str, output: Path, options: CutOptions, *, resume: bool = False, dry_run: bool = False, measured: bool = True
) -> CutResult:
    """Cut `model` to `options.fit` bytes and write `output/model.gguf` with its companions.

    model: catalogue name, .gguf file or folder of an earlier cut.  resume: go on where the same cut was interrupted.
    dry_run: stop after the plan.  measured: compare original and result, and write the report card.

    Raises BudgetError before any work where the size is impossible; SmidgenError or BadFile for bad input, an
    unwritable or full disk, and for `resume` with other settings than the interrupted cut had.
    """
    started = time.monotonic()
    if options.threads is not None:
        torch.set_num_threads(options.threads)
    with load(model) as checkpoint, ExitStack() as stack:
        refuse_output(output, checkpoint.path)
        refuse_impossible(checkpoint, options.fit, options.kinds)
        _refuse_other_original(checkpoint, options)
        sources = read_texts(options.texts)
        scratch = Path(stack.enter_context(TemporaryDirectory(prefix="smidgen-"))) if dry_run else None
        workspace = _open_workspace(scratch or output, checkpoint, sources, options, resume)
        windows = _calibration_windows(checkpoint, sources, options)
        surveyed = _survey(checkpoint, windows, options, workspace)
        choices = choose(checkpoint, surveyed.damage, options.fit)
        kinds = {choice.name: choice.kind for choice in choices}
        size = layout(checkpoint, kinds).size
        plan = describe_plan(choices, size, options.fit)
        if dry_run:
            return CutResult(None, choices, size, time.monotonic() - started, plan)
        say(plan)
        encoded = {name: choice.kind for choice in choices if not choice.keep for name in choice.members}
        quantize(checkpoint, encoded, surveyed, windows, workspace)
        path = output / "model.gguf"
        _write(checkpoint, choices, workspace, path)
        remove_outdated(output)
        result = CutResult(path, choices, size, time.monotonic() - started, plan)
        if measured:
            result.card = _measure(
                model, result, options, sources, windows, _step(choices, workspace, options, sources)
            )
        write_companions(output, model, checkpoint, options.as_recipe(model, checkpoint.sha256(), sources), result.card)
        workspace.finish()
        return result


def _refuse_other_original(checkpoint: Checkpoint, options: CutOptions) -> None:
    if options.original is not None and options.original != checkpoint.sha256():
        raise BadFile(
            f"{printable(checkpoint.path)} is not the model that the recipe was made with: its sha256 begins with "
            f"{checkpoint.sha256()[:12]}, the recipe's with {options.original[:12]}. Give that one, or cut with --fit."
        )


def describe_plan(choices: Sequence[Choice], size: int, budget: int) -> str:
    """The plan in two lines: how many bytes and weights go into which type, and the expected damage."""
    share: dict[str, int] = {}
    for choice in choices:
        label = f"{choice.kind.name}{' (as it is)' if choice.keep else ''}"
        share[label] = share.get(label, 0) + choice.nbytes
    parts = ", ".join(f"{label} {format_size(nbytes)}" for label, nbytes in sorted(share.items(), key=lambda p: -p[1]))
    expected = sum(choice.damage for choice in choices)
    return (
        f"Plan: {parts}; file {size} bytes, {100 * size / budget:.1f}% of the budget. "
        f"Expected KL divergence (estimate): {expected:.3f} nats per token."
    )


def _open_workspace(
    output: Path, checkpoint: Checkpoint, sources: Sequence[TextSource], options: CutOptions, resume: bool
) -> QuantWorkspace:
    """`output/work`, bound to everything that the result depends on."""
    fingerprint = {
        "model": checkpoint.sha256(), "fit": options.fit, "texts": [source.sha256 for source in sources],
        "tokens": options.tokens, "seed": options.seed, "types": options.types, "threads": torch.get_num_threads(),
        "smidgen": __version__, "torch": torch.__version__,
    }  # fmt: skip
    try:
        output.mkdir(parents=True, exist_ok=True)
        open_or_start = QuantWorkspace.resume if resume else QuantWorkspace.start
        return open_or_start(output / WORK, fingerprint)
    except OSError as error:
        raise SmidgenError(f"{output} cannot be written: {error.strerror}. Choose another folder with -o.") from error


def _calibration_windows(
    checkpoint: Checkpoint, sources: Sequence[TextSource], options: CutOptions
) -> Int[Tensor, "windows position"]:
    """Full windows of about `options.tokens` tokens, each text giving an equal share."""
    tokenizer = Tokenizer.from_gguf(checkpoint.file.metadata)
    if sources:
        parts = [_calibration_part(cut_into_windows(source.text, tokenizer)) for source in sources]
    else:
        engine, folder = TorchEngine(checkpoint), cache_folder() / "self-written"
        text = self_written(
            engine, tokenizer, checkpoint.sha256(), options.tokens, options.seed, "calibration", folder
        ).text
        parts = [cut_into_windows(text, tokenizer)]
    share = -(-options.tokens // len(parts))
    windows = torch.cat([spread(part, share, options.seed).full() for part in parts])
    if not len(windows):
        raise SmidgenError(
            "The calibration text has fewer than 512 tokens. Give more, or leave out --text to let the model write."
        )
    return windows


def _calibration_part(windows: Windows) -> Windows:
    """All but every fifth window: those stay unseen, so that the result can be measured on the same text."""
    return windows.take([place for place in range(len(windows)) if place % HELD_OUT_EVERY != HELD_OUT_EVERY - 1])


def _survey(
    checkpoint: Checkpoint, windows: Int[Tensor, "windows position"], options: CutOptions, workspace: QuantWorkspace
) -> Survey:
    """The survey, from the workspace where it is done already."""
    damage = workspace.load_json("survey")
    if damage is not None:
        return Survey(damage, workspace.load_tensors("token-weights"), workspace.load_tensors("ends"))
    surveyed = survey(checkpoint, windows, options.seed, StateShelf(workspace.folder), options.kinds)
    workspace.save_tensors("token-weights", surveyed.token_weights)
    workspace.save_tensors("ends", surveyed.ends)
    workspace.save_json("survey", surveyed.damage)
    return surveyed


def _write(checkpoint: Checkpoint, choices: Sequence[Choice], workspace: QuantWorkspace, path: Path) -> None:
    """The file: encoded matrices from the workspace, everything else as in the original."""
    encoded = {choice.name: choice.members for choice in choices if not choice.keep}

    def packed(tensor: str) -> np.ndarray:
        checkpoint.release()
        if tensor not in encoded:
            return checkpoint.file.packed(tensor)
        parts = [
            checkpoint.family.gguf_transform(name, checkpoint.config).rows_to_file(workspace.packed(name)[1].numpy())
            for name in encoded[tensor]
        ]
        return parts[0] if len(parts) == 1 else np.concatenate(parts)

    plan = layout(checkpoint, {choice.name: choice.kind for choice in choices})
    write_gguf(path, plan.metadata, plan.metadata_types, plan.tensors, packed)


def _step(
    choices: Sequence[Choice], workspace: QuantWorkspace, options: CutOptions, sources: Sequence[TextSource]
) -> dict[str, Any]:
    """What the card says about the cut: settings, and what became of each matrix."""
    tensors: list[dict[str, Any]] = []
    for choice in choices:
        entry = {"name": choice.name, "kind": choice.kind.name, "bytes": choice.nbytes, "damage": choice.damage}
        if not choice.keep:
            outcomes = [workspace.outcome(name) for name in choice.members]
            entry |= {
                "compensated": all(outcome.compensated for outcome in outcomes),
                "loss": sum(outcome.loss for outcome in outcomes),
                "rounding_loss": sum(outcome.rounding_loss for outcome in outcomes),
            }
        tensors.append(entry | {"kept": choice.keep})
    names = [source.name for source in sources] or ["written by the model itself"]
    parameters = {"fit": options.fit, "tokens": options.tokens, "seed": options.seed, "calibration": names}
    return {"step": "quantize", "parameters": parameters, "tensors": tensors}


def _measure(
    model: str, result: CutResult, options: CutOptions, sources: Sequence[TextSource],
    windows: Int[Tensor, "windows position"], step: dict[str, Any],
) -> dict[str, Any]:  # fmt: skip
    """The report card of the written file. A given text is measured on where it was not calibrated on."""
    assert result.path is not None
    return measure(
        model, result.path, options.texts, seed=options.seed, threads=options.threads, calibrated_on=windows,
        output=result.path.parent / "card.json", steps=[step], cut_name=result.path.parent.resolve().name,
        cost={"seconds": result.seconds, "peak_ram_bytes": peak_memory()},
    )  # fmt: skip


def read_recipe(path: Path) -> CutOptions:
    """The options that a `recipe.toml` repeats. Raises BadFile for anything that is not one."""
    try:
        recipe = tomllib.loads(path.read_text(encoding="utf-8"))
        (step,) = recipe["steps"]
        texts = tuple(str(text["file"]) for text in step["texts"])
        numbers = int(step["tokens"]), int(step["seed"]), int(recipe["threads"])
        kinds = tuple(str(name) for name in step["types"])
        options = CutOptions(int(step["fit"]), texts, *numbers, kinds, original=str(recipe["sha256"]))
        hashes = [str(text["sha256"]) for text in step["texts"]]
    except OSError as error:
        raise BadFile(f"The recipe {path} cannot be read: {error.strerror}. Give the recipe.toml of a cut.") from error
    except (ValueError, KeyError, TypeError) as error:
        reason = f"no {error} in it" if isinstance(error, KeyError) else str(error)
        raise BadFile(f"{path} is not a recipe ({reason}). Give the recipe.toml of a cut.") from error
    for text, wanted in zip(texts, hashes, strict=True):
        if read_texts([text])[0].sha256 != wanted:
            raise BadFile(f"The text {text} is not the one that {path} was made with. Restore it, or cut with --fit.")
    return options
