"""A plan is tried before it is carried out, corrected until it does what was asked, or refused, the best one named."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from smidgen.cutting import rehearsal
from smidgen.cutting.limits import Limits, Pace
from smidgen.cutting.plan import Choice, choose_quickest, layout
from smidgen.cutting.recipe import CutOptions
from smidgen.cutting.rehearsal import Rehearsed, rehearse, settle_plan
from smidgen.errors import BudgetError
from smidgen.formats.checkpoint import Checkpoint
from smidgen.formats.gguf.reader import GGUFFile
from smidgen.formats.opening import open_checkpoint
from smidgen.numerics.block_types import IQ4_NL
from tests.tiny_models import write_gemma3


@dataclass
class Plan:
    """A plan that uses up its limits; on this machine a token takes more than was predicted."""

    size: int
    seconds: float
    checkpoint: Any = None
    choices: Any = None


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> list[Rehearsed]:
    """A token takes 2 ms beside its weights, and these 1.25 times as long as was thought; the engine takes 50 bytes."""
    tried: list[Rehearsed] = []

    def answer(plan: Plan) -> Rehearsed:
        tried.append(Rehearsed(1 / (0.002 + 1.25 * plan.seconds), plan.size + 50, None))
        return tried[-1]

    monkeypatch.setattr(rehearsal, "rehearse", lambda checkpoint, choices, folder, threads: answer(choices))
    return tried


def planned(least: float = 0.0) -> Any:
    """Plans of this machine: none is quicker than `least` seconds for its weights."""

    def plan(limits: Limits) -> Plan:
        if limits.seconds < least:
            raise BudgetError("no types")
        made = Plan(limits.nbytes, min(limits.seconds, 1.0))
        made.choices = made
        return made

    return plan


def test_a_plan_that_is_too_slow_is_made_again(machine: list[Rehearsed], tmp_path: Path) -> None:
    _, limits, found = settle_plan(planned(), Limits(1000, Pace(0.01, {})), CutOptions(speed=100.0), tmp_path)
    assert found.tokens_per_s is not None and 100.0 <= found.tokens_per_s <= 104.0
    assert limits.seconds == pytest.approx(0.008 / 1.25, rel=0.03) and len(machine) > 1


def test_a_plan_that_is_quicker_than_it_had_to_be_gets_more_bits(machine: list[Rehearsed], tmp_path: Path) -> None:
    _, limits, _ = settle_plan(planned(), Limits(1000, Pace(0.004, {})), CutOptions(speed=100.0), tmp_path)
    assert limits.seconds == pytest.approx(0.008 / 1.25, rel=0.04)


def test_between_a_plan_too_quick_and_one_too_slow_lies_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where what was predicted is wrong by half, a plain correction would swing to and fro."""
    tried: list[float] = []

    def answer(checkpoint: object, plan: Plan, *_: object) -> Rehearsed:
        tried.append(plan.seconds)
        return Rehearsed(1 / (0.002 + 2.0 * plan.seconds), 1000, None)

    monkeypatch.setattr(rehearsal, "rehearse", answer)
    _, _, found = settle_plan(planned(), Limits(1000, Pace(0.006, {})), CutOptions(speed=100.0), tmp_path)
    assert found.tokens_per_s is not None and 100.0 <= found.tokens_per_s <= 104.0
    assert tried[1] < 0.004 < tried[0] and tried[1] < tried[2] < tried[0]


def test_what_no_plan_can_do_is_refused_with_what_the_best_does(machine: list[Rehearsed], tmp_path: Path) -> None:
    with pytest.raises(BudgetError, match=r"The best plan decodes 6\d.* so --speed 100 cannot be had: ask for 6"):
        settle_plan(planned(0.0099), Limits(1000, Pace(0.01, {})), CutOptions(speed=100.0), tmp_path)


def test_within_five_percent_is_good_enough(machine: list[Rehearsed], tmp_path: Path) -> None:
    limits = Limits(1000, Pace(0.0066, {}))
    _, kept, found = settle_plan(planned(0.0066), limits, CutOptions(speed=100.0), tmp_path)
    assert kept == limits and found.tokens_per_s is not None and 95.0 < found.tokens_per_s < 100.0


def test_memory_is_corrected_both_ways_and_never_beyond_the_size(machine: list[Rehearsed], tmp_path: Path) -> None:
    for first in (2000, 500):
        _, limits, found = settle_plan(planned(), Limits(first), CutOptions(ram=1000), tmp_path)
        assert 960 <= found.resident_bytes <= 1000 and limits.nbytes == found.resident_bytes - 50
    _, limits, _ = settle_plan(planned(), Limits(500), CutOptions(ram=1000, fit=600), tmp_path)
    assert limits.nbytes == 600


def test_where_nothing_can_be_timed_the_first_plan_stays(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(rehearsal, "rehearse", lambda *_: Rehearsed(None, 1000, "It could not be timed: busy."))
    limits = Limits(1000, Pace(0.01, {}))
    _, kept, found = settle_plan(planned(), limits, CutOptions(speed=100.0), tmp_path)
    assert kept == limits and found.sentence == "It could not be timed: busy."


@pytest.fixture
def original(tmp_path: Path) -> Checkpoint:
    return open_checkpoint(write_gemma3(tmp_path / "tiny.gguf"))


def test_what_is_tried_is_the_planned_file_and_goes_again(
    original: Checkpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its types, its size and its header; what stays as it is has its own numbers."""
    choices: list[Choice] = choose_quickest(original, [IQ4_NL], Limits(10**9, Pace(1.0, {"IQ4_NL": 1e-9, "F32": 1e-9})))
    seen: list[tuple[int, dict[str, str]]] = []
    run_with: list[object] = []

    def measure(paths: list[Path], threads: int | None, **asked: Any) -> list[dict[str, Any]]:
        run_with.extend((threads, asked["kv"]))
        with GGUFFile.open(paths[0]) as file:
            seen.append((file.size, {name: info.kind.name for name, info in file.tensors.items()}))
            norm = "output_norm.weight"
            assert (file.packed(norm) == original.file.packed(norm)).all()
        return [
            {"decode_tokens_per_s": 105.0, "resident_bytes": 7, "reason": None, "busy": {"sentence": "It was busy."}}
        ]

    monkeypatch.setattr(rehearsal, "measure_speed", measure)
    found = rehearse(original, choices, tmp_path, CutOptions(speed=1.0, threads=1, kv="q8_0"))
    kinds = {choice.name: choice.kind for choice in choices}
    assert seen[0][0] == layout(original, kinds).size and not list(tmp_path.glob("rehearsal*"))
    assert all(seen[0][1][name] == kind.name for name, kind in kinds.items()) and IQ4_NL in kinds.values()
    assert run_with == [1, ["q8_0"]]
    assert found.resident_bytes == 7 and found.sentence == "It was busy."
    assert found.tokens_per_s is not None and found.tokens_per_s < 105.0  # a real model is slower
