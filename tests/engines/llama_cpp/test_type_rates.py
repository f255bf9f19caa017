"""Seconds a byte of each type: measured once for a machine, an engine and a number of threads, only where asked."""

import json
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


@pytest.fixture
def measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What is measured, type by type, on a machine with such rates."""
    asked: list[str] = []

    def write(path: Path, kind: BlockType, width: int) -> tuple[BlockType, int]:
        return kind, width

    def timed(model: tuple[BlockType, int], threads: int) -> type_rates._Timed:
        kind, width = model
        nbytes = 1000 * width
        if width > type_rates._MULTIPLE:
            asked.append(kind.name)
        return type_rates._Timed(nbytes, BESIDE + RATES[kind] * nbytes, calm=True)

    monkeypatch.setenv("SMIDGEN_HOME", str(tmp_path))
    monkeypatch.setattr(type_rates, "_write", write)
    monkeypatch.setattr(type_rates, "_timed", timed)
    return asked


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


def test_what_was_measured_on_a_busy_machine_is_not_kept(measured: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(type_rates, "_timed", lambda model, threads: type_rates._Timed(model[1], model[1] / 1e9, False))
    assert type_rates.type_rates([F16], 1) == {"F16": 1e-9}
    assert not rates_folder().exists()


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
