"""Which channels go first: tokens that judge decide whether what inputs do together is made use of."""

import pytest
import torch
from torch import Tensor

from smidgen.calibration.channels import Removal, _joined, removal_order
from smidgen.calibration.sample import Sample

OUT, CHANNELS = 20, 64


def random(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


WEIGHT, IMPORTANCE = random(OUT, CHANNELS, seed=1), torch.linspace(0.5, 1.5, OUT)
PAIRS = random(900, CHANNELS, seed=5) + 3 * random(900, CHANNELS // 2, seed=7).repeat(1, 2)


def sampled(fitted: Tensor, judges: Tensor) -> Sample:
    return Sample(
        fitted.T @ fitted / len(fitted), judges * max(1, len(judges)) ** -0.5, len(fitted), float(len(fitted))
    )


def left_out(units: Tensor, judges: Tensor, width: int) -> float:
    """½ Σᵣ qᵣ E[Δyᵣ²] once these are left out and nothing else moves."""
    columns = (units[:, None] * width + torch.arange(width)).flatten()
    wrong = judges[:, columns] @ WEIGHT[:, columns].T
    return 0.5 * float(wrong.square().mean(0) @ IMPORTANCE)


def by_what_they_carry(fitted: Tensor, width: int) -> Tensor:
    carried = (IMPORTANCE @ WEIGHT.square()) * fitted.square().mean(0)
    return carried.unflatten(0, (-1, width)).sum(1).argsort()


def half_way(removal: Removal) -> tuple[Tensor, float]:
    half = len(removal.order) // 2
    return removal.order[: half + 1], float(removal.loss[half])


@pytest.mark.parametrize("width", [1, 4])
def test_what_inputs_do_together_counts_where_those_who_judge_say_so(width: int) -> None:
    fitted, judges = PAIRS[:600], PAIRS[600:]
    gone, lost = half_way(removal_order(WEIGHT, sampled(fitted, judges), IMPORTANCE, width))
    assert lost < 0.9 * left_out(by_what_they_carry(fitted, width)[: len(gone)], judges, width)


@pytest.mark.parametrize("width", [1, 4])
def test_what_those_who_judge_deny_is_not_made_use_of(width: int) -> None:
    """Pairs that went together go against each other: to make up for one with the other does harm."""
    fitted, judges = PAIRS[:600], PAIRS[600:].clone()
    judges[:, : CHANNELS // 2] *= -1
    removal = removal_order(WEIGHT, sampled(fitted, judges), IMPORTANCE, width)
    assert torch.equal(removal.order, by_what_they_carry(fitted, width)[: len(removal.order)])
    for count in (1, len(removal.order)):
        assert float(removal.loss[count - 1]) == pytest.approx(left_out(removal.order[:count], judges, width), rel=1e-3)


@pytest.mark.parametrize("tokens", [8, 40, 300])
def test_never_worse_than_leaving_out_on_tokens_that_judge(tokens: int) -> None:
    fitted, judges = PAIRS[:tokens], PAIRS[600:]
    gone, lost = half_way(removal_order(WEIGHT, sampled(fitted, judges), IMPORTANCE))
    assert lost <= 1.001 * left_out(by_what_they_carry(fitted, 1)[: len(gone)], judges, 1)


@pytest.mark.parametrize("judges", [0, 1, 15])
def test_with_too_few_to_judge_they_go_by_what_they_carry(judges: int) -> None:
    fitted = PAIRS[:600]
    removal = removal_order(WEIGHT, sampled(fitted, PAIRS[600 : 600 + judges]), IMPORTANCE)
    assert torch.equal(removal.order, by_what_they_carry(fitted, 1)[: len(removal.order)])
    assert bool(removal.loss.isnan().all()) == (judges == 0)


def test_inputs_that_never_occur_go_first() -> None:
    inputs = PAIRS.clone()
    inputs[:, ::4] = 0
    removal = removal_order(WEIGHT, sampled(inputs[:600], inputs[600:]), IMPORTANCE)
    assert set(removal.order[:16].tolist()) == set(range(0, CHANNELS, 4))
    assert torch.isfinite(removal.loss).all() and float(removal.loss[15]) == pytest.approx(0, abs=1e-6)


def test_runs_of_columns_stand_side_by_side() -> None:
    whole = sampled(PAIRS[:600], PAIRS[600:])
    runs = [
        Sample(whole.moment[part, part], whole.judges[:, part], 600, 600.0) for part in (slice(0, 32), slice(32, 64))
    ]
    joined = _joined(runs)
    assert torch.equal(joined.judges, whole.judges) and torch.equal(joined.moment[:32, :32], whole.moment[:32, :32])
    assert not joined.moment[:32, 32:].any()


def test_of_a_single_unit_nothing_goes() -> None:
    """A layer with one head of keys keeps it."""
    removal = removal_order(WEIGHT, sampled(PAIRS[:600], PAIRS[600:]), IMPORTANCE, CHANNELS)
    assert len(removal.order) == len(removal.loss) == 0
