"""From speed and memory to bytes: the arithmetic, with an engine that answers what it is told to."""

from pathlib import Path
from typing import Any

import pytest

from smidgen.cutting import budget
from smidgen.cutting.recipe import CutOptions
from smidgen.errors import BudgetError
from smidgen.formats.checkpoint import Checkpoint
from smidgen.formats.opening import open_checkpoint
from tests.tiny_models import write_gemma3


@pytest.fixture
def original(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Checkpoint:
    checkpoint = open_checkpoint(write_gemma3(tmp_path / "tiny.gguf"))
    size = checkpoint.file.size
    answer: dict[str, Any] = {
        "decode_tokens_per_s": 50.0, "bytes_per_token": size - 1000, "resident_bytes": size + 30_000,
        "busy": {"sentence": None}, "reason": None,
    }  # fmt: skip
    monkeypatch.setattr(budget, "measure_speed", lambda paths, threads, repeats, contexts: [answer])
    return checkpoint


def test_twice_the_speed_is_less_than_half_the_bytes_that_are_read(original: Checkpoint) -> None:
    size = original.file.size
    allowed = budget.budget_of(original, CutOptions(speed=100.0))
    assert 0.4 * size < allowed < 0.5 * size


def test_of_one_matrix_for_embedding_and_head_nothing_stays_unread(original: Checkpoint) -> None:
    """Of an embedding of its own a token reads one row; its other rows cost no time, and may have bytes for nothing."""
    embedding = original.file.tensors["token_embd.weight"].nbytes
    apart, tied = (budget.budget_of(original, CutOptions(speed=100.0), tied=tied) for tied in (False, True))
    assert apart - tied == embedding


def test_memory_is_the_file_and_what_the_engine_takes(original: Checkpoint) -> None:
    assert budget.budget_of(original, CutOptions(ram=130_000)) == 100_000
    assert budget.budget_of(original, CutOptions(ram=130_000, fit=90_000)) == 90_000
    with pytest.raises(BudgetError, match="leaves nothing"):
        budget.budget_of(original, CutOptions(ram=30_000))


def test_on_a_machine_that_is_too_busy_there_is_no_speed_to_go_by(
    original: Checkpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    answer = {
        "decode_tokens_per_s": None, "bytes_per_token": 1000, "resident_bytes": original.file.size + 30_000,
        "busy": {"sentence": "busy"}, "reason": "the machine was too busy",
    }  # fmt: skip
    monkeypatch.setattr(budget, "measure_speed", lambda paths, threads, repeats, contexts: [answer])
    with pytest.raises(BudgetError, match="the machine was too busy.*--fit"):
        budget.budget_of(original, CutOptions(speed=100.0))
    assert budget.budget_of(original, CutOptions(ram=130_000)) == 100_000


def test_promises_are_met_missed_or_not_measured() -> None:
    options = CutOptions(speed=20.0, ram=10**9)
    lines = budget.promises(options, {"speed": {"decode_tokens_per_s": 19.0, "resident_bytes": 5 * 10**8}})
    assert "missed" in lines[0] and lines[1].endswith("met.")
    assert "not measured (no engine)" in budget.promises(options, {"speed": {"reason": "no engine"}})[0]
