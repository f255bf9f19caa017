"""From models and texts to a card, with toy models in the place of files."""

from pathlib import Path

import pytest

from smidgen.data.sources import TextSource
from smidgen.data.text import cut_into_windows, spread
from smidgen.errors import SmidgenError, Unsupported
from smidgen.measuring.run import Subject, held_out, measure_subjects
from tests.data.test_text import ByteTokenizer
from tests.measuring.test_card import model, speed
from tests.measuring.test_compare import TinyModel

TOKENS = [str(token) for token in range(258)]
TEXT = "".join(f"Sentence number {number} of a longer text. " for number in range(200))


def subject(seed: int, vocabulary: list[str] = TOKENS) -> Subject:
    return Subject(model(f"m{seed}", "Q4_0", 100_000), TinyModel(seed), vocabulary)


def test_a_card_from_two_models() -> None:
    card = measure_subjects(
        subject(0), subject(1), ByteTokenizer(),
        [TextSource.of("a", TEXT), TextSource.of("de", TEXT[:3000], None, "de")],
        tokens=1000, speed=lambda: [speed(1.0), speed(2.0)],
    )  # fmt: skip
    assert [entry["text"] for entry in card["fidelity"]] == ["a", "de"]
    assert 1000 <= card["fidelity"][0]["tokens"] <= 1022
    assert card["fidelity"][0]["kl_mean"] > 0 and list(card["languages"]) == ["de"]
    assert card["speed"]["decode_tokens_per_s"] == 2.0
    assert card["made"]["seed"] == 0


def test_a_failing_engine_leaves_the_rest_of_the_card() -> None:
    def fail() -> list[dict[str, object]]:
        raise SmidgenError("llama.cpp refuses it")

    card = measure_subjects(subject(0), subject(1), ByteTokenizer(), [TextSource.of("a", TEXT[:900])], speed=fail)
    assert card["speed"]["reason"] == "llama.cpp refuses it" and card["fidelity"][0]["tokens"] == 900


def test_other_tokens_under_the_same_ids_are_refused() -> None:
    with pytest.raises(Unsupported, match="different vocabularies"):
        measure_subjects(subject(0), subject(1, TOKENS[::-1]), ByteTokenizer(), [TextSource.of("a", TEXT)])


def test_windows_of_the_calibration_are_not_scored_while_others_are_left() -> None:
    windows = cut_into_windows(TEXT, ByteTokenizer())
    seen = spread(windows, 4000, seed=0)
    left = held_out(windows, seen.full())
    assert len(left) == len(windows) - len(seen.full())
    assert not {tuple(row) for row in left.rows()} & {tuple(row) for row in seen.full().tolist()}
    assert held_out(seen.take([0]), seen.full()).rows() == seen.take([0]).rows()

    card = measure_subjects(
        subject(0), subject(1), ByteTokenizer(), [TextSource.of("a", TEXT)], tokens=2000, calibrated_on=seen.full()
    )
    assert card["fidelity"][0]["seen_in_calibration"] < 1
    all_seen = measure_subjects(
        subject(0), subject(1), ByteTokenizer(), [TextSource.of("a", TEXT)], calibrated_on=windows.ids
    )
    assert all_seen["fidelity"][0]["seen_in_calibration"] == 1.0


def test_the_real_model_against_itself_costs_nothing(smollm_path: Path, tmp_path: Path) -> None:
    from smidgen.measuring.measure import measure

    sample = tmp_path / "sample.txt"
    sample.write_text(
        "The river runs past the old mill, where Müller's daughter — 7 years old — feeds the ducks.\n" * 3
    )
    card = measure(smollm_path, smollm_path, [f"en={sample}"], with_speed=False, output=tmp_path / "card.json")
    entry = card["fidelity"][0]
    assert entry["kl_mean"] == 0.0 and entry["same_top1"] == 1.0
    assert entry["bits_per_byte_original"] == entry["bits_per_byte_cut"]
    assert 0.1 < entry["bits_per_byte_cut"] < 3
    assert card["original"]["bytes"] == smollm_path.stat().st_size
    assert (tmp_path / "card.html").is_file()
