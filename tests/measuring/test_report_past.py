"""Cards of earlier versions are still read: what they do not have is said to be not measured.

cards/before_parts.json was written by smidgen on 29 November 2026: depth, healing and quantization of a tiny model.
"""

import json
from pathlib import Path
from typing import Any

import pytest

from smidgen.measuring.card import in_words
from smidgen.measuring.report import render
from smidgen.measuring.verdict import verdict
from tests.measuring.test_report import SECTIONS, Page
from tests.measuring.whole_card import whole_card

PAST = Path(__file__).parent / "cards"


@pytest.mark.parametrize("path", PAST.glob("*.json"), ids=lambda path: path.stem)
def test_a_card_of_the_past_has_its_page(path: Path) -> None:
    card = json.loads(path.read_text("utf-8"))
    page = Page(render(card))
    assert {*SECTIONS} <= page.sections.keys()
    assert "Part by part: not measured" in page.sections["size"]
    assert "this card is older than that part" in page.sections["answers"]
    assert "(KL" not in verdict(card) and "instead of the" in verdict(card)
    assert page.pictures["fidelity"] == 0 and page.pictures["healing"] == 2


LATER = (
    "parts", "answers", "noise_floor", "verdict", "notes", "calibration", "history",
    "fidelity.kl_histogram", "fidelity.by_sureness", "fidelity.kl_median", "fidelity.kl_standard_error",
)  # fmt: skip


@pytest.mark.parametrize("key", LATER)
def test_each_key_that_came_later_may_be_absent(key: str) -> None:
    card = whole_card()
    part, _, name = key.rpartition(".")
    for owner in (*card["fidelity"], *card["languages"].values()) if part else [card]:
        if key == "fidelity.kl_median":
            owner.pop("kl_histogram")
        owner.pop(name)
    Page(render(card))
    assert in_words(card)["verdict"] == whole_card()["verdict"]


def test_a_task_that_was_finished_in_part_says_so() -> None:
    card: dict[str, Any] = whole_card()
    card["tasks"]["mmlu"] |= {"partial": True, "items_asked": 400, "note": "only the first 200 of 400 items"}
    assert "Only the first 200 of 400 items." in Page(render(card)).sections["tasks"]
