"""The pruning steps of a cut, in a chain: each takes a model, says what it leaves out, and writes a smaller one.

A step's model is a GGUF file in the work folder, opened like any other by the next step; its history says what was
done. An interrupted cut goes on after the last file that is there. Quantization, the last step, is in `cutting`.
"""

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from typing import Any

from torch import Tensor

from smidgen.calibration.walk import StateShelf
from smidgen.cutting.limits import Limits
from smidgen.cutting.plan import VocabularyChoice, compare_vocabularies
from smidgen.cutting.quantize import PLANNED_DAMAGE
from smidgen.cutting.reach import to_survey
from smidgen.cutting.recipe import CutOptions
from smidgen.data.drawing import Used, draw
from smidgen.data.held_out import CalibrationText
from smidgen.data.languages import languages_of
from smidgen.data.sources import TextSource
from smidgen.data.text import window_length
from smidgen.distillation.heal import HealBudget, heal
from smidgen.formats.checkpoint import Checkpoint
from smidgen.formats.derived import Derived, write_derived
from smidgen.formats.opening import open_checkpoint
from smidgen.formats.workspace import Workspace
from smidgen.model.tokenizer import Tokenizer
from smidgen.progress import say
from smidgen.pruning import depth, experts, sparsity, vocabulary, width
from smidgen.pruning.masks import Pattern
from smidgen.quantization.survey import survey
from smidgen.shapes import Int

#: Bytes by which the entry of a healing in its history makes a file longer, at most: some 75, and what aligns them.
_HISTORY_OF_HEALING = 96
_USED = "used"  # part of the workspace with the tokens that the last calibration held


@dataclass(frozen=True)
class Material:
    """What all steps work with.

    texts: to calibrate on.  original: the model as it is stored.  begun: the same as the first step takes it, its head
    tied where it is the embedding (`cutting.tying`).  tokenizer: the original's.  limits: of the file; None without
    quantization.  workspace: of the whole cut.
    """

    options: CutOptions
    texts: Sequence[CalibrationText]
    original: Checkpoint
    begun: Checkpoint
    tokenizer: Tokenizer
    limits: Limits | None
    workspace: Workspace

    def windows(self, checkpoint: Checkpoint) -> Int[Tensor, "windows position"]:
        """The calibration text in a model's own tokens, in windows of one length."""
        tokenizer, runs = self.tokenizer, [text.runs for text in self.texts]
        if checkpoint.config.vocabulary != self.original.config.vocabulary:
            tokenizer = Tokenizer.from_gguf(checkpoint.tokenizer_metadata)
            runs = [text.runs_of(tokenizer) for text in self.texts]
        length = window_length(checkpoint.config.context_length)
        drawn = draw(runs, self.options.tokens, length, tokenizer, self.options.seed)
        self.workspace.save_json(_USED, [asdict(used) for used in drawn.used])
        return drawn.windows

    @property
    def used(self) -> list[Used]:
        """Of each text, the tokens that the model was last calibrated on; all, where only the vocabulary is trimmed."""
        found = self.workspace.load_json(_USED)
        if found is not None:
            return [Used(**one) for one in found]
        return [Used(text.source.name, text.runs.tokens, text.runs.tokens, 0) for text in self.texts]

    @property
    def is_calibrated(self) -> bool:
        """Whether a step was calibrated. Choosing a vocabulary is none: it counts all of the text, in no windows."""
        return self.workspace.load_json(_USED) is not None

    @property
    def room(self) -> Limits | None:
        """Of the file before it is healed, which makes its history longer; None: no quantization."""
        return None if self.limits is None else self.before_healing(self.limits)

    def before_healing(self, limits: Limits) -> Limits:
        """Those of the file before it is healed, so that afterwards it keeps to `limits`."""
        return limits.smaller_by(_HISTORY_OF_HEALING) if "heal" in self.options.chain else limits

    @property
    def sources(self) -> list[TextSource]:
        """The calibration text as text: all of what may be learned from."""
        return [part for text in self.texts for part in text.parts()]

    def heal_budget(self) -> HealBudget:
        """Of one healing: what was asked for, or half of it where there are two."""
        assert self.options.heal is not None
        return HealBudget.parse(self.options.heal).part(0.5 if self.options.heals_before_quantization else 1.0)


