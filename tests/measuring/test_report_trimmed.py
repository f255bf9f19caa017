"""What the card and the page say of a trimmed vocabulary, and of a file's history."""

import json
from typing import Any

import pytest

from smidgen.measuring.card import bounded_history, build_card
from smidgen.measuring.facts import Fidelity, Making
from smidgen.measuring.report import render
from tests.measuring.test_card import full_card, model, text
from tests.measuring.test_report import Page, bare_card


def trimmed(name: str, kl: float, language: str | None, asked: bool = True) -> Fidelity:
    tokens = {"tokens_per_byte_original": 0.231, "tokens_per_byte_cut": 0.347, "tokens_dropped": 0.2}
    figures = dict(text(name, kl).figures) | {"dropped_mass": 0.0432, "aligned": 0.987} | tokens
    figures["bits_per_byte_cut"] = 0.9 + 1 / (1 + kl)  # not in the order of KL
    return Fidelity(name, "cd" * 32, figures, language, None, asked)


def trimmed_card(**changes: Any) -> dict[str, Any]:
    texts = [trimmed("prose", 0.06, None), trimmed("de (self-written)", 0.05, "de")]
    texts.append(trimmed("th (self-written)", 0.02, "th", asked=False))
    return build_card(model("big", "Q8_0", 200_000), model("small", "Q4_0", 110_000), texts, **changes)


def test_languages_come_worst_first_and_say_whether_they_were_asked_for() -> None:
    card = trimmed_card()
    assert [(code, entry["asked"]) for code, entry in card["languages"].items()] == [("th", False), ("de", True)]
    assert [entry["text"] for entry in card["fidelity"]] == ["prose", "de (self-written)"]
    json.dumps(card, allow_nan=False)


def test_the_page_shows_what_became_of_each_language() -> None:
    parsed = Page(render(trimmed_card()))
    assert parsed.pictures["trimmed"] == 2
    words = " ".join(parsed.words)
    for said in ("What the trimmed vocabulary costs", "0.231 → 0.347", "4.3%", "not asked", "th*", "98.7%", "prose"):
        assert said in words, said
    assert "over all tokens that the cut has" in words


def test_a_whole_vocabulary_is_not_talked_about() -> None:
    assert "trimmed" not in render(full_card())
    assert "History of the file" not in render(full_card())


HOSTILE = "<script>alert(1)</script>\n{{7*7}}"


def test_a_history_from_a_stranger_is_bounded_and_escaped() -> None:
    steps: list[dict[str, Any]] = [
        {"step": "vocabulary", "summary": "262,144 → 65,536 tokens", "kept": list(range(10_000)), "x": float("nan")},
        {"step": HOSTILE * 1000, HOSTILE * 100: {"a": [1, 2]}, "huge": 10**400, "inf": float("inf"), "ok": True},
        *({"step": 1.5} for _ in range(1000)),
    ]
    assert bare_card(making=Making(history=steps[:1]))["history"] != steps[:1]
    card = bare_card(making=Making(history=steps))
    assert len(json.dumps(card["history"], allow_nan=False)) < 20_000
    assert card["history"][0]["summary"] == "262,144 → 65,536 tokens" and card["history"][1]["ok"] is True
    page = render(card)
    assert HOSTILE not in page and "<script" not in page and "262,144 → 65,536 tokens" in page
    Page(page)
    card["history"] = steps  # as read from a card.json by someone else
    assert "<script" not in render(card)


@pytest.mark.parametrize("value", [None, 1, 0.5, "x", False, [1, {"kept": [2, 3]}]])
def test_a_short_history_stays_as_it_is(value: object) -> None:
    assert bounded_history([{"step": value}]) == [{"step": value}]
