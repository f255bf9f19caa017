"""Models of one tokenizer whose embeddings are padded differently, compared as files."""

from pathlib import Path

import pytest

from smidgen.measuring.measure import measure
from tests.padded_models import padded
from tests.tiny_models import write_gemma3, write_llama

TEXT = "the moon has risen and the golden stars are shining in the sky so clear and bright " * 12


@pytest.mark.parametrize("write", [write_gemma3, write_llama], ids=["tied head", "head of its own"])
@pytest.mark.parametrize("which", [(0, 1), (1, 0), (1, 2), (2, 1)])
def test_padding_does_not_count(write, which: tuple[int, int], tmp_path: Path) -> None:
    """All have the same weights but for rows of padding, which two of them would like best."""
    plain = write(tmp_path / "plain.gguf")
    models = [plain, *(padded(plain, tmp_path / f"{rows}.gguf", rows, 3.0) for rows in (320, 340))]
    (tmp_path / "text.txt").write_text(TEXT)
    one, other = (models[place] for place in which)
    card = measure(one, other, tmp_path / "text.txt", with_speed=False, with_answers=False)
    (figures,) = card["fidelity"]
    assert figures["kl_mean"] == pytest.approx(0, abs=1e-6) and figures["same_top1"] == 1
    assert (figures["dropped_mass"], figures["tokens_dropped"], figures["aligned"]) == (0, 0, 1)
    masses = figures["padding_mass_original"], figures["padding_mass_cut"]
    assert [mass > 0.05 for mass in masses] == [place > 0 for place in which]
    assert any("rows of padding" in note for note in card["notes"])
    assert "trimmed" not in card["verdict"]["sentence"]


def test_models_of_one_vocabulary_row_by_row_are_compared_over_all_of_it(tmp_path: Path) -> None:
    model = padded(write_gemma3(tmp_path / "plain.gguf"), tmp_path / "padded.gguf", 320)
    (tmp_path / "text.txt").write_text(TEXT)
    card = measure(model, model, tmp_path / "text.txt", with_speed=False, with_answers=False)
    (figures,) = card["fidelity"]
    assert (figures["kl_mean"], figures["padding_mass_original"], figures["padding_mass_cut"]) == (0, 0, 0)
    assert not any("padding" in note for note in card["notes"])
