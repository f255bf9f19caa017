"""Seconds a byte of each type: measured once for a machine, an engine and a number of threads, only where asked."""

import json
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from smidgen.engines.llama_cpp import type_rates
from smidgen.engines.llama_cpp.loading import Loading
from smidgen.engines.llama_cpp.timed import TimedModel, read_header
from smidgen.errors import SmidgenError
from smidgen.formats.hub.home import rates_folder
from smidgen.numerics.block_types import F16, IQ2_XXS, Q4_K, Q8_0, BlockType

RATES = {F16: 4e-11, Q8_0: 5e-11, Q4_K: 7e-11}
BESIDE = 0.002  # seconds of a token that no weights take
DISTURBED = 1e-5  # seconds of a token while other programs are in the way


@dataclass
class Machine:
    """One whose rates are known.  asked: what was measured, type by type.

    busy: what other programs disturb, which then takes longer.  stuck: what they do not let through at all.
    """

    asked: list[str] = field(default_factory=list)
    busy: set[str] = field(default_factory=set)
    stuck: set[str] = field(default_factory=set)

    def time(self, model: tuple[BlockType, int], threads: int) -> type_rates._Timed:
        kind, width = model
        name = kind.name if width > type_rates._MULTIPLE else "empty"
        if name in self.stuck:
            raise SmidgenError(f"the machine was too busy for {name}")
        if name != "empty":
            self.asked.append(name)
        seconds = BESIDE + RATES[kind] * 1000 * width + DISTURBED * (name in self.busy)
        return type_rates._Timed(1000 * width, seconds, calm=name not in self.busy)


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    machine = Machine()
    monkeypatch.setenv("SMIDGEN_HOME", str(tmp_path))
    monkeypatch.setattr(type_rates, "_write", lambda path, kind, width: (kind, width))
    monkeypatch.setattr(type_rates, "_timed", machine.time)
    return machine


@pytest.fixture
def measured(machine: Machine) -> list[str]:
    """What is measured, type by type."""
    return machine.asked


def kept() -> dict[str, float]:
    """What is in the cache folder."""
    return {name: rate for file in rates_folder().glob("*") for name, rate in
            json.loads(file.read_text())["seconds_per_byte"].items()}  # fmt: skip


def test_what_a_token_takes_beside_the_weights_is_not_theirs(measured: list[str]) -> None:
    found = type_rates.type_rates([F16], 1)
    assert found == {"F16": pytest.approx(RATES[F16], rel=1e-3)}


def test_what_is_known_is_not_measured_again(measured: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    type_rates.type_rates([F16, Q8_0], 1)
    assert "Q8_0 50 ms" in capsys.readouterr().err
    found = type_rates.type_rates([Q8_0, F16, Q4_K], 1)
    assert measured == ["F16", "Q8_0", "Q4_K"] and list(found) == ["F16", "Q8_0", "Q4_K"]
    type_rates.type_rates([Q8_0], 2)
    assert measured[3:] == ["Q8_0"]


def test_another_engine_or_processor_is_measured_anew(measured: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    type_rates.type_rates([F16], 1)
    monkeypatch.setattr(type_rates, "engine_version", lambda: "llama.cpp of tomorrow")
    type_rates.type_rates([F16], 1)
    monkeypatch.setattr(type_rates, "machine_name", lambda: "a laptop")
    type_rates.type_rates([F16], 1)
    assert measured == ["F16"] * 3 and len(list(rates_folder().iterdir())) == 3


def test_only_what_was_disturbed_is_measured_again(machine: Machine, capsys: pytest.CaptureFixture[str]) -> None:
    machine.busy = {"Q8_0"}
    found = type_rates.type_rates([F16, Q8_0, Q4_K], 1)
    assert found["Q8_0"] > 1.01 * RATES[Q8_0] and kept().keys() == {"F16", "Q4_K"}
    assert "all but Q8_0 is kept for other cuts, since other programs were in the way" in capsys.readouterr().err
    machine.busy = set()
    again = type_rates.type_rates([F16, Q8_0, Q4_K], 1)
    assert machine.asked == ["F16", "Q8_0", "Q4_K", "Q8_0"]
    assert again == {"F16": found["F16"], "Q8_0": pytest.approx(RATES[Q8_0], rel=1e-3), "Q4_K": found["Q4_K"]}
    assert kept() == again


def test_what_stands_in_every_figure_is_timed_until_nothing_is_in_its_way(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The model without weights; the type before it was timed undisturbed, and is kept."""
    machine.busy, times = {"empty"}, []

    def timed(model: tuple[BlockType, int], threads: int) -> type_rates._Timed:
        times.append(model[0].name if model[1] > type_rates._MULTIPLE else "empty")
        if times.count("empty") == 3:
            machine.busy = set()
        return machine.time(model, threads)

    monkeypatch.setattr(type_rates, "_timed", timed)
    found = type_rates.type_rates([F16, Q8_0, Q4_K], 1)
    assert times == ["empty", "F16", "empty", "Q8_0", "empty", "Q4_K"]
    assert found == {kind.name: pytest.approx(rate, rel=1e-3) for kind, rate in RATES.items()} and kept() == found


def test_on_a_machine_that_is_always_busy_nothing_is_kept(machine: Machine, capsys: pytest.CaptureFixture[str]) -> None:
    machine.busy = {"empty"}
    assert type_rates.type_rates([F16], 1)["F16"] > 0
    assert not rates_folder().exists() and "none of it is kept" in capsys.readouterr().err


def test_what_was_measured_before_the_machine_became_too_busy_is_kept(machine: Machine) -> None:
    machine.stuck = {"Q4_K"}
    with pytest.raises(SmidgenError, match="too busy for Q4_K"):
        type_rates.type_rates([F16, Q8_0, Q4_K], 1)
    assert kept().keys() == {"F16", "Q8_0"}
    machine.stuck = set()
    type_rates.type_rates([F16, Q8_0, Q4_K], 1)
    assert machine.asked == ["F16", "Q8_0", "Q4_K"]


def test_a_damaged_file_of_rates_is_as_none(measured: list[str]) -> None:
    type_rates.type_rates([F16], 1)
    (file,) = rates_folder().iterdir()
    whole = json.loads(file.read_text())
    for text in (
        "",
        "[]",
        "{",
        json.dumps(whole | {"seconds_per_byte": {"F16": -1}}),
        json.dumps(whole | {"threads": 9}),
    ):
        file.write_text(text)
        type_rates.type_rates([F16], 1)
    assert measured == ["F16"] * 6


def test_a_difference_below_nothing_is_no_rate(measured: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(type_rates, "_timed", lambda model, threads: type_rates._Timed(model[1], 1.0, True))
    with pytest.raises(SmidgenError, match="how quick F16 is here cannot be told"):
        type_rates.type_rates([F16], 1)


@pytest.mark.parametrize("kind", [F16, IQ2_XXS, Q4_K], ids=lambda kind: kind.name)
def test_the_engine_runs_what_is_measured(kind: BlockType, tmp_path: Path) -> None:
    path = type_rates._write(tmp_path / "one.gguf", kind, 512)
    with TimedModel(path, read_header(path), 1, type_rates._CONTEXT, Loading()) as model:
        assert model.time(1, 2).written == 2
