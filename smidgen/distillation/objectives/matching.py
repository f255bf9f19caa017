"""Beside what a student says, what happens inside it: hidden states and relations between positions, as its teacher's.

For students that were cut out of their teacher, whose layers still stand for some of its layers. Two things can be
matched, both as terms added to the loss at each position:

*Hidden states* (FitNets, Romero et al. 2015, https://arxiv.org/abs/1412.6550; TinyBERT, Jiao et al. 2020,
https://arxiv.org/abs/1909.10351, eq. 8): for a student's layer with output s and the teacher's with output t,

    ‖W s − t‖² / ‖t‖²      averaged over the pairs of layers

relative, because the residual stream is a hundred times as long at some positions and in later layers. Where both are
equally wide, W is the identity; else a matrix that is trained with the student (`Matched`) and thrown away.

*Relations* (MiniLMv2, Wang et al. 2021, https://arxiv.org/abs/2012.15828, eq. 5-6) of one pair of layers, the last:
queries, keys and values are cut anew into `heads` pieces of width d each, so that neither numbers of heads nor widths
need agree, and for each piece A of them

    KL(R_teacher ‖ R_student),   R = softmax(A Aᵀ / √d)    over the positions that each position can see

averaged over pieces and over queries, keys and values. A row of a batch at a time, so that memory is heads · position²,
and computed again in the backward pass.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from smidgen.bounds import within
from smidgen.distillation.students.trainee import Trainee
from smidgen.distillation.text.batch import Batch
from smidgen.errors import SmidgenError, Unsupported
from smidgen.formats.derived import Part
from smidgen.model.attention import visible, visible_within
from smidgen.model.config import ModelConfig
from smidgen.model.decoder import Decoder
from smidgen.shapes import Bool, Float

_RELATED = ("query", "key", "value")


@dataclass(frozen=True)
class MatchingOptions:
    """Whether to match, and what.

    hidden, relations: weights of the two terms beside the divergence, 0 to leave one out.  layers: pairs of a student's
    layer and the teacher's that it should be like, from 0; None to find them (`layers_alike`).
    """

    hidden: float = 0.0
    relations: float = 0.0
    layers: tuple[tuple[int, int], ...] | None = None

    def __post_init__(self) -> None:
        if self.hidden < 0 or self.relations < 0:
            raise SmidgenError("A weight below 0 would teach the student to be unlike its teacher. Give one above 0.")
        within("match_hidden", self.hidden, 0, 1e6, whole=False)
        within("match_relations", self.relations, 0, 1e6, whole=False)

    @property
    def wanted(self) -> bool:
        """Whether anything is matched at all."""
        return self.hidden > 0 or self.relations > 0


def layers_after(kept: Sequence[int], layers: int) -> dict[int, int]:
    """Of a student that has kept some of its teacher's layers: each of its own → the one that it should end like.

    That is the one before the next that was kept: who stays does the work of those that are gone after it, too. Of a
    layer that the student has twice in a row, only the second ends like anything in the teacher.
    """
    ends = [*kept[1:], layers]
    return {own: end - 1 for own, (layer, end) in enumerate(zip(kept, ends, strict=True)) if end > layer}


def evenly(own: int, layers: int) -> dict[int, int]:
    """The same for a student of `own` layers that has nothing of its teacher's: TinyBERT's even spacing."""
    ends = [place * layers // own for place in range(own + 1)]
    return {index: ends[index + 1] - 1 for index in range(own) if ends[index + 1] > ends[index]}


def layers_alike(steps: Sequence[Mapping[str, Any]], own: int, layers: int) -> dict[int, int]:
    """Which layer of a teacher with `layers` of them each of a student's `own` layers should end like.

    steps: the student's history (`formats.history`). Where it says which layers of such a teacher were left out on the
    way to this student, that decides; else they are spaced evenly.
    """
    if own == layers:
        return {layer: layer for layer in range(own)}
    for start in reversed(range(len(steps))):  # the teacher may have a history too
        kept = _kept(steps[start:], layers)
        if kept is not None and len(kept) == own:
            return layers_after(kept, layers)
    return evenly(own, layers)


def _kept(steps: Sequence[Mapping[str, Any]], layers: int) -> list[int] | None:
    """What is left of so many layers after some steps; None where these were not taken with so many."""
    kept = list(range(layers))
    for step in steps:
        parameters = step.get("parameters")
        try:
            match step.get("step"), parameters:
                case "depth", {"layers": left, "removed": runs}:
                    gone = {layer for run in runs for layer in run}
                    before, chosen = left + len(gone), [place for place in range(len(kept)) if place not in gone]
                case "distill", {"begun_as": {"layers": chosen, "of": before}}:
                    pass
                case _:
                    continue
            if before != len(kept):
                return None
            kept = [kept[place] for place in chosen]
        except (TypeError, IndexError):  # a file can say anything
            return None
    return kept


@dataclass
class Seen:
    """What went through layers while they were watched. hidden: by layer; related: queries, keys, values by layer."""

    hidden: dict[int, list[Tensor]] = field(default_factory=dict)
    related: dict[str, list[Tensor]] = field(default_factory=dict)


class Matching:
    """Terms of a loss that make a student's layers like its teacher's.

    layers: each of the student's that is to be matched → one of the teacher's.  hidden, relations: weights of the two
    terms, 0 to leave one out.  heads: pieces that queries, keys and values are cut into.  The teacher has to be this
    very model, run while it is watched.
    """

    def __init__(
        self,
        student: ModelConfig,
        teacher: Decoder,
        layers: Mapping[int, int],
        hidden: float = 1.0,
        relations: float = 0.0,
        heads: int = 8,
        seed: int = 0,
    ) -> None:
        self._teacher, self._layers = teacher, dict(layers)
        self._hidden, self._relations, self._heads = hidden, relations, heads
        _refuse_missing(self._layers, student, teacher.config)
        self._last = max(self._layers.items())
        if relations:
            for config, layer in ((student, self._last[0]), (teacher.config, self._last[1])):
                _refuse_without_relations(config, layer)
                _refuse_uneven(config, layer, heads)
        self._projections: dict[int, Float[Tensor, "teacher_hidden hidden"]] = {}
        if hidden and student.hidden != teacher.config.hidden:
            generator = torch.Generator().manual_seed(seed)
            for own in self._layers:
                weight = nn.init.orthogonal_(torch.empty(teacher.config.hidden, student.hidden), generator=generator)
                self._projections[own] = weight.to(next(teacher.parameters()).device).requires_grad_()

    def tensors(self) -> dict[str, Tensor]:
        """The matrices W, by name; none where both models are equally wide."""
        return {f"matching.{own}.weight": weight for own, weight in self._projections.items()}

    @contextmanager
    def watching(self, student: Decoder) -> Iterator[tuple[Seen, Seen]]:
        """While this is open, what student and teacher compute is noted: student's first."""
        with ExitStack() as hooks:
            sides = Seen(), Seen()
            for decoder, layers, last, seen in (
                (student, self._layers.keys(), self._last[0], sides[0]),
                (self._teacher, self._layers.values(), self._last[1], sides[1]),
            ):
                for layer in set(layers) if self._hidden else ():
                    hooks.enter_context(_noting(decoder.blocks[layer], seen.hidden.setdefault(layer, [])))
                for part in _RELATED if self._relations else ():
                    linear = decoder.get_submodule(f"blocks.{last}.attention.{part}")
                    hooks.enter_context(_noting(linear, seen.related.setdefault(part, [])))
            yield sides

    def loss(self, student: Seen, teacher: Seen, batch: Batch) -> tuple[Float[Tensor, ""], dict[str, float]]:
        """The sum of weight · both terms over all positions, and "hidden" and "relations" without their weights."""
        if not all((*teacher.hidden.values(), *teacher.related.values())):
            raise SmidgenError(
                "Hidden states can be matched only with a teacher that runs beside the student, and this one did not: "
                "leave the matching out, or take a live teacher."
            )
        terms: dict[str, Tensor] = {}
        loss = torch.zeros((), device=batch.weights.device)
        if self._hidden:
            terms["hidden"] = self._hidden_term(student, teacher, batch)
            loss = loss + self._hidden * terms["hidden"]
        if self._relations:
            terms["relations"] = self._relation_term(student, teacher, batch)
            loss = loss + self._relations * terms["relations"]
        return loss, {name: float(term.detach()) for name, term in terms.items()}

    def _hidden_term(self, student: Seen, teacher: Seen, batch: Batch) -> Float[Tensor, ""]:
        weights, places = batch.weights, batch.teacher_positions
        if places is not None:
            weights = weights * (places >= 0)
        total = torch.zeros((), device=weights.device)
        for own, other in self._layers.items():
            s, t = torch.cat(student.hidden[own]).float(), torch.cat(teacher.hidden[other]).float()
            if places is not None:
                t = torch.take_along_dim(t, places.clamp(min=0)[..., None], 1)
            if own in self._projections:
                s = functional.linear(s, self._projections[own])
            error = (s - t).square().sum(-1) / t.square().sum(-1).clamp(min=1e-12)
            total = total + (error * weights).sum()
        return total / len(self._layers)

    def _relation_term(self, student: Seen, teacher: Seen, batch: Batch) -> Float[Tensor, ""]:
        if batch.teacher_positions is not None:
            raise SmidgenError(
                "Relations between positions can be matched only where student and teacher read the same tokens: "
                "match hidden states alone."
            )
        length, device, apart = batch.ids.shape[1], batch.ids.device, batch.apart
        total = torch.zeros((), device=device)
        for part in _RELATED:
            own, other = torch.cat(student.related[part]), torch.cat(teacher.related[part])
            for row in range(len(own)):
                seen = visible(length, length, None, device)
                if apart is not None:
                    seen = visible_within(apart[row : row + 1], None)[0, 0]
                each = checkpoint(_relation_divergence, own[row], other[row], seen, self._heads, use_reentrant=False)
                total = total + (each * batch.weights[row]).sum()
        return total / len(_RELATED)