@dataclass(frozen=True)
class Planned:
    """What a step is about to do.

    summary: for people, in a line.  report: for the card.  derive: gives the new model; the long part of the work.
    warning: what to expect, for whoever waits for the result.
    """

    summary: str
    report: dict[str, Any]
    derive: Callable[[], Derived]
    warning: str = ""


def prune(material: Material, stack: ExitStack) -> Checkpoint:
    """Take all pruning steps; the model after the last of them, open until `stack` is left."""
    checkpoint, workspace, options = material.begun, material.workspace, material.options
    chain = [step for step in options.chain if step in _STEPS and step != "heal"]
    if "heal" in options.chain and (options.heals_before_quantization or "quantize" not in options.chain):
        chain.append("heal")
    files = [workspace.folder / f"{place}-{step}.gguf" for place, step in enumerate(chain)]
    done = max((place for place, file in enumerate(files) if file.exists()), default=-1)
    if done >= 0:
        checkpoint = stack.enter_context(open_checkpoint(files[done]))
    for place in range(done + 1, len(chain)):
        folder = workspace.step(f"{place}-{chain[place]}")
        planned = _STEPS[chain[place]](material, checkpoint, folder)
        say(f"{planned.summary} {planned.warning}".rstrip())
        entry = {"step": chain[place], "parameters": planned.report, "summary": planned.summary}
        write_derived(checkpoint, planned.derive(), files[place], entry)
        folder.finish()
        checkpoint = stack.enter_context(open_checkpoint(files[place]))
        if place > 0:
            files[place - 1].unlink()
    return checkpoint


def _vocabulary(material: Material, checkpoint: Checkpoint, workspace: Workspace) -> Planned:
    options = material.options
    sources = [text.source for text in material.texts]
    ranking = vocabulary.rank(checkpoint, sources, languages_of(options.languages), options.seed)
    size = options.pruning.vocabulary
    if size is None and set(options.chain) - {"heal"} == {"vocabulary", "quantize"}:
        size = _best_with_bits(material, checkpoint, ranking)
    elif size is None:
        size = vocabulary.choose_size(ranking)
    plan = vocabulary.plan(ranking, size)
    outside, cost = ranking.outside_share(size), ranking.damage(size)
    summary = (
        f"Vocabulary: {size} of {checkpoint.config.vocabulary} tokens stay. On the calibration text the others are "
        f"{100 * outside:.2f}% of the tokens; spelling these with others costs about {cost:.4f} nats per token."
    )
    return Planned(summary, plan.report(), lambda: vocabulary.apply(checkpoint, plan))


def _best_with_bits(material: Material, checkpoint: Checkpoint, ranking: vocabulary.Ranking) -> int:
    """The vocabulary with which vocabulary and quantization together cost least within the budget."""
    assert material.room is not None
    damage = material.workspace.load_json(PLANNED_DAMAGE)
    if damage is None:
        shelf, windows = StateShelf(material.workspace.folder), material.windows(checkpoint)
        kinds = to_survey(checkpoint, material.options.kinds, material.room)
        damage = survey(checkpoint, windows, material.options.seed, shelf, kinds).damage
        material.workspace.save_json(PLANNED_DAMAGE, damage)
    choices = compare_vocabularies(checkpoint, ranking, damage, material.room, material.options.kinds)
    say(_comparison(choices))
    return choices[0].tokens


def _comparison(choices: Sequence[VocabularyChoice]) -> str:
    """The best vocabularies beside each other, in a line."""
    shown = ", ".join(
        f"{choice.tokens} tokens {choice.damage:.3f} ({choice.dropped:.3f} by dropping, {choice.quantized:.3f} by bits)"
        for choice in choices[:3]
    )
    return f"Expected cost in nats per token with the same bytes: {shown}."


