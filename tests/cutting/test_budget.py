"""From speed and memory to limits: the arithmetic, with an engine that answers what it is told to."""

from pathlib import Path
from typing import Any

import pytest

from smidgen.cutting import budget
from smidgen.cutting.limits import Limits, Pace
from smidgen.cutting.plan import choose, choose_quickest, layout, matrices, smallest_size
from smidgen.cutting.recipe import CutOptions, Pruning
from smidgen.cutting.rehearsal import Rehearsed
from smidgen.errors import BudgetError
from smidgen.formats.checkpoint import Checkpoint
from smidgen.formats.gguf.traffic import is_table, shares_read
from smidgen.formats.opening import open_checkpoint
from smidgen.numerics.block_types import BY_NAME, BlockType
from tests.tiny_models import write_gemma3

RATE = 2e-8  # seconds a byte, of every type but the slow one
SLOW = "Q5_0"
BESIDE = 30_000  # bytes that the engine takes


@pytest.fixture
def kept() -> list[str]:
    """How keys and values were kept, of each model that was measured."""
    return []


@pytest.fixture
def original(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kept: list[str]) -> Checkpoint:
    """A token takes 5 ms beside what its matrices take."""
    checkpoint = open_checkpoint(write_gemma3(tmp_path / "tiny.gguf"))
    tensors, shares = checkpoint.file.tensors, shares_read(checkpoint.file)
    read = sum(shares[name] * tensors[name].nbytes for name in matrices(checkpoint))
    resident = sum(info.nbytes for name, info in tensors.items() if not is_table(name, checkpoint.file))
    answer: dict[str, Any] = {
        "decode_tokens_per_s": 1 / (0.005 + RATE * read), "resident_bytes": resident + BESIDE,
        "busy": {"sentence": None}, "reason": None,
    }  # fmt: skip
    monkeypatch.setattr(budget, "measure_speed", lambda *_, **asked: kept.extend(asked["kv"]) or [answer])
    monkeypatch.setattr(budget, "type_rates", rates)
    return checkpoint


def rates(kinds: set[BlockType], threads: int | None) -> dict[str, float]:
    return {kind.name: 10 * RATE if kind.name == SLOW else RATE for kind in kinds}


def limits(original: Checkpoint, **asked: Any) -> Limits:
    return budget.limits_of(original, original, CutOptions(**asked), original.path.parent)


def test_what_the_weights_may_take_is_what_the_rest_leaves(original: Checkpoint) -> None:
    pace = limits(original, speed=100.0).pace
    assert pace is not None and pace.limit == pytest.approx(0.005)
    assert pace.rates["Q8_0"] == RATE