def _relation_divergence(
    own: Float[Tensor, "position width"],
    other: Float[Tensor, "position teacher_width"],
    seen: Bool[Tensor, "position position"],
    heads: int,
) -> Float[Tensor, " position"]:
    """The mean over pieces of KL(teacher ‖ student) at each position."""

    def relations(states: Float[Tensor, "position _width"]) -> Float[Tensor, "heads position position"]:
        pieces = states.float().unflatten(1, (heads, -1)).transpose(0, 1)
        scores = pieces @ pieces.mT * pieces.shape[2] ** -0.5
        return scores.masked_fill(~seen, -torch.inf).log_softmax(2)

    log_p, log_q = relations(other), relations(own)
    difference = (log_p - log_q).masked_fill(~seen, 0)  # elsewhere ∞ − ∞
    return (log_p.exp() * difference).sum(2).mean(0)


@contextmanager
def _noting(module: nn.Module, place: list[Tensor]) -> Iterator[None]:
    """Appends what the module gives."""

    def note(_: nn.Module, __: Any, output: Tensor) -> None:
        place.append(output)

    handle = module.register_forward_hook(note)
    try:
        yield
    finally:
        handle.remove()


def _refuse_missing(layers: Mapping[int, int], student: ModelConfig, teacher: ModelConfig) -> None:
    if not layers:
        raise SmidgenError("No layers to match were given: give pairs of a student's layer and a teacher's.")
    for own, other in layers.items():
        if not (0 <= own < len(student.layers) and 0 <= other < len(teacher.layers)):
            raise SmidgenError(
                f"Layer {own} of the student cannot be matched with layer {other} of the teacher: they have "
                f"{len(student.layers)} and {len(teacher.layers)} layers, counted from 0."
            )


