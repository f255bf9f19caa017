"""The words of a card: a trim is not hidden, and what flatters is said."""

from dataclasses import replace
from typing import Any

import pytest

from smidgen.measuring.card import build_card
from smidgen.measuring.facts import Fidelity, Making
from smidgen.measuring.report import render
from smidgen.measuring.tasks.paired import compare_items
from smidgen.measuring.verdict import nats_lost, verdict
from tests.measuring.test_card import model, speed, text
from tests.measuring.test_report import Page


def trimmed(name: str, kl: float, bits: float) -> Fidelity:
    """A text for which the original needs 0.8 bits a byte, in tokens of 4 bytes."""
    figures = dict(text(name, kl).figures) | {"bits_per_byte_original": 0.8, "bits_per_byte_cut": bits}
    tokens = {"tokens_per_byte_original": 0.25, "tokens_per_byte_cut": 0.4, "tokens_dropped": 0.3}
    return Fidelity(name, "cd" * 32, figures | tokens | {"dropped_mass": 0.2, "aligned": 0.6})


def card_of(*texts: Fidelity, **more: Any) -> dict[str, Any]:
    return build_card(model("big", "Q8_0", 200_000), model("small", "Q8_0", 110_000), texts, **more)


def test_the_verdict_of_a_trimmed_model_goes_by_bits_per_byte() -> None:
    """KL among the tokens that are left is nearly nothing here, and the text takes a fifth more bits."""
    card = card_of(trimmed("near", 0.03, 0.81), trimmed("far", 0.0004, 0.96))
    assert nats_lost(card["fidelity"][1]) == pytest.approx(0.6931 * 0.16 * 4, rel=1e-3)
    sentence = (
        "small: 110.0 kB instead of the 200.0 of big; predicts noticeably differently from the original, with a "
        "trimmed vocabulary (20.0% more bits for each byte of text)."
    )
    assert card["verdict"] == {"sentence": sentence, "text": "far", "by": "bits_per_byte"}
    page = render(card)
    words = " ".join(Page(page).words)
    assert "20.0% more bits for each byte of text" in words and "0.000400" in words
    figures = words[: words.index("How faithful it is")]
    assert figures.index("Bits per byte") < figures.index("KL divergence") and "what the others cost" in figures


def test_a_trimmed_model_that_learned_the_text_is_not_called_the_same() -> None:
    """Healed on such text it needs fewer bits than the original, and predicts otherwise all the same."""
    assert "predicts noticeably differently" in verdict(card_of(trimmed("a", 0.3, 0.7)))
    assert "12.5% fewer bits" in verdict(card_of(trimmed("a", 0.3, 0.7)))
    assert "as many bits" in verdict(card_of(trimmed("a", 0.0, 0.8)))


def test_a_whole_vocabulary_goes_by_kl() -> None:
    card = card_of(text("a", 0.02), text("b", 0.09))
    assert (card["verdict"]["by"], card["verdict"]["text"]) == ("kl_mean", "b")
    assert "predicts much like the original" in verdict(card)
    assert card_of()["verdict"]["text"] is None


def test_text_by_the_original_flatters_and_the_card_says_so() -> None:
    written = replace(text("self-written (evaluation)", 0.02), self_written=True)
    used = {
        "text": "self-written (calibration)",
        "self_written": True,
        "tokens": 9,
        "available": 10,
        "too_short": False,
    }
    for calibration, said in (([], "is by the original itself. A text"), ([used], "two texts of one author. A text")):
        (note,) = card_of(written, making=Making(calibration=calibration))["notes"]
        assert f"{said} of another kind may lose more." in note
        assert note in " ".join(Page(render(card_of(written, making=Making(calibration=calibration)))).words)
    assert card_of(text("prose", 0.02), making=Making(calibration=[used]))["notes"] == []


def scored(right: int, lost: int, gained: int, items: int, chance: float | None = None) -> dict[str, Any]:
    """Of `items`, the original had `right`, of which the cut lost so many, and gained others."""
    cut = [False] * lost + [True] * (right - lost + gained) + [False] * (items - right - gained)
    return {**compare_items([True] * right + [False] * (items - right), cut, chance)}


def test_the_summary_tells_of_tasks_with_their_interval_or_why_they_cannot_tell() -> None:
    card = card_of(text("prose", 0.02))
    card["tasks"] = {
        "mmlu": scored(300, 12, 6, 1000, 0.25), "mbpp": scored(10, 1, 0, 20), "arc": scored(50, 0, 0, 200, 0.25),
        "gone": {"reason": "the engine ended"},
    }  # fmt: skip
    said = verdict(card)
    assert "MMLU −0.6 ± 0.9" in said
    assert "MBPP cannot tell (20 items are too few)" in said and "arc cannot tell (original at chance)" in said
    assert "gone" not in said
    card["tasks"] = {f"task{number}": scored(50, 0, 0, 100) for number in range(7)}
    assert "; 3 more tasks." in verdict(card)


def test_the_summary_does_not_hide_that_the_cut_refuses_less() -> None:
    card = card_of(text("prose", 0.02))
    card["safety"] = {"refusals": {"refused_unsafe": scored(90, 12, 0, 100), "refused_safe": scored(5, 0, 1, 100)}}
    assert "refuses fewer harmful prompts (−12.0 ± " in verdict(card) and "harmless" not in verdict(card)


def test_the_summary_names_the_worst_of_several_languages() -> None:
    one, two = text("ja", 0.4, "ja"), text("de", 0.1, "de")
    assert "worst language Japanese" in verdict(card_of(one, two))
    assert "worst language" not in verdict(card_of(one))
    other = replace(one, asked=False)
    assert "worst language Japanese, which was not asked for" in verdict(card_of(other, two))
    assert "worst language German." in verdict(card_of(other, two, text("fr", 0.02, "fr")))


def test_the_summary_leaves_out_a_speed_from_a_busy_machine() -> None:
    card = card_of(text("prose", 0.02), speed=[speed(40.0), speed(60.0)])
    assert "writes 1.5× as fast" in verdict(card)
    card["speed"]["busy"] = {"share": 0.97, "sentence": None}
    assert "writes 1.5× as fast" in verdict(card)
    card["speed"]["original"]["busy"] = {"share": 0.7, "sentence": "The machine was busy."}
    assert "writes" not in verdict(card)
