"""The cut: from a model and a byte budget to a smaller file, its report card, and the recipe that made both.

The stages meet only here. Weights in → calibration text → survey (what would each type cost?) → plan → quantize block by
block → write → measure what was written. Everything up to the written file is kept in `DIR/work` as it is
finished; `--resume` goes on from there.
"""

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from smidgen import __version__
from smidgen.data.self_written import self_written
from smidgen.data.text import TextSource, Windows, cut_into_windows, read_texts, spread
from smidgen.engines.torch import TorchEngine
from smidgen.errors import SmidgenError
from smidgen.formats.catalogue import cache_folder, locate
from smidgen.formats.checkpoint import Checkpoint
from smidgen.formats.gguf_writer import write_gguf
from smidgen.model.tokenizer import Tokenizer
from smidgen.numerics.block_types import BlockType
from smidgen.plan import Choice, choose, layout, refuse_impossible
from smidgen.progress import say
from smidgen.quant.blockwise import quantize
from smidgen.quant.survey import Survey, survey
from smidgen.quant.workspace import Workspace
from smidgen.shapes import Int
from smidgen.sizes import format_size

#: Tokens of the calibration text on which the survey looks at gradients; the cut itself uses all of them.
SURVEY_TOKENS = 4096


@dataclass(frozen=True)
class CutOptions:
    """What a cut depends on: the same options, model and versions give the same file, bit for bit.

    fit: largest size of the file in bytes.  texts: calibration files; empty for text that the model writes itself.
    tokens: of calibration.  seed: of every random choice.  threads: of torch (sums depend on it in the last bit).
    """

    fit: int
    texts: tuple[str, ...] = ()
    tokens: int = 16_384
    seed: int = 0
    threads: int | None = None


@dataclass
class CutResult:
    """Where things are, and the plan that was carried out.  path: None after a dry run."""

    path: Path | None
    choices: list[Choice]
    size: int
    seconds: float
    steps: list[dict[str, Any]] = field(default_factory=list)


def cut(model: str, output: Path, options: CutOptions, *, resume: bool = False, dry_run: bool = False) -> CutResult:
    """Cut `model` to `options.fit` bytes and write `output/model.gguf`.

    Raises BudgetError before any work where the size is impossible, SmidgenError or BadFile for bad input, an unwritable
    or full disk, and for `resume` with other settings than the interrupted cut had.
    """
    started = time.monotonic()
    if options.threads is not None:
        torch.set_num_threads(options.threads)
    with Checkpoint.open(locate(model)) as checkpoint:
        refuse_impossible(checkpoint, options.fit)
        sources = read_texts(options.texts)
        _prepare_folder(output)
        workspace = _open_workspace(output / "work", checkpoint, sources, options, resume)
        windows = _calibration_windows(checkpoint, sources, options)
        surveyed = _survey(checkpoint, windows, options, workspace)
        choices = choose(checkpoint, surveyed.damage, options.fit)
        kinds = {choice.name: choice.kind for choice in choices}
        size = layout(checkpoint, kinds).size
        say(describe_plan(choices, size, options.fit))
        if dry_run:
            workspace.finish()
            return CutResult(None, choices, size, time.monotonic() - started)
        encoded = {choice.name: choice.kind for choice in choices if not choice.keep}
        quantize(checkpoint, encoded, surveyed.ends, windows, workspace)
        path = output / "model.gguf"
        _write(checkpoint, kinds, encoded, workspace, path)
        steps = [_quantize_step(choices, workspace, options, sources)]
        return CutResult(path, choices, path.stat().st_size, time.monotonic() - started, steps)


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


def _prepare_folder(output: Path) -> None:
    try:
        output.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise SmidgenError(f"{output} cannot be made: {error.strerror}. Choose another folder with -o.") from error


def _open_workspace(
    folder: Path, checkpoint: Checkpoint, sources: Sequence[TextSource], options: CutOptions, resume: bool
) -> Workspace:
    fingerprint = {
        "model": checkpoint.sha256(), "fit": options.fit, "texts": [source.sha256 for source in sources],
        "tokens": options.tokens, "seed": options.seed, "threads": torch.get_num_threads(),
        "smidgen": __version__, "torch": torch.__version__,
    }  # fmt: skip
    return Workspace.resume(folder, fingerprint) if resume else Workspace.start(folder, fingerprint)


def _calibration_windows(
    checkpoint: Checkpoint, sources: Sequence[TextSource], options: CutOptions
) -> Int[Tensor, "windows position"]:
    """Full windows of about `options.tokens` tokens, each text giving an equal share."""
    tokenizer = Tokenizer.from_gguf(checkpoint.file.metadata)
    if not sources:
        folder = cache_folder() / "self-written"
        sources = [self_written(TorchEngine(checkpoint), tokenizer, checkpoint.sha256(), options.tokens, options.seed, "calibration", folder)]
    share = -(-options.tokens // len(sources))
    parts = [spread(cut_into_windows(source.text, tokenizer), share, options.seed).full() for source in sources]
    windows = torch.cat(parts)
    if not len(windows):
        raise SmidgenError("The calibration text is shorter than one window of 512 tokens. Give more text, or leave out --text.")
    return windows


def _survey(
    checkpoint: Checkpoint, windows: Int[Tensor, "windows position"], options: CutOptions, workspace: Workspace
) -> Survey:
    """The survey, from the workspace where it is done already."""
    damage = workspace.load_json("survey")
    if damage is not None:
        return Survey(damage, workspace.load_tensors("ends"))
    stride = max(1, windows.numel() // SURVEY_TOKENS)
    surveyed = survey(checkpoint, windows[::stride], options.seed)
    workspace.save_tensors("ends", surveyed.ends)
    workspace.save_json("survey", surveyed.damage)
    return surveyed


def _write(
    checkpoint: Checkpoint, kinds: dict[str, BlockType], encoded: dict[str, BlockType], workspace: Workspace, path: Path
) -> None:
    """The file: encoded matrices from the workspace, everything else as in the original."""
    canonical = {checkpoint.gguf_name(name): name for name in encoded}

    def packed(file_name: str) -> np.ndarray:
        if file_name not in canonical:
            return checkpoint.file.packed(file_name)
        name = canonical[file_name]
        return checkpoint.transform(name).to_file(workspace.packed(name)[1].numpy())

    plan = layout(checkpoint, kinds)
    write_gguf(path, plan.metadata, plan.metadata_types, plan.tensors, packed)
