"""From models and texts to a card, with toy models in the place of files."""

from dataclasses import replace
from pathlib import Path

import pytest
from torch import Tensor

from smidgen.data.sources import TextSource
from smidgen.data.text import cut_into_windows, spread
from smidgen.errors import SmidgenError, Unsupported
from smidgen.measuring.report import render
from smidgen.measuring.run import Keeping, Subject, Texts, held_out, measure_subjects
from smidgen.progress import Task
from smidgen.publishing.measured import measured_lines
from tests.data.test_text import ByteTokenizer
from tests.measuring.test_card import model, speed
from tests.measuring.test_compare import TinyModel
from tests.measuring.test_pairing import GreedyTokenizer

TOKENS = [str(token) for token in range(258)]
TEXT = "".join(f"Sentence number {number} of a longer text. " for number in range(200))
SOURCES, SHORT = [TextSource.of("a", TEXT)], [TextSource.of("a", TEXT[:900])]


def subject(seed: int, vocabulary: list[str] = TOKENS, context: int = 4096) -> Subject:
    scorer = TinyModel(seed, len(vocabulary), context=context)
    return Subject(model(f"m{seed}", "Q4_0", 100_000), scorer, vocabulary)


def test_a_card_from_two_models() -> None:
    card = measure_subjects(
        subject(0), subject(1), ByteTokenizer(),
        Texts([TextSource.of("a", TEXT), TextSource.of("de", TEXT[:3000], None, "de")], tokens=1000),
        speed=lambda: [speed(1.0), speed(2.0)],
    )  # fmt: skip
    assert [entry["text"] for entry in card["fidelity"]] == ["a", "de"]
    assert 1000 <= card["fidelity"][0]["tokens"] <= 1022
    assert card["fidelity"][0]["kl_mean"] > 0 and list(card["languages"]) == ["de"]
    assert card["speed"]["decode_tokens_per_s"] == 2.0
    assert card["made"]["seed"] == 0


class Widest:
    """A model that notes how long the longest text was that it was given."""

    def __init__(self, of: Subject) -> None:
        self._of, self.longest, self.config = of.scorer, 0, of.scorer.config
        self.subject = replace(of, scorer=self)

    def layer_operations(self, length: int) -> list[float]:
        return self._of.layer_operations(length)

    def hidden_states(self, windows: Tensor, progress: Task | None = None) -> Tensor:
        self.longest = max(self.longest, windows.shape[1])
        return self._of.hidden_states(windows, progress)

    def head_rows(self, start: int, stop: int) -> Tensor:
        return self._of.head_rows(start, stop)


def test_no_model_is_given_more_than_it_knows() -> None:
    before, after = Widest(subject(0, context=64)), Widest(subject(1, context=512))
    card = measure_subjects(before.subject, after.subject, ByteTokenizer(), Texts(SOURCES, tokens=500))
    assert (before.longest, after.longest) == (64, 64) and card["made"]["tokens_per_window"] == 64


def test_a_cut_that_spells_in_more_tokens_is_not_given_more_than_it_knows_either() -> None:
    """What the original reads as 63 tokens of two letters, the cut has to spell letter by letter."""
    pairs = sorted({TEXT[at : at + 2] for at in range(len(TEXT) - 1)})
    larger, smaller = GreedyTokenizer(pairs), GreedyTokenizer([])
    texts = [[repr(tokenizer.piece(token)) for token in range(len(tokenizer))] for tokenizer in (larger, smaller)]
    before, after = (Widest(subject(place, words, context=64)) for place, words in enumerate(texts))
    card = measure_subjects(
        before.subject, after.subject, larger, Texts(SOURCES, tokens=500), cut_tokenizer=lambda: smaller
    )
    assert before.longest <= 64 and 32 < after.longest <= 64
    assert card["fidelity"][0]["bytes"] >= 2 * 500


