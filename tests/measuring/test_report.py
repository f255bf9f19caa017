"""The page: one file, no script, nothing from the network, every string escaped, every figure there."""

import re
from html.parser import HTMLParser
from typing import Any

import pytest

from smidgen.measuring.card import build_card
from smidgen.measuring.report import number, percent, render, size, verdict
from tests.measuring.test_card import full_card, model, text

VOID = {"meta", "br", "link", "img", "input", "hr", "rect", "line", "polyline"}


class Page(HTMLParser):
    """Collects tags and text, and checks that tags are closed in order."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.words: list[str] = []
        self.feed(page)
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words.append(data)


def bare_card(**changes: Any) -> dict[str, Any]:
    return build_card(model("big", "Q8_0", 200_000), model("small", "Q4_0", 110_000), [text("prose", 0.06)], **changes)


def test_the_page_needs_nothing_from_outside_and_runs_nothing() -> None:
    page = render(full_card())
    parsed = Page(page)
    names = {tag for tag, _ in parsed.tags}
    assert not names & {"script", "link", "img", "iframe", "object", "embed", "form", "base"}
    for _, attributes in parsed.tags:
        assert not attributes.keys() & {"src", "href", "srcset", "action", "onload", "onclick"}
    assert "http://" not in page and "https://" not in page and "url(" not in page and "@import" not in page
    assert "default-src 'none'" in page


def test_healing_is_shown_as_a_curve() -> None:
    step = {"step": "heal", "tokens": 4096, "seconds": 61.5, "watched": [[0, 0.0612], [2, 0.0551], [4, 0.0493]]}
    page = render(bare_card(steps=[step]))
    Page(page)
    assert "How it healed" in page and "4,096 tokens" in page and "0.0493" in page and "http://" not in page
    assert "How it healed" not in render(bare_card())


def test_the_page_says_the_main_figures() -> None:
    page = render(full_card())
    for figure in ("200.0 kB", "110.0 kB", "0.090", "87.3%", "0.931", "0.912", "60", "40", "ab" * 32, "cd" * 32):
        assert figure in page, figure
    assert verdict(full_card()) == (
        "small is 45.0% smaller than big (200.0 kB → 110.0 kB), predicts much like the original (KL 0.0900) and agrees "
        "with it on the next token 87.3% of the time, and writes 1.50 times as fast."
    )


def test_both_pictures_name_every_matrix() -> None:
    parsed = Page(render(full_card()))
    pictures = [attributes for tag, attributes in parsed.tags if tag == "svg"]
    assert len(pictures) == 2 and all(picture["role"] == "img" for picture in pictures)
    titles = " ".join(parsed.words)
    for tensor in full_card()["cut"]["tensors"]:
        assert f"{tensor['name']}: {tensor['kind']}" in titles
    assert "layer 2: attention" in titles


def test_without_speed_or_damage_it_says_not_measured_and_why() -> None:
    page = render(bare_card(speed_reason="llama.cpp refused"))
    assert "Speed and memory were not measured: llama.cpp refused." in page
    assert page.count("<svg") == 1 and "Damage by layer: not measured" in page


@pytest.mark.parametrize(
    "hostile", ["<script>alert(1)</script>", "\"'><img src=x onerror=alert(1)>", "a-<b>-&amp;{{7*7}}"]
)
def test_strings_from_strangers_stay_text(hostile: str) -> None:
    card = full_card()
    for part in ("original", "cut"):
        card[part] |= {"name": hostile, "path": hostile, "sha256": hostile}
    card["fidelity"][0] |= {"text": hostile, "sha256": hostile}
    card["fidelity"][2]["text"] = hostile
    card["languages"] = {hostile: card["fidelity"][0]}
    card["steps"][0] = card["steps"][0] | {"step": hostile, "parameters": {hostile: hostile}}
    card["speed"] |= {"engine": hostile, "machine": hostile}
    card["made"] |= {"machine": hostile}
    for tensor in card["cut"]["tensors"]:
        tensor |= {"kind": hostile, "original_kind": hostile}
    page = render(card)
    assert hostile not in page
    Page(page)
    assert not re.search(r"<(script|img|b)\b", page)
    assert {tag for tag, _ in Page(page).tags} == {tag for tag, _ in Page(render(full_card())).tags}


def test_a_text_seen_in_calibration_is_marked() -> None:
    seen = build_card(model("a", "Q8_0", 9), model("b", "Q4_0", 5), [text("prose", 0.06, seen=0.8)])
    assert "80.0% of the text prose was also used to make the cut" in render(seen)


def test_a_text_of_which_other_passages_were_calibrated_on_is_marked() -> None:
    step = {"step": "quantize", "parameters": {"calibration": ["prose"]}}
    marked = render(
        build_card(model("a", "Q8_0", 9), model("b", "Q4_0", 5), [text("prose", 0.06, seen=0.01)], steps=[step])
    )
    assert "calibrated on other passages of the text prose" in marked
    assert "other passages" not in render(bare_card())
    assert "was also used to make" not in render(bare_card())


def test_the_page_of_a_model_against_itself_and_of_an_untied_larger_model() -> None:
    same = build_card(model("a", "Q8_0", 200_000), model("a", "Q8_0", 200_000), [text("prose", 0.0)])
    assert "is as large as" in verdict(same) and "makes the same predictions" in verdict(same)
    Page(render(same))
    assert "larger than" in verdict(build_card(model("a", "Q8_0", 9), model("b", "Q8_0", 20), []))


def test_words_for_figures() -> None:
    assert [size(v) for v in (253_113_024, 1_708_582_752, 512, None)] == [
        "253.1 MB",
        "1.71 GB",
        "512 bytes",
        "not measured",
    ]
    assert [number(v) for v in (0.0617, 1.0249, 48.13, 812.3, 12345.6, 0.0, 0.00001234, 1e-9, None)] == [
        "0.0617", "1.02", "48.1", "812", "12,346", "0.00", "0.0000123", "under 0.000001", "not measured",
    ]  # fmt: skip
    assert [percent(v) for v in (0.8731, 1.0, 0.99999, 0.0, 0.0001, None)] == [
        "87.3%", "100.0%", "over 99.9%", "0.0%", "under 0.1%", "not measured",
    ]  # fmt: skip