def _refuse_without_relations(config: ModelConfig, layer: int) -> None:
    own = config.layers[layer]
    if own.borrows is not None or own.keys_are_values:
        raise Unsupported(
            f"--match-relations compares queries, keys and values of layer {layer}, and a {config.family} model has no "
            "keys and values of its own there; leave it out, or use --match-hidden."
        )


def _refuse_uneven(config: ModelConfig, index: int, heads: int) -> None:
    layer = config.layers[index]
    for width in (layer.heads * layer.head_dim, layer.kv_heads * layer.head_dim):
        if width % heads:
            raise SmidgenError(f"Queries, keys and values of width {width} cannot be cut into {heads} pieces.")


class Matched:
    """A trainee together with the matrices of a matching, which are trained but not written."""

    def __init__(self, trainee: Trainee, matching: Matching) -> None:
        self._trainee, self._matching = trainee, matching

    @property
    def decoder(self) -> Decoder:
        """The student."""
        return self._trainee.decoder

    @property
    def movable(self) -> bool:
        """If the trainee is; the matrices are where the teacher is, and that is where the trainee moves."""
        return self._trainee.movable

    def tensors(self) -> dict[str, Tensor]:
        """The trainee's, then the matching's."""
        return {**self._trainee.tensors(), **self._matching.tensors()}

    def rates(self) -> dict[str, float]:
        """The trainee's own factors on the learning rate, if any; the matrices learn at the full one."""
        own = getattr(self._trainee, "rates", None)
        return {} if own is None else own()

    def prepare(self) -> None:
        """As the trainee does."""
        self._trainee.prepare()

    def collect(self) -> None:
        """As the trainee does; the matching's gradients are where they belong."""
        self._trainee.collect()

    def parts(self) -> dict[str, Part]:
        """The trainee's."""
        return self._trainee.parts()
