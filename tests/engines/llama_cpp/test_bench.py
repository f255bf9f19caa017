"""Speed is measured with what a context can hold, in the time that it may take, and only where it means something."""

from pathlib import Path
from typing import Any

import pytest

from smidgen.engines.llama_cpp.bench import measure_speed
from smidgen.errors import SmidgenError
from smidgen.measuring.speed_shown import remarks
from tests import tiny_models
from tests.engines.llama_cpp.pretended_engine import Machine


def test_a_context_shorter_than_the_usual_prompt(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the real engine."""
    keys: dict[str, Any] = tiny_models.GEMMA3_KEYS | {"context_length": 64}
    monkeypatch.setattr(tiny_models, "GEMMA3_KEYS", keys)
    (speed,) = measure_speed([tiny_models.write_gemma3(tmp_path / "short.gguf")], threads=1, repeats=1, contexts=(16,))
    assert (speed["prompt_tokens"], speed["decode_tokens"]) == (32, 32)
    assert speed["energy"]["joules_per_token"] is not None or speed["energy"]["reason"]
    if speed["reason"] is None:  # else this machine is far too busy
        assert speed["prompt_tokens_per_s"] and speed["decode_tokens_per_s"]
        assert [entry["context"] for entry in speed["by_context"]] == [16]
        assert speed["by_context"][0]["time_to_first_token_s"] > 0
        assert (speed["energy"]["decode"]["cpu_seconds_per_token"] or 0) > 0


def test_what_cannot_be_measured_is_named_without_its_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The reason stands on the card, which people publish."""
    model = tiny_models.write_gemma3(tmp_path / "tiny.gguf")
    monkeypatch.setattr("smidgen.engines.llama_cpp.process.sys.executable", "/bin/false")
    with pytest.raises(SmidgenError, match="^cannot measure tiny.gguf: "):
        measure_speed([model], threads=1, repeats=1)


@pytest.fixture
def two(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Two models that were made for long texts."""
    keys: dict[str, Any] = tiny_models.GEMMA3_KEYS | {"context_length": 4096}
    monkeypatch.setattr(tiny_models, "GEMMA3_KEYS", keys)
    return [tiny_models.write_gemma3(tmp_path / f"{name}.gguf") for name in ("one", "two")]


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Machine:
    return Machine().install(monkeypatch)


def test_rounds_that_differ_are_measured_once_more_and_said(two: list[Path], machine: Machine) -> None:
    """The median of two rounds lies between a true and a disturbed one."""
    machine.hiccup = 2048
    one, other = measure_speed(two, threads=2, repeats=5)
    assert [entry["repeats"] for entry in one["by_context"]] == [2, 2, 3]
    assert [entry["note"] is None for entry in one["by_context"]] == [True, True, False]
    assert one["by_context"][2]["decode_tokens_per_s"] == pytest.approx(64)
    assert all(entry["note"] is None for entry in other["by_context"])
    assert any("2048 tokens: the rounds differ" in line for line in remarks([one, other]))


def test_models_take_turns_with_every_length(two: list[Path], machine: Machine) -> None:
    one, _ = measure_speed(two, threads=2, repeats=2)
    assert (one["prompt_tokens_per_s"], one["decode_tokens_per_s"]) == (pytest.approx(256), pytest.approx(64))
    assert one["time_to_first_token_s"] == pytest.approx(1) and one["repeats"] == 2 and not one["left_out"]
    assert [entry["context"] for entry in one["by_context"]] == [128, 512, 2048]
    assert [entry["time_to_first_token_s"] for entry in one["by_context"]] == pytest.approx([0.5, 2.0, 8.0])
    assert all(entry["repeats"] == 2 for entry in one["by_context"])
    assert one["busy"]["share"] == 1.0 and one["busy"]["sentence"] is None and one["reason"] is None
    assert one["energy"]["decode"]["cpu_seconds_per_token"] == pytest.approx(2 / 64, rel=0.1)
    measured = [name for name, read, _ in machine.asked if read in (256, 2048)][2:]
    assert measured == ["one.gguf", "two.gguf"] * 4
    assert machine.contexts == [512, 512, 2081, 2081]


def test_where_the_time_is_short_there_are_fewer_rounds_and_lengths_and_that_is_said(
    two: list[Path], machine: Machine
) -> None:
    one, other = measure_speed(two, threads=2, repeats=9, seconds=40)
    assert machine.clock <= 45
    assert 1 < one["repeats"] < 9 and one["repeats"] == other["repeats"]
    assert [entry["context"] for entry in one["by_context"]] == [128, 512]
    assert any("of 9 rounds" in line for line in one["left_out"]) and one["left_out"] == other["left_out"]
    assert any("2048 tokens" in line and "40 s" in line for line in one["left_out"])


def test_where_not_even_one_round_fits_it_is_shorter(two: list[Path], machine: Machine) -> None:
    machine.prompt_rate, machine.decode_rate = 2.0, 1.0
    one, _ = measure_speed(two, threads=2, seconds=120)
    assert machine.clock < 200
    assert one["prompt_tokens"] < 256 and one["decode_tokens"] < 64 and one["by_context"] == []
    assert one["decode_tokens_per_s"] == pytest.approx(1.0)
    assert any("tokens read" in line for line in one["left_out"])


def test_a_machine_that_is_far_too_busy_is_given_up_soon(two: list[Path], machine: Machine) -> None:
    machine.share = 0.1
    one, _ = measure_speed(two, threads=2)
    assert machine.clock < 120
    assert one["decode_tokens_per_s"] is None and one["prompt_tokens_per_s"] is None and one["by_context"] == []
    assert one["reason"] is not None and "10% of the processor time" in one["reason"]
    assert one["energy"]["decode"]["cpu_seconds_per_token"] is None and "too busy" in (one["energy"]["reason"] or "")
    assert one["read_bandwidth_bytes_per_s"] is None and one["bandwidth_limit_tokens_per_s"] is None
    assert one["resident_bytes"] == 100  # memory is what it is
    assert any("too busy" in line for line in one["left_out"])


def test_a_machine_that_is_somewhat_busy_is_marked(two: list[Path], machine: Machine) -> None:
    machine.share = 0.7
    one, _ = measure_speed(two, threads=2)
    assert one["decode_tokens_per_s"] == pytest.approx(0.7 * 64) and one["reason"] is None
    assert one["busy"]["sentence"] is not None and "70% of the processor time" in one["busy"]["sentence"]


def test_lengths_beyond_the_models_context_are_named(two: list[Path], machine: Machine) -> None:
    one, _ = measure_speed(two, threads=2, repeats=1, contexts=(64, 8192))
    assert [entry["context"] for entry in one["by_context"]] == [64]
    assert one["left_out"] == ["Prompts of 8192 tokens were left out: they are longer than the model's context."]


def test_without_lengths_the_engine_starts_once(two: list[Path], machine: Machine) -> None:
    one, _ = measure_speed(two, threads=2, repeats=1, contexts=())
    assert machine.contexts == [512, 512] and one["by_context"] == [] and not one["left_out"]


@pytest.mark.parametrize("seconds", [0, -1, float("nan"), 1e9])
def test_a_time_that_is_no_time_is_refused(two: list[Path], seconds: float) -> None:
    with pytest.raises(SmidgenError, match="^seconds is .*from 10 to"):
        measure_speed(two, seconds=seconds)
