"""A README.md follows the card beside it, or says that it does not."""

import shutil
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import ModelCard

from smidgen.measuring.measure import measure
from smidgen.owned import claim, is_ours, settle
from smidgen.publishing.measured import BEGIN, END, renew_readme
from tests.measuring.test_card import full_card
from tests.publishing.test_model_card import write
from tests.tiny_models import write_llama


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """What a cut leaves."""
    folder = write(tmp_path, full_card()).parent
    claim(folder, ["README.md"])
    settle(folder)
    return folder


def test_measuring_again_renews_it(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SMIDGEN_HOME", str(tmp_path / "home"))
    model = write_llama(tmp_path / "tiny.gguf")
    shutil.copyfile(model, folder / "model.gguf")
    text = tmp_path / "mine.txt"
    text.write_text("abcdefghij klmnop qrstuvw xyz. " * 20)
    card = measure(model, folder, text, tokens=64, with_speed=False, with_answers=False, output=folder / "card.json")
    said = (folder / "README.md").read_text()
    assert "| mine.txt |" in said and card["verdict"]["sentence"].partition(";")[0] in said and "| de |" not in said
    assert is_ours(folder, "README.md") and is_ours(folder, "card.json")


def new_card() -> dict[str, Any]:
    card = full_card()
    card["fidelity"][0] |= {"kl_mean": 0.4321, "bits_per_byte_cut": 1.5}
    return card


def test_figures_and_results_are_renewed_and_nothing_else(folder: Path) -> None:
    readme = folder / "README.md"
    before = readme.read_text()
    assert renew_readme(new_card(), folder / "card.json", folder / "model.gguf") == ["README.md"]
    after = readme.read_text()
    assert "0.4321" in after and "0.4321" not in before
    data: Any = ModelCard.load(readme).data
    assert data.eval_results is not None and data.eval_results[0].metric_value == 1.5
    assert after.partition(END)[2] == before.partition(END)[2]
    assert after.count("model-index") == 1 and after.count(BEGIN) == after.count(END) == 1
    (folder / "README.md").write_text(before)
    assert renew_readme(full_card(), folder / "card.json", folder / "model.gguf") == ["README.md"]
    assert readme.read_text() == before


def test_a_readme_without_figures_gets_them(tmp_path: Path) -> None:
    folder = write(tmp_path, None).parent
    claim(folder, ["README.md"])
    settle(folder)
    assert renew_readme(new_card(), folder / "card.json", folder / "model.gguf") == ["README.md"]
    text = (folder / "README.md").read_text()
    assert "model-index" in text.partition("\n---\n")[0] and "Not measured." not in text


@pytest.mark.parametrize("why", ["changed since", "another model", "no marked place"])
def test_one_that_cannot_follow_stays_and_that_is_said(
    why: str, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    readme, model = folder / "README.md", folder / "model.gguf"
    if why == "another model":
        model = tmp_path / "other.gguf"
        model.touch()
    else:
        text = readme.read_text()
        readme.write_text(text.replace(BEGIN, "") if why == "no marked place" else text + "Mine.")
    if why == "no marked place":
        claim(folder, ["README.md"])
        settle(folder)
        assert is_ours(folder, "README.md")
    before = readme.read_text()
    assert renew_readme(new_card(), folder / "card.json", model) == []
    said = capsys.readouterr().err
    assert "still has the figures of an earlier card" in said and why in said and readme.read_text() == before


def test_a_readme_of_something_else_is_no_concern(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "README.md").write_text("## What it cost\n\nNothing.")
    assert renew_readme(new_card(), tmp_path / "card.json", tmp_path / "model.gguf") == []
    assert renew_readme(new_card(), tmp_path / "nowhere" / "card.json", tmp_path / "model.gguf") == []
    assert capsys.readouterr().err == ""
