"""The cut: from a model and what is asked of it to a smaller file, its report card, and the recipe that made both.

The stages meet only here and in `steps`. Weights in → calibration text → pruning, step by step → survey (what would
each type cost?) → plan → quantize block by block → write → measure what was written. Everything up to the written file
is kept in `DIR/work` as it is finished, and `--resume` goes on from there.
"""

import os
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

from smidgen.alone import alone_in
from smidgen.cutting.budget import limits_of, only_bits, promises
from smidgen.cutting.learning import calibration_texts, learned_from, tokens_used
from smidgen.cutting.limits import Limits
from smidgen.cutting.plan import refuse_impossible
from smidgen.cutting.portable import refuse_unportable
from smidgen.cutting.quantize import Quantization, plan_types
from smidgen.cutting.recipe import CutOptions
from smidgen.cutting.rehearsal import settle_plan
from smidgen.cutting.result import CutResult
from smidgen.cutting.steps import Material, prune
from smidgen.cutting.tying import cost_of_tying, with_one_matrix
from smidgen.data.languages import languages_named, languages_of
from smidgen.data.sources import read_texts
from smidgen.distillation.heal import disk_needed, heal
from smidgen.distillation.loop.plan import Room
from smidgen.engines.machine import peak_memory
from smidgen.errors import BadFile, SmidgenError, printable
from smidgen.formats.checkpoint import Checkpoint
from smidgen.formats.derived import write_derived
from smidgen.formats.effort import Effort
from smidgen.formats.history import history
from smidgen.formats.hub.catalogue import ModelName
from smidgen.formats.opening import open_checkpoint, open_model
from smidgen.measuring.facts import Making
from smidgen.measuring.measure import measure
from smidgen.measuring.options import JustCut
from smidgen.memory import give_back_unused
from smidgen.model.features import refuse_features
from smidgen.model.kept import AS_USUAL, keeping_of, refuse_kv
from smidgen.model.tokenizer import Tokenizer
from smidgen.owned import settle
from smidgen.progress import say
from smidgen.publishing.companions import WORK, claim_output, refuse_output, remove_outdated, write_companions
from smidgen.publishing.first_words import can_chat
from smidgen.quantization.workspace import QuantWorkspace
from smidgen.shell import path_of
from smidgen.stopping import resumable

#: Steps that only know the plain decoder, as people ask for them.
_NOT_FOR_ALL = {"experts": "--experts", "depth": "--layers", "width": "pruning of widths"}
#: Languages whose cost is reported when the vocabulary is trimmed, asked for or not.
_REPORTED = ("en", "de", "fr", "es", "ru", "ar", "hi", "zh", "ja", "code")


def cut(
    model: ModelName, output: str | os.PathLike[str], options: CutOptions | None = None, *, resume: bool = False,
    dry_run: bool = False, measured: bool = True, **given: Any,
) -> CutResult:  # fmt: skip
    """Cut `model` as `options` say and write `output/model.gguf` with its companions.

    model: a name, a path or a loaded `Model`.  resume: go on where the same cut was interrupted.
    given: options by their names (`fit="165MB"`, `languages=["en"]`), instead of `options` or to change some of them.
    dry_run: stop after the plan.  measured: compare original and result, and write the report card.

    Raises BudgetError before any work where the size is impossible; SmidgenError or BadFile for bad input, an
    unwritable or full disk, and for `resume` with other settings than the interrupted cut had.
    """
    started = time.monotonic()
    output = path_of(output)
    options = CutOptions.of(**given) if options is None else options.changed(**given)
    _refuse_idle_kv(options, measured)
    if options.threads is not None:
        torch.set_num_threads(options.threads)
    with open_model(model) as checkpoint, ExitStack() as stack:
        refuse_output(output, checkpoint.origin)
        refuse_kv(options.kv, keeping_of(checkpoint.config))
        _refuse_other_original(checkpoint, options)
        _refuse_unprunable(checkpoint, options)
        begun = with_one_matrix(checkpoint, options)
        if options.portable:
            refuse_unportable(begun)
        if only_bits(options) and options.fit is not None:
            refuse_impossible(begun, options.fit, options.kinds)
        sources = read_texts(options.texts)
        scratch = Path(stack.enter_context(TemporaryDirectory(prefix="smidgen-"))) if dry_run else None
        if scratch is None:
            stack.enter_context(resumable(QuantWorkspace(output / WORK).holds_work))
            stack.enter_context(alone_in(output))
        fingerprint = options.fingerprint(checkpoint.sha256(), sources)
        workspace = QuantWorkspace.open((scratch or output) / WORK, fingerprint, resume=resume)
        if scratch is None:
            _room(checkpoint, options).refuse_full(workspace.folder)
        effort = stack.enter_context(Effort(workspace, peak_memory, started))
        limits = _remembered_limits(checkpoint, begun, options, workspace)
        tokenizer = Tokenizer.from_gguf(checkpoint.tokenizer_metadata)
        texts = calibration_texts(checkpoint, tokenizer, sources, options)
        material = Material(options, texts, checkpoint, begun, tokenizer, limits, workspace)
        pruned = prune(material, stack)
        result, planned, limits = _plan(pruned, material, workspace)
        material = replace(material, limits=limits)
        result.calibration = tokens_used(material)
        result.notes.append(learned_from(material))
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
            result.card = _measure(checkpoint.origin, result, material, cost)
            result.notes += promises(options, result.card)
        used = {used.text: used.tokens for used in material.used}
        told = checkpoint.origin, checkpoint.sha256(), sources, material.limits, pruned.config.vocabulary, used
        recipe = options.as_recipe(*told)
        write_companions(output, checkpoint, recipe, result.steps, result.card)
        settle(output)
        effort.close()
        workspace.finish()
        return result


