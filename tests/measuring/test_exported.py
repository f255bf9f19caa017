"""Models in folders of other frameworks, measured: a pretended framework, and the real ones where they are named."""

import json
from pathlib import Path
from typing import Any

import pytest

from smidgen.errors import SmidgenError, Unsupported
from smidgen.exporting.export import Format, export
from smidgen.formats.exported import Runtime, describe_exported
from smidgen.measuring.frontier.cards import read_card
from smidgen.measuring.measure import measure
from smidgen.numerics.block_types import Q8_0
from tests.engines.frameworks.frameworks import as_mlx, needs, pretend
from tests.exporting.quantized_models import write_quantized
from tests.family_models import save_folder

TEXT = "The river ran on, and nobody asked it why. " * 12
QUICK: dict[str, Any] = {"tokens": 128, "with_speed": False, "with_answers": False}


@pytest.fixture
def folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, Path]:
    """A tiny model, and the same as a folder for mlx-lm; and a text to measure on."""
    monkeypatch.setenv("SMIDGEN_HOME", str(tmp_path / "home"))
    pretend(monkeypatch)
    original, exported = tmp_path / "original", tmp_path / "exported"
    for folder in (original, exported):
        folder.mkdir()
        save_folder("gemma2", folder)
    (tmp_path / "text.txt").write_text(TEXT)
    return original, as_mlx(exported, original)


def test_the_same_weights_differ_by_arithmetic_alone(folders: tuple[Path, Path], tmp_path: Path) -> None:
    original, exported = folders
    place = exported / "card.json"
    card = measure(*folders, tmp_path / "text.txt", **QUICK | {"with_speed": True}, output=place)
    (text,) = card["fidelity"]
    assert text["kl_mean"] < 1e-6 and text["same_top1"] > 0.99
    assert text["bits_per_byte_cut"] == pytest.approx(text["bits_per_byte_original"], rel=1e-5)
    assert card["cut"]["runtime"].keys() == {"numpy", "no-such-package"}
    assert card["cut"]["parameters"] == card["original"]["parameters"] and card["cut"]["tensors"] == []
    assert (
        card["speed"]["decode_tokens_per_s"] is None
        and "does not measure how fast mlx-lm is" in card["speed"]["reason"]
    )
    assert card["kv"]["type"] is None and card["kv"]["reason"] and card["parts"] == {}
    assert any(note.startswith("The cut was computed by numpy") for note in card["notes"])
    page = place.with_suffix(".html").read_text()
    assert "packs weights in its own way" in page and str(tmp_path) not in page
    assert json.loads(place.read_text())["cut"] == card["cut"] and read_card(place).parameters
    again = measure(*folders, tmp_path / "text.txt", **QUICK)
    assert again["cut"] == card["cut"], "the card in the folder is no part of the model"


def test_other_predictions_are_seen_and_answers_come_from_there(
    folders: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PRETEND", "noise")
    card = measure(*folders, tmp_path / "text.txt", **QUICK)
    assert card["fidelity"][0]["kl_mean"] > 1e-4


def test_what_is_refused(folders: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    original, exported = folders
    with pytest.raises(Unsupported, match="--kv q8_0 is for llama.cpp"):
        measure(original, exported, tmp_path / "text.txt", kv="q8_0", **QUICK)
    with pytest.raises(Unsupported, match="written for another program"):
        measure(exported, original, tmp_path / "text.txt", **QUICK)
    monkeypatch.setenv("PRETEND", "refuse")
    with pytest.raises(SmidgenError, match="mlx-lm cannot run .*weights of 3 bits"):
        measure(original, exported, tmp_path / "text.txt", **QUICK)


def test_other_tokens_are_refused_before_anything_is_started(folders: tuple[Path, Path], tmp_path: Path) -> None:
    original, exported = folders
    path = exported / "tokenizer.json"
    tokenizer = json.loads(path.read_text())
    vocabulary = tokenizer["model"]["vocab"]
    first, second = list(vocabulary)[-2:]
    vocabulary[first], vocabulary[second] = vocabulary[second], vocabulary[first]
    path.write_text(json.dumps(tokenizer))
    (exported / "original.txt").unlink()  # with which it could not start
    with pytest.raises(Unsupported, match="have different vocabularies"):
        measure(original, exported, tmp_path / "text.txt", **QUICK)


@pytest.mark.parametrize(
    ("to", "runtime"),
    [("mlx", "mlx"), ("vllm", "transformers"), ("onnx", "onnx"), ("openvino", "openvino"), ("litert", "litert")],
)
def test_frameworks_themselves(to: Format, runtime: Runtime, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What they load predicts what the file does, in one process after the other, as people call it."""
    needs(runtime)
    monkeypatch.setenv("SMIDGEN_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    (tmp_path / "text.txt").write_text(TEXT)
    original = write_quantized("llama3", tmp_path, {"ffn_up.weight": Q8_0})
    exported = export(original, to, tmp_path / "exported")
    card = measure(original, exported, tmp_path / "text.txt", **QUICK)
    (text,) = card["fidelity"]
    assert text["kl_mean"] < 1e-5 and text["same_top1"] > 0.98
    assert describe_exported(exported).runtime == runtime and card["cut"]["runtime"]
