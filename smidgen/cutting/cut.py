"""The cut: from a model and what is asked of it to a smaller file, its report card, and the recipe that made both.

The stages meet only here and in `steps`. Weights in → calibration text → pruning, step by step → survey (what would
each type cost?) → plan → quantize block by block → write → measure what was written. Everything up to the written file
is kept in `DIR/work` as it is finished, and `--resume` goes on from there.
"""

import json
import os
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

from smidgen.cutting.budget import limits_of, only_bits, promises
from smidgen.cutting.limits import Limits
from smidgen.cutting.plan import Choice, refuse_impossible
from smidgen.cutting.quantize import Quantization, plan_types
from smidgen.cutting.recipe import CutOptions
from smidgen.cutting.rehearsal import settle_plan
from smidgen.cutting.steps import Material, prune
from smidgen.cutting.tying import cost_of_tying, with_one_matrix
from smidgen.data.held_out import CalibrationText
from smidgen.data.languages import languages_named, languages_of
from smidgen.data.self_written import self_written, self_written_in
from smidgen.data.sources import TextSource, read_texts
from smidgen.data.text import window_length
from smidgen.distillation.heal import heal
from smidgen.engines.author import Author
from smidgen.engines.machine import peak_memory
from smidgen.engines.torch import TorchEngine
from smidgen.errors import BadFile, SmidgenError, printable
from smidgen.formats.checkpoint import Checkpoint
from smidgen.formats.derived import write_derived
from smidgen.formats.effort import Effort
from smidgen.formats.history import history
from smidgen.formats.hub.catalogue import ModelName, cache_folder
from smidgen.formats.opening import open_checkpoint, open_model
from smidgen.measuring.measure import measure
from smidgen.memory import give_back_unused
from smidgen.model.kept import AS_USUAL, KVType, keeping_of, refuse_kv
from smidgen.model.tokenizer import Tokenizer
from smidgen.owned import settle
from smidgen.progress import say
from smidgen.publishing.companions import WORK, claim_output, refuse_output, remove_outdated, write_companions
from smidgen.publishing.first_words import can_chat, try_it
from smidgen.quantization.workspace import QuantWorkspace
from smidgen.shell import path_of

#: Languages whose cost is reported when the vocabulary is trimmed, asked for or not.
_REPORTED = ("en", "de", "fr", "es", "ru", "ar", "hi", "zh", "ja", "code")