def _room(checkpoint: Checkpoint, options: CutOptions) -> Room:
    """What the cut takes of the disk at least: the result, its parts before it, and the checkpoints of healing."""
    size = checkpoint.file.size if options.fit is None else min(options.fit, checkpoint.file.size)
    heals = "heal" in options.chain and only_bits(options)  # what is pruned before is smaller
    return Room(disk_needed(checkpoint) if heals else 0, size * (3 if heals else 2))


def _refuse_idle_kv(options: CutOptions, measured: bool) -> None:
    if options.kv != AS_USUAL and not measured and not options.promised:
        raise SmidgenError(
            f"--kv {options.kv} is for the report card, for --speed and for --ram; with --no-measure and none of these "
            "it would do nothing. Leave it out."
        )


def _refuse_other_original(checkpoint: Checkpoint, options: CutOptions) -> None:
    if options.original is not None and options.original != checkpoint.sha256():
        raise BadFile(
            f"{printable(checkpoint.path)} is not the model that the recipe was made with: its sha256 begins with "
            f"{checkpoint.sha256()[:12]}, the recipe's with {options.original[:12]}. Give that one, or cut with --fit."
        )


def _refuse_unprunable(checkpoint: Checkpoint, options: CutOptions) -> None:
    for step, option in _NOT_FOR_ALL.items():
        if step in options.chain:
            refuse_features(checkpoint.config, option, "cut it by its vocabulary and by types alone")


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
    if not material.options.promised:
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
    types = {"types": list(material.options.types)} if material.options.portable else {}
    parameters = {
        **_asked(material), **types, "tokens": material.options.tokens, "seed": material.options.seed,
        "calibration": [text.source.name for text in material.texts],
    }  # fmt: skip
    encoded = sum(not choice.keep for choice in planned.choices)
    summary = f"Quantization: {encoded} of {len(planned.choices)} matrices encoded anew, with error compensation."
    if planned.portable:
        summary += " All of them are portable: Q4_0, Q8_0 and 16 bits, with scales that every export format holds."
    summary = " ".join(filter(None, [summary, planned.only_rounded(), *planned.misfits]))
    return {"step": "quantize", "parameters": parameters, "summary": summary, "tensors": planned.outcomes()}


def _asked(material: Material) -> dict[str, Any]:
    """What the file had to keep to: the bytes that were planned with, and what else was asked."""
    assert material.limits is not None
    options, pace = material.options, material.limits.pace
    asked: dict[str, Any] = {"fit": material.limits.nbytes}
    asked |= {name: value for name, value in (("speed", options.speed), ("ram", options.ram)) if value is not None}
    asked |= {"kv": options.kv} if options.promised else {}
    return asked if pace is None else asked | {"seconds_per_byte": dict(pace.rates)}


def _measure(model: ModelName, result: CutResult, material: Material, cost: Mapping[str, Any]) -> dict[str, Any]:
    """The report card of the written file. A given text is measured on where it was not calibrated on."""
    assert result.path is not None
    options = material.options
    asked, others = _languages(material) if "vocabulary" in options.chain else ([], [])
    making = Making(result.steps, result.calibration, cost=cost)
    seen = torch.cat([text.seen for text in material.texts])
    made = JustCut(making, seen, result.path.parent.resolve().name)
    return measure(
        model, result.path, options.texts, seed=options.seed, threads=options.threads,
        languages=asked, other_languages=others, kv=options.kv, output=result.path.parent / "card.json", made=made,
    )  # fmt: skip


def _languages(material: Material) -> tuple[list[str], list[str]]:
    """Languages to report on beside the given texts: asked for, and not."""
    sources = read_texts(material.options.texts)
    named = {language.code for source in sources for language in languages_named(source.language)}
    asked = [language.code for language in languages_of(material.options.languages)]
    return [code for code in asked if code not in named], [code for code in _REPORTED if code not in (*asked, *named)]