def test_where_the_rest_alone_takes_too_long_a_trial_decides(
    original: Checkpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the original takes beside its weights is itself an estimate."""
    for found, refused in ((230.0, False), (180.0, True)):
        monkeypatch.setattr(budget, "rehearse", lambda *_, found=found: Rehearsed(found, 1000, None))
        if refused:
            with pytest.raises(BudgetError, match="180.0 tokens/s here, so --speed 220 cannot be had: ask for 176"):
                limits(original, speed=220.0)
        else:
            allowed = limits(original, speed=220.0)
            assert sum(one.seconds for one in choose_quickest(original, allowed.kinds, allowed)) <= allowed.seconds
    with pytest.raises(BudgetError, match="5 ms here beside its weights, so --speed 220 cannot be had. Ask for less"):
        limits(original, speed=220.0, pruning=Pruning(ffn=32))


def test_a_plan_takes_no_type_that_is_slow_here(original: Checkpoint) -> None:
    """Every matrix has the same damage by bits; of the slow type a token would take ten times as long."""
    kept = Limits(10**9, Pace(0.7 * _seconds(original, "Q8_0"), rates(set(BY_NAME.values()), None)))
    damage = {
        name: {kind: 4.0 ** -BY_NAME[kind].bits_per_weight for kind in ("IQ4_NL", SLOW, "Q8_0")}
        for names in matrices(original).values()
        for name in names
    }
    chosen = choose(original, damage, kept)
    assert sum(choice.seconds for choice in chosen) <= kept.seconds
    assert {choice.kind.name for choice in chosen} <= {"IQ4_NL", "Q8_0", "F32"}
    with pytest.raises(BudgetError, match="Ask for less with --speed"):
        choose(original, damage, Limits(10**9, Pace(0.1 * kept.seconds, kept.pace.rates if kept.pace else {})))


def test_the_quickest_file_is_tried_before_it_is_refused(original: Checkpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    """The arithmetic says no; whether that is true, the engine decides."""
    quickest = 0.005 + _seconds(original, "IQ4_NL")
    asked = 1 / (0.9 * quickest)
    for found, refused in ((asked, False), (0.96 * asked, False), (0.9 * asked, True)):
        monkeypatch.setattr(budget, "rehearse", lambda *_, found=found: Rehearsed(found, 1000, None))
        if not refused:
            assert limits(original, speed=asked, types=("IQ4_NL",)).pace is not None
            continue
        with pytest.raises(BudgetError, match=f"The quickest possible file decodes {found:.1f} tokens/s here"):
            limits(original, speed=asked, types=("IQ4_NL",))


def test_memory_is_the_weights_and_what_the_engine_takes(original: Checkpoint) -> None:
    smallest = smallest_size(original)
    allowed = limits(original, ram=smallest + BESIDE).nbytes
    header = layout(original, {}).size - sum(info.nbytes for info in original.file.tensors.values())
    assert allowed == smallest + header
    assert limits(original, ram=smallest + BESIDE, fit=smallest + 10).nbytes == smallest + 10
    with pytest.raises(BudgetError, match="leaves nothing"):
        limits(original, ram=BESIDE, pruning=Pruning(ffn=32))
    with pytest.raises(BudgetError, match=f"smallest possible file is {smallest} bytes.* Ask for --ram .* or more"):
        limits(original, ram=BESIDE)
    with pytest.raises(BudgetError, match="takes about .* of memory here, so --ram .* cannot be had"):
        limits(original, ram=smallest + BESIDE - header - smallest // 4)


def test_the_original_is_measured_with_the_cache_that_was_asked_for(
    original: Checkpoint, kept: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    """So what the engine takes beside the weights is what it will take beside the cut's."""
    limits(original, speed=100.0, kv="q4_0")
    assert "of memory, with keys and values as q4_0." in capsys.readouterr().err
    limits(original, ram=original.file.size + BESIDE)
    assert kept == ["q4_0", "f16"] and "keys and values" not in capsys.readouterr().err


def test_on_a_machine_that_is_too_busy_there_is_no_speed_to_go_by(
    original: Checkpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    answer = {
        "decode_tokens_per_s": None, "resident_bytes": original.file.size + BESIDE,
        "busy": {"sentence": "busy"}, "reason": "the machine was too busy",
    }  # fmt: skip
    monkeypatch.setattr(budget, "measure_speed", lambda *_, **__: [answer])
    with pytest.raises(BudgetError, match="the machine was too busy.*--fit"):
        limits(original, speed=100.0)
    assert limits(original, ram=original.file.size + BESIDE).nbytes > 0


def test_limits_come_back_from_the_work_folder_as_they_were(original: Checkpoint) -> None:
    found = limits(original, speed=100.0)
    assert Limits.of(found.as_json()) == found and found.kinds


def test_promises_are_met_missed_or_not_measured() -> None:
    """What was asked for is met within 5%."""
    options = CutOptions(speed=20.0, ram=10**9)
    lines = budget.promises(options, {"speed": {"decode_tokens_per_s": 18.9, "resident_bytes": 1.04 * 10**9}})
    assert "missed" in lines[0] and lines[1].endswith("met.")
    lines = budget.promises(options, {"speed": {"decode_tokens_per_s": 19.1, "resident_bytes": 1.06 * 10**9}})
    assert lines[0].endswith("met.") and "missed" in lines[1]
    assert "not measured (no engine)" in budget.promises(options, {"speed": {"reason": "no engine"}})[0]
    (line,) = budget.promises(CutOptions(ram=10**9, kv="q8_0"), {"speed": {"resident_bytes": 10**9}})
    assert line.endswith("measured 1e+09, with keys and values as q8_0: met.")


def _seconds(checkpoint: Checkpoint, kind: str) -> float:
    """That a token takes where every matrix is of one type, which is not the slow one."""
    shares, tensors = shares_read(checkpoint.file), checkpoint.file.tensors
    weights = sum(
        shares[name] * tensors[name].nbytes / tensors[name].kind.bits_per_weight for name in matrices(checkpoint)
    )
    return RATE * weights * BY_NAME[kind].bits_per_weight