def test_a_rounded_cache_is_on_the_card_with_what_it_saves_and_costs() -> None:
    """The cut's scorer rounds already; without rounding it would be the original itself."""
    keeping = Keeping("q8_0", 34, 64, lambda: subject(0).scorer)
    card = measure_subjects(subject(0), subject(1), ByteTokenizer(), Texts(SHORT), keeping=keeping)
    kv = card["kv"]
    assert (kv["type"], kv["bytes_per_token"], kv["bytes_per_token_f16"]) == ("q8_0", 34, 64)
    assert kv["kl_mean"] == card["fidelity"][0]["kl_mean"] == kv["kl_difference"] > 0 == kv["kl_mean_f16"]
    assert (kv["text"], kv["tokens"], kv["reason"]) == ("a", card["fidelity"][0]["tokens"], None)
    assert "kept as q8_0: 34 bytes for each token of context instead of 64 bytes" in card["notes"][0]
    assert "kept as q8_0" in render(card)
    assert r"kept as q8\_0" in "\n".join(measured_lines(card))


def test_a_cache_as_usual_is_on_the_card_without_a_cost() -> None:
    for keeping, kind in ((Keeping("f16", 64, 64), "f16"), (None, None)):
        card = measure_subjects(subject(0), subject(1), ByteTokenizer(), Texts(SHORT), keeping=keeping)
        assert card["kv"]["type"] == kind and card["kv"]["kl_difference"] is None and card["kv"]["reason"]
        assert not any("kept as" in note for note in card["notes"])


def test_a_failing_engine_leaves_the_rest_of_the_card() -> None:
    def fail() -> list[dict[str, object]]:
        raise SmidgenError("llama.cpp refuses it")

    card = measure_subjects(subject(0), subject(1), ByteTokenizer(), Texts(SHORT), speed=fail)
    assert card["speed"]["reason"] == "llama.cpp refuses it" and card["fidelity"][0]["tokens"] == 900


def test_other_tokens_under_the_same_ids_are_refused() -> None:
    with pytest.raises(Unsupported, match="different vocabularies"):
        measure_subjects(subject(0), subject(1, TOKENS[::-1]), ByteTokenizer(), Texts(SOURCES))


def test_windows_of_the_calibration_are_not_scored_while_others_are_left() -> None:
    windows = cut_into_windows(TEXT, ByteTokenizer())
    seen = spread(windows, 4000, seed=0)
    left = held_out(windows, seen.ids)
    assert len(left) == len(windows) - len(seen)
    assert not {tuple(row) for row in left.rows()} & {tuple(row) for row in seen.rows()}
    assert held_out(seen.take([0]), seen.ids).rows() == seen.take([0]).rows()

    card = measure_subjects(
        subject(0), subject(1), ByteTokenizer(), Texts(SOURCES, tokens=2000, calibrated_on=seen.ids)
    )
    assert card["fidelity"][0]["seen_in_calibration"] < 1
    all_seen = measure_subjects(subject(0), subject(1), ByteTokenizer(), Texts(SOURCES, calibrated_on=windows.ids))
    assert all_seen["fidelity"][0]["seen_in_calibration"] == 1.0


def test_the_real_model_against_itself_costs_nothing(smollm_path: Path, tmp_path: Path) -> None:
    from smidgen.measuring.measure import measure

    sample = tmp_path / "sample.txt"
    sample.write_text(
        "The river runs past the old mill, where Müller's daughter — 7 years old — feeds the ducks.\n" * 3
    )
    card = measure(
        smollm_path, smollm_path, [f"en={sample}"], with_speed=False, with_answers=False,
        output=tmp_path / "card.json",
    )  # fmt: skip
    entry = card["fidelity"][0]
    assert entry["kl_mean"] == 0.0 and entry["same_top1"] == 1.0
    assert entry["bits_per_byte_original"] == entry["bits_per_byte_cut"]
    assert 0.1 < entry["bits_per_byte_cut"] < 3
    assert card["original"]["bytes"] == smollm_path.stat().st_size
    assert (tmp_path / "card.html").is_file()
