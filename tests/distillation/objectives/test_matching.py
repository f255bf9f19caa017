"""Matching of hidden states and relations: the definitions, what flows where, what is refused."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from smidgen.distillation.objectives.losses import DenseTarget, DistillObjective, Listed
from smidgen.distillation.objectives.matching import (
    Matched,
    Matching,
    MatchingOptions,
    evenly,
    layers_after,
    layers_alike,
)
from smidgen.distillation.objectives.slopes import Taught
from smidgen.distillation.students.trainee import Plain
from smidgen.distillation.text.batch import Batch
from smidgen.errors import SmidgenError
from smidgen.model.config import ModelConfig
from smidgen.model.decoder import Decoder
from tests.tiny_models import GEMMA3_CONFIG, LLAMA_CONFIG, VOCABULARY, random_decoder

SHALLOW = replace(GEMMA3_CONFIG, layers=(GEMMA3_CONFIG.layers[0], GEMMA3_CONFIG.layers[2], GEMMA3_CONFIG.layers[3]))
NARROW = replace(LLAMA_CONFIG, hidden=32)


class Live:
    """A decoder that teaches, a row at a time."""

    def __init__(self, decoder: Decoder) -> None:
        self.decoder = decoder

    def targets(self, batch: Batch) -> DenseTarget:
        hidden = torch.cat([self.decoder.hidden_states(row[None]) for row in batch.ids])
        return DenseTarget(hidden.flatten(0, 1), self.decoder.embedding.weight, self.decoder.config.logit_cap)


def batch_of(rows: int, length: int) -> Batch:
    ids = torch.randint(VOCABULARY, (rows, length + 1), generator=torch.Generator().manual_seed(0))
    weights = torch.rand(rows, length, generator=torch.Generator().manual_seed(1))
    weights[:, 0] = 0
    return Batch(ids[:, :-1], ids[:, 1:], weights, torch.zeros(rows, length, dtype=torch.long))


def test_layer_maps() -> None:
    assert layers_after([0, 1, 4, 7], 9) == {0: 0, 1: 3, 2: 6, 3: 8}
    assert evenly(4, 12) == {0: 2, 1: 5, 2: 8, 3: 11}
    assert evenly(3, 5) == {0: 0, 1: 2, 2: 4}
    assert layers_after([0, 0, 1, 2], 3) == evenly(4, 3) == {1: 0, 2: 1, 3: 2}  # of a student with more


def taken(before: int, *runs: list[int]) -> dict[str, Any]:
    """A step of a history that takes layers out."""
    return {"step": "depth", "parameters": {"layers": before - sum(map(len, runs)), "removed": list(runs)}}


FRESH = {"step": "distill", "parameters": {"begun_as": {"layers": [0, 3, 5], "of": 6}}}


@pytest.mark.parametrize(
    ("steps", "own", "layers", "expected"),
    [
        ([], 3, 3, {0: 0, 1: 1, 2: 2}),
        ([], 3, 6, evenly(3, 6)),
        ([taken(6, [4], [1, 2])], 3, 6, layers_after([0, 3, 5], 6)),
        ([taken(6, [4]), {"step": "width"}, taken(5, [1, 2])], 3, 6, layers_after([0, 3, 5], 6)),
        ([taken(9, [0, 7, 8]), taken(6, [4], [1, 2])], 3, 6, layers_after([0, 3, 5], 6)),  # the teacher was cut too
        ([taken(9, [0, 7, 8]), taken(6, [4], [1, 2])], 3, 9, layers_after([1, 4, 6], 9)),
        ([FRESH, {"step": "distill", "parameters": {}}], 3, 6, layers_after([0, 3, 5], 6)),
        ([taken(6, [4], [1, 2])], 3, 7, evenly(3, 7)),
        ([{"step": "depth", "parameters": {"layers": "3", "removed": 3}}, {"step": "depth"}], 3, 6, evenly(3, 6)),
    ],
    ids=["as deep", "unknown", "cut", "cut twice", "of a cut", "of its original", "fresh", "another's", "nonsense"],
)
def test_which_layers_are_alike(steps: list[dict[str, Any]], own: int, layers: int, expected: dict[int, int]) -> None:
    assert layers_alike(steps, own, layers) == expected


def test_options() -> None:
    assert MatchingOptions(relations=0.1).wanted and not MatchingOptions(layers=((0, 1),)).wanted
    with pytest.raises(SmidgenError, match="below 0"):
        MatchingOptions(hidden=-1)


def outputs(decoder: Decoder, ids: Tensor) -> list[Tensor]:
    """What each block gives, and before it what enters the first."""
    states = [decoder.embed(ids)]
    for block in decoder.blocks:
        states.append(block(states[-1]))
    return states


def test_hidden_states_are_compared_layer_by_layer() -> None:
    student, teacher, batch = random_decoder(SHALLOW, 1), random_decoder(GEMMA3_CONFIG), batch_of(2, 9)
    layers = layers_after([0, 2, 3], 5)
    plain, _ = DistillObjective(Live(teacher))(student, batch)
    matching = Matching(SHALLOW, teacher, layers, hidden=0.5)
    loss, sums = DistillObjective(Live(teacher), matching=matching)(student, batch)

    expected = torch.zeros(())
    own, other = outputs(student, batch.ids), outputs(teacher, batch.ids)
    for mine, taught in layers.items():
        s, t = own[mine + 1], other[taught + 1]
        expected = expected + (((s - t).norm(dim=-1) / t.norm(dim=-1)) ** 2 * batch.weights).sum() / 3
    assert sums["hidden"] == pytest.approx(expected.item(), rel=1e-5)
    assert (loss - plain).item() == pytest.approx(0.5 * expected.item(), rel=1e-4)

    gradient = torch.autograd.grad(loss - plain, student.get_parameter("blocks.0.attention.query.weight"))[0]
    longhand = torch.autograd.grad(0.5 * expected, student.get_parameter("blocks.0.attention.query.weight"))[0]
    assert torch.allclose(gradient, longhand, rtol=1e-3, atol=1e-6)
    assert not matching.tensors()


def longhand_relations(own: Tensor, other: Tensor, heads: int, documents: Tensor) -> Tensor:
    """[position]: mean over pieces of the divergence, with loops."""
    positions = len(own)
    found = torch.zeros(positions)
    for at in range(positions):
        seen = [place for place in range(at + 1) if documents[place] == documents[at]]
        for head in range(heads):
            mine, theirs = (part.chunk(heads, dim=1)[head] for part in (own, other))
            log_q, log_p = (
                torch.stack([part[at] @ part[place] / part.shape[1] ** 0.5 for place in seen]).log_softmax(0)
                for part in (mine, theirs)
            )
            found[at] = found[at] + (log_p.exp() * (log_p - log_q)).sum() / heads
    return found


@pytest.mark.parametrize("packed", [False, True])
def test_relations_are_compared_in_the_last_pair_of_layers(packed: bool) -> None:
    student, teacher, batch = random_decoder(NARROW, 1), random_decoder(GEMMA3_CONFIG), batch_of(2, 7)
    documents = torch.tensor([[0, 0, 0, 0, 1, 1, 1], [0, 1, 1, 1, 1, 1, 1]]) if packed else torch.zeros(2, 7).long()
    batch = replace(batch, documents=documents)
    heads = 4
    matching = Matching(NARROW, teacher, {0: 1, 2: 4}, hidden=0, relations=1, heads=heads)
    with matching.watching(student) as (seen, taught):
        student.hidden_states(batch.ids, documents=batch.apart)
        with torch.no_grad():
            teacher.hidden_states(batch.ids, documents=batch.apart)
    loss, sums = matching.loss(seen, taught, batch)

    expected = torch.zeros(())
    for part in ("query", "key", "value"):
        own, other = seen.related[part][0], taught.related[part][0]
        for row in range(2):
            each = longhand_relations(own[row], other[row], heads, documents[row])
            expected = expected + (each * batch.weights[row]).sum() / 3
    assert loss.item() == pytest.approx(expected.item(), rel=1e-4) == sums["relations"]
    weight = student.get_parameter("blocks.1.feed_forward.down.weight")
    mine, longhand = (torch.autograd.grad(value, weight, retain_graph=True)[0] for value in (loss, expected))
    assert torch.allclose(mine, longhand, rtol=1e-3, atol=1e-6)


def test_other_widths_are_projected_by_matrices_that_learn_and_are_not_written() -> None:
    student, teacher, batch = random_decoder(NARROW, 1), random_decoder(GEMMA3_CONFIG), batch_of(2, 7)
    matching = Matching(NARROW, teacher, evenly(3, 5))
    trainee = Matched(Plain(student), matching)
    tensors = trainee.tensors()
    assert [name for name in tensors if name.startswith("matching")] == [f"matching.{own}.weight" for own in range(3)]
    assert not any(name.startswith("matching") for name in trainee.parts())
    objective = DistillObjective(Live(teacher), matching=matching)
    optimizer = torch.optim.Adam(tensors.values(), 3e-3)
    found = []
    for _ in range(12):
        trainee.prepare()
        optimizer.zero_grad()
        loss, sums = objective(student, batch)
        loss.backward()
        trainee.collect()
        optimizer.step()
        found.append(sums["hidden"])
    assert found[-1] < 0.8 * found[0]


def test_checkpointed_blocks_are_noted_once(monkeypatch: pytest.MonkeyPatch) -> None:
    student, teacher, batch = random_decoder(SHALLOW, 1), random_decoder(GEMMA3_CONFIG), batch_of(2, 7)
    matching = Matching(SHALLOW, teacher, {0: 1, 2: 4}, relations=1)
    found = []
    for checkpointed in (False, True):
        monkeypatch.setattr(student, "checkpointing", checkpointed)
        loss, _ = DistillObjective(Live(teacher), matching=matching)(student, batch)
        found.append(torch.autograd.grad(loss, list(student.parameters())))
    for plain, again in zip(*found, strict=True):
        assert torch.allclose(plain, again, rtol=1e-4, atol=1e-6)


def test_the_teachers_positions_are_its_own() -> None:
    """Where it reads other tokens, its state is the one after the same text."""
    student, teacher, batch = random_decoder(SHALLOW, 1), random_decoder(GEMMA3_CONFIG), batch_of(1, 4)
    places = torch.tensor([[0, -1, 3, 5]])
    batch = replace(batch, teacher_ids=torch.arange(6)[None], teacher_positions=places, weights=torch.ones(1, 4))
    matching = Matching(SHALLOW, teacher, {2: 4})
    with matching.watching(student) as (seen, taught), torch.no_grad():
        student.hidden_states(batch.ids)
        assert batch.teacher_ids is not None
        teacher.hidden_states(batch.teacher_ids)
    s, t = seen.hidden[2][0][0, [0, 2, 3]], taught.hidden[4][0][0, [0, 3, 5]]
    expected = ((s - t).square().sum(1) / t.square().sum(1)).sum()
    assert matching.loss(seen, taught, batch)[0].item() == pytest.approx(expected.item(), rel=1e-5)
    related = Matching(SHALLOW, teacher, {2: 4}, hidden=0, relations=1)
    with related.watching(student) as (seen, taught), torch.no_grad():
        student.hidden_states(batch.ids)
        teacher.hidden_states(batch.ids)
    with pytest.raises(SmidgenError, match="the same tokens"):
        related.loss(seen, taught, batch)


class Cached:
    """A teacher that does not run."""

    columns = 1

    def targets(self, batch: Batch) -> "Cached":
        return self

    def chosen(self, positions: Tensor) -> "Cached":
        return self

    def scores(self, run: slice, temperature: float) -> Taught:
        return Listed(torch.zeros(8, 1, dtype=torch.long), torch.ones(8, 1), None)


def test_a_teacher_that_does_not_run_is_refused() -> None:
    student, teacher = random_decoder(SHALLOW, 1), random_decoder(GEMMA3_CONFIG)
    batch = replace(batch_of(2, 4), weights=torch.ones(2, 4))
    with pytest.raises(SmidgenError, match="live teacher"):
        DistillObjective(Cached(), matching=Matching(SHALLOW, teacher, {0: 0}))(student, batch)


@pytest.mark.parametrize(
    ("student", "options", "says"),
    [
        (SHALLOW, {"layers": {}}, "No layers"), (SHALLOW, {"layers": {3: 4}}, "Layer 3"),
        (SHALLOW, {"layers": {1: 5}}, "layer 5"), (SHALLOW, {"layers": {1: 2}, "relations": 1, "heads": 5}, "5 pieces"),
    ],
)  # fmt: skip
def test_what_cannot_be_matched(student: ModelConfig, options: dict[str, Any], says: str) -> None:
    with pytest.raises(SmidgenError, match=says):
        Matching(student, random_decoder(GEMMA3_CONFIG), **options)