def _experts(material: Material, checkpoint: Checkpoint, workspace: Workspace) -> Planned:
    pruning = material.options.pruning
    assert pruning.experts is not None
    plan = experts.plan(checkpoint, pruning.experts, material.windows(checkpoint))
    verb = "merged into the others" if pruning.merged else "dropped"
    summary = (
        f"Experts: {pruning.experts} of {checkpoint.config.layers[0].experts} in each layer stay; the rest is {verb}."
    )
    return Planned(summary, plan.report(), lambda: experts.apply(checkpoint, plan, merge=pruning.merged))


def _depth(material: Material, checkpoint: Checkpoint, workspace: Workspace) -> Planned:
    wanted = material.options.pruning.layers
    assert wanted is not None
    windows = material.windows(checkpoint)
    plan = depth.search(checkpoint, windows, wanted, workspace)
    removed = [layer for layer in range(len(checkpoint.config.layers)) if layer not in plan.kept]
    summary = f"Depth: {wanted} of {len(checkpoint.config.layers)} layers stay; {_listed(removed)} go."
    return Planned(
        summary, plan.report(), lambda: depth.apply(checkpoint, plan, windows, workspace), _unhealed(material)
    )


def _width(material: Material, checkpoint: Checkpoint, workspace: Workspace) -> Planned:
    pruning = material.options.pruning
    windows = material.windows(checkpoint)
    plan = width.plan(
        checkpoint, pruning.ffn, pruning.kv_heads, pruning.hidden, windows, workspace, heads=pruning.heads
    )
    wanted = {
        "feed-forward width": pruning.ffn, "query heads": pruning.heads, "key/value heads": pruning.kv_heads,
        "hidden width": pruning.hidden,
    }  # fmt: skip
    named = ", ".join(f"{name} {value}" for name, value in wanted.items() if value is not None)
    return Planned(
        f"Width: {named}.",
        plan.report(),
        lambda: width.apply(checkpoint, plan, windows, workspace),
        _unhealed(material),
    )


def _weights(material: Material, checkpoint: Checkpoint, workspace: Workspace) -> Planned:
    pruning = material.options.pruning
    assert pruning.sparsity is not None
    pattern = Pattern.parse(pruning.sparsity)
    windows = material.windows(checkpoint)
    report = {"sparsity": pruning.sparsity, "method": pruning.method}
    return Planned(
        f"Weights: {pruning.sparsity} zeros by {pruning.method}.",
        report,
        lambda: sparsity.sparsify(checkpoint, pattern, pruning.method, windows, workspace),
        _unhealed(material),
    )


def _heal(material: Material, checkpoint: Checkpoint, workspace: Workspace) -> Planned:
    """Healing of what was pruned; half of it where quantization follows, which is healed with the other half."""
    budget = material.heal_budget()
    summary = "Healing: what is left learns to predict again what the original predicts."

    def derive() -> Derived:
        healed = heal(material.original, checkpoint, material.sources, budget, workspace, material.options.seed)
        say(healed.describe())
        watched = {"watched": healed.report()["watched"]}
        return replace(healed.derived, came_of_it={**healed.derived.came_of_it, **watched})

    return Planned(summary, {"budget": str(budget)}, derive)


def _listed(numbers: Sequence[int]) -> str:
    return ", ".join(map(str, numbers)) or "none"


def _unhealed(material: Material) -> str:
    if material.options.heal is not None:
        return "Healing follows."
    return "Without --heal nothing is trained afterwards, so expect a loss; the report card will say how much."


_STEPS: dict[str, Callable[[Material, Checkpoint, Workspace], Planned]] = {
    "vocabulary": _vocabulary,
    "experts": _experts,
    "depth": _depth,
    "width": _width,
    "weights": _weights,
    "heal": _heal,
}