@dataclass
class CutResult:
    """Where things are, and the plan that was carried out.

    path: None after a dry run.  choices: of the types, empty without quantization.  seconds: of all processes that the
    cut took.  plan: for people.  steps: what was done, as the card says it.  card: what `card.json` holds, None where
    nothing was measured.  calibration: of each text, how many tokens were used, as the card says it.
    chats: whether the file has a chat template, known once it is written.
    expected_kl: in nats per token, of the types and of tying the head; None without quantization.
    """

    path: Path | None
    choices: list[Choice]
    size: int
    seconds: float
    plan: str
    steps: list[dict[str, Any]] = field(default_factory=list)
    card: dict[str, Any] | None = None
    calibration: list[dict[str, Any]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    chats: bool = False
    expected_kl: float | None = None

    def to_json(self) -> str:
        """Everything as one JSON object."""
        return json.dumps(
            {
                "path": None if self.path is None else str(self.path), "bytes": self.size, "seconds": self.seconds,
                "expected_kl": self.expected_kl,
                "tensors": [
                    {"name": c.name, "kind": c.kind.name, "kept": c.keep, "bytes": c.nbytes, "expected_kl": c.damage}
                    for c in self.choices
                ],
                "plan": self.plan, "steps": self.steps, "calibration": self.calibration, "notes": self.notes,
                "card": self.card,
            }
        )  # fmt: skip

    def describe(self) -> str:
        """What a person wants to know at the end, in a few lines."""
        if self.path is None:
            return "\n".join([self.plan, *self.notes, "Nothing was written (--dry-run)."])
        lines = [f"{self.path}: {self.size} bytes, in {self.seconds:.0f} s", *self.notes]
        if self.card is not None:
            lines += [self.card["verdict"]["sentence"], *self.card["notes"]]
            lines.append(f"Report card: {self.path.parent / 'card.html'}")
        return "\n".join([*lines, try_it(self.path.parent, self.chats)])


def cut(
    model: ModelName, output: str | os.PathLike[str], options: CutOptions | None = None, *, resume: bool = False,
    dry_run: bool = False, measured: bool = True, kv: KVType = AS_USUAL, **given: Any,
) -> CutResult:  # fmt: skip
    """Cut `model` as `options` say and write `output/model.gguf` with its companions.

    model: a name, a path or a loaded `Model`.  resume: go on where the same cut was interrupted.
    given: options by their names (`fit="165MB"`, `languages=["en"]`), instead of `options` or to change some of them.
    dry_run: stop after the plan.  measured: compare original and result, and write the report card.
    kv: how the result keeps keys and values while it is measured, q8_0 or q4_0 as llama.cpp rounds them; the file is
    the same.

    Raises BudgetError before any work where the size is impossible; SmidgenError or BadFile for bad input, an
    unwritable or full disk, and for `resume` with other settings than the interrupted cut had.
    """
    started = time.monotonic()
    output = path_of(output)
    options = CutOptions.of(**given) if options is None else options.changed(**given)
    if options.threads is not None:
        torch.set_num_threads(options.threads)
    with open_model(model) as checkpoint, ExitStack() as stack:
        refuse_output(output, checkpoint.origin)
        refuse_kv(kv, keeping_of(checkpoint.config))
        _refuse_other_original(checkpoint, options)
        begun = with_one_matrix(checkpoint, options)
        if only_bits(options) and options.fit is not None:
            refuse_impossible(begun, options.fit, options.kinds)
        sources = read_texts(options.texts)
        scratch = Path(stack.enter_context(TemporaryDirectory(prefix="smidgen-"))) if dry_run else None
        fingerprint = options.fingerprint(checkpoint.sha256(), sources)
        workspace = QuantWorkspace.open((scratch or output) / WORK, fingerprint, resume=resume)
        effort = stack.enter_context(Effort(workspace, peak_memory, started))
        limits = _remembered_limits(checkpoint, begun, options, workspace)
        tokenizer = Tokenizer.from_gguf(checkpoint.tokenizer_metadata)
        texts = _calibration_texts(checkpoint, tokenizer, sources, options)
        material = Material(options, texts, checkpoint, begun, tokenizer, limits, workspace)
        pruned = prune(material, stack)
        result, planned, limits = _plan(pruned, material, workspace)
        material = replace(material, limits=limits)
        result.calibration = _calibration(material)
        result.notes.append(_learned_from(material))
        if dry_run:
            result.seconds = effort.seconds
            return result
        output.mkdir(parents=True, exist_ok=True)
        claim_output(output, checkpoint.origin)
        result.path = output / "model.gguf"
        if planned is None:
            os.replace(pruned.path, result.path)
        else:
            say(result.plan)
            _write(planned, pruned, material, result)
            result.notes += filter(None, [planned.only_rounded()])
        remove_outdated(output)
        result.chats = can_chat(result.path)
        result.seconds = effort.seconds
        planned = None  # nor is what it holds of the survey needed while other programs run beside this one
        for one in (checkpoint, pruned):
            one.release()
        give_back_unused()
        if measured:
            cost = {"seconds": result.seconds, "peak_ram_bytes": effort.peak_ram_bytes}
            result.card = _measure(checkpoint.origin, result, material, cost, kv)
            result.notes += promises(options, result.card)
        used = {used.text: used.tokens for used in material.used}
        told = checkpoint.origin, checkpoint.sha256(), sources, material.limits, pruned.config.vocabulary, used
        recipe = options.as_recipe(*told)
        write_companions(output, checkpoint, recipe, result.steps, result.card)
        settle(output)
        effort.close()
        workspace.finish()
        return result


def _refuse_other_original(checkpoint: Checkpoint, options: CutOptions) -> None:
    if options.original is not None and options.original != checkpoint.sha256():
        raise BadFile(
            f"{printable(checkpoint.path)} is not the model that the recipe was made with: its sha256 begins with "
            f"{checkpoint.sha256()[:12]}, the recipe's with {options.original[:12]}. Give that one, or cut with --fit."
        )


def _remembered_limits(
    checkpoint: Checkpoint, begun: Checkpoint, options: CutOptions, workspace: QuantWorkspace
) -> Limits | None:
    """Limits of the file; measured once, since speeds are never twice the same."""
    if "quantize" not in options.chain:
        return None
    known = workspace.load_json("limits")
    if known is not None:
        return Limits.of(known)
    try:
        limits = limits_of(checkpoint, begun, options, workspace.folder)
    except SmidgenError:
        workspace.finish()  # nothing has begun
        raise
    workspace.save_json("limits", limits.as_json())
    return limits


def _calibration_texts(
    checkpoint: Checkpoint, tokenizer: Tokenizer, sources: Sequence[TextSource], options: CutOptions
) -> list[CalibrationText]:
    """What the cut learns from: the given texts but for what is kept aside, and what the model writes itself.

    A language counts as given where a text has its name, or where it is the only one and a text has no name.
    """
    length = window_length(checkpoint.config.context_length)
    texts = [CalibrationText.of(source, tokenizer, length) for source in sources]
    given = {language.code for source in sources for language in languages_named(source.language)}
    if len(options.languages) == 1 and any(source.language is None for source in sources):
        given |= {language.code for language in languages_of(options.languages)}
    missing = [language for language in languages_of(options.languages) if language.code not in given]
    if texts and not missing:
        return texts
    folder, hashed, wanted = cache_folder() / "self-written", checkpoint.sha256(), options.tokens_to_write
    with Author(TorchEngine(checkpoint), options.threads) as author:
        if missing:
            tokens = -(-wanted // (len(texts) + len(missing)))
            written = self_written_in(author, tokenizer, hashed, missing, tokens, options.seed, "calibration", folder)
        else:
            written = [self_written(author, tokenizer, hashed, wanted, options.seed, "calibration", folder)]
    return texts + [CalibrationText.of(source, tokenizer, length, whole=True) for source in written]


def _calibration(material: Material) -> list[dict[str, Any]]:
    """For the card: how many tokens of each text were used, how many there are, and whether these are too few."""
    return [
        {
            "text": used.text, "self_written": text.source.self_written, "tokens": used.tokens,
            "available": used.available, "too_short": used.too_short,
        }
        for used, text in zip(material.used, material.texts, strict=True)
    ]  # fmt: skip


def _learned_from(material: Material) -> str:
    """The same in a line."""
    used = material.used
    parts = [
        f"{one.tokens:,} tokens of {printable(one.text)}"
        + (f" (too short for its share of {one.share:,})" if one.too_short else "")
        for one in used
    ]
    rest = len(used) > 1 and any(one.too_short for one in used)
    if not material.is_calibrated:
        return f"The vocabulary was chosen by all text that is not kept for measuring: {', '.join(parts)}."
    return f"Calibrated on {', '.join(parts)}.{' The other texts gave the rest.' if rest else ''}"


def _plan(
    checkpoint: Checkpoint, material: Material, workspace: QuantWorkspace
) -> tuple[CutResult, Quantization | None, Limits | None]:
    """What is left to do with a model that is pruned already, and the limits that were kept to."""
    before = len(history(material.original.file.metadata))
    steps = history(checkpoint.file.metadata)[before:]
    tying = _told_cost_of_tying(material, steps[0]) if material.begun is not material.original else 0.0
    summaries = [str(step["summary"]) for step in steps]
    if material.limits is None:
        size = checkpoint.file.size
        return CutResult(None, [], size, 0.0, "\n".join([*summaries, f"File: {size} bytes."]), steps), None, None
    options, windows = material.options, material.windows(checkpoint)

    def plan(limits: Limits) -> Quantization:
        room = material.before_healing(limits)
        return plan_types(checkpoint, windows, room, options.kinds, options.seed, workspace)

    planned, limits, tried = _settled(plan, material, workspace)
    expected = tying + sum(choice.damage for choice in planned.choices)
    budget = None if options.fit is None and options.ram is None else limits.nbytes
    described = "\n".join([*summaries, planned.describe(budget, expected), *tried])
    return CutResult(None, planned.choices, planned.size, 0.0, described, steps, expected_kl=expected), planned, limits


def _settled(
    plan: Callable[[Limits], Quantization], material: Material, workspace: QuantWorkspace
) -> tuple[Quantization, Limits, list[str]]:
    """The plan to carry out, its limits, and what it did when it was tried, where a speed or a memory is asked for."""
    assert material.limits is not None
    if material.options.speed is None and material.options.ram is None:
        return plan(material.limits), material.limits, []
    known = workspace.load_json("settled")
    if known is not None:
        limits = Limits.of(known["limits"])
        return plan(limits), limits, known["tried"]
    planned, limits, found = settle_plan(plan, material.limits, material.options, workspace.folder)
    tried = [f"Tried beforehand, with weights of no meaning, such a file {found.describe()}."]
    tried += [found.sentence] if found.sentence else []
    workspace.save_json("settled", {"limits": limits.as_json(), "tried": tried})
    return planned, limits, tried


def _told_cost_of_tying(material: Material, step: dict[str, Any]) -> float:
    """Adds what it costs to the step that says that the head is tied; measured once."""
    cost = material.workspace.load_json("tying")
    if cost is None:
        cost = cost_of_tying(material.original, material.begun, material.texts, material.tokenizer)
        material.workspace.save_json("tying", cost)
    step |= {"kl": cost, "summary": f"{step['summary']} That costs {cost:.4f} nats per token."}
    return float(cost)


def _write(planned: Quantization, pruned: Checkpoint, material: Material, result: CutResult) -> None:
    """Quantize, and heal what was quantized if that is asked for."""
    assert result.path is not None
    if "heal" not in material.options.chain:
        planned.write(result.path)
        result.steps.append(_step(planned, material))
        return
    workspace = material.workspace
    quantized = workspace.folder / "quantized.gguf"
    if not quantized.exists():
        planned.write(quantized)
    result.steps.append(_step(planned, material))
    with open_checkpoint(quantized) as checkpoint:
        budget = material.heal_budget()
        healed = heal(
            material.original, checkpoint, material.sources, budget, workspace.step("heal"), material.options.seed
        )
        write_derived(checkpoint, healed.derived, result.path, {"step": "heal"})
        done = {"step": "heal", "parameters": {"budget": str(budget)}, "summary": healed.describe()}
        result.steps.append({**done, **healed.report()})
        result.size = result.path.stat().st_size
        result.notes.append(healed.describe())


def _step(planned: Quantization, material: Material) -> dict[str, Any]:
    """What the card says about the quantization: settings, and what became of each matrix."""
    parameters = {
        **_asked(material), "tokens": material.options.tokens, "seed": material.options.seed,
        "calibration": [text.source.name for text in material.texts],
    }  # fmt: skip
    encoded = sum(not choice.keep for choice in planned.choices)
    summary = f"Quantization: {encoded} of {len(planned.choices)} matrices encoded anew, with error compensation."
    summary = " ".join(filter(None, [summary, planned.only_rounded(), *planned.misfits]))
    return {"step": "quantize", "parameters": parameters, "summary": summary, "tensors": planned.outcomes()}


def _asked(material: Material) -> dict[str, Any]:
    """What the file had to keep to: the bytes that were planned with, and what else was asked."""
    assert material.limits is not None
    options, pace = material.options, material.limits.pace
    asked: dict[str, Any] = {"fit": material.limits.nbytes}
    asked |= {name: value for name, value in (("speed", options.speed), ("ram", options.ram)) if value is not None}
    return asked if pace is None else asked | {"seconds_per_byte": dict(pace.rates)}


def _measure(
    model: ModelName, result: CutResult, material: Material, cost: Mapping[str, Any], kv: KVType
) -> dict[str, Any]:  # fmt: skip
    """The report card of the written file. A given text is measured on where it was not calibrated on."""
    assert result.path is not None
    options = material.options
    asked, others = _languages(material) if "vocabulary" in options.chain else ([], [])
    return measure(
        model, result.path, options.texts, seed=options.seed, threads=options.threads,
        calibrated_on=torch.cat([text.seen for text in material.texts]),
        languages=asked, other_languages=others, output=result.path.parent / "card.json", steps=result.steps,
        cut_name=result.path.parent.resolve().name, cost=cost, calibration=result.calibration,
        kv=kv,
    )  # fmt: skip


def _languages(material: Material) -> tuple[list[str], list[str]]:
    """Languages to report on beside the given texts: asked for, and not."""
    sources = read_texts(material.options.texts)
    named = {language.code for source in sources for language in languages_named(source.language)}
    asked = [language.code for language in languages_of(material.options.languages)]
    return [code for code in asked if code not in named], [code for code in _REPORTED if code not in (*asked, *named)]
