"""The page as a browser shows it: every section, nothing from elsewhere, no complaint, no scrolling sideways."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from smidgen.measuring.report import render
from tests.browser import Browser, assert_looks_right, browser_or_skip, is_not_blank
from tests.measuring.whole_card import whole_card

HEADINGS = (
    "Where the bytes went", "How faithful it is", "How the divergence is spread", "By how sure the original was",
    "Tasks", "By language", "Languages", "Safety and fairness", "Side by side", "Speed and memory", "Energy",
    "What is inside", "How it was cut", "Where this card comes from",
)  # fmt: skip


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with Browser(browser_or_skip()) as one:
        yield one


@pytest.fixture
def page(tmp_path: Path) -> Path:
    path = tmp_path / "card.html"
    path.write_text(render(whole_card()), encoding="utf-8")
    return path


def test_a_card_with_everything_on_it(browser: Browser, page: Path) -> None:
    assert_looks_right(browser, page, HEADINGS)
    assert browser.ask("document.querySelectorAll('svg[role=img]:not(:has(title))').length") == 0
    assert browser.ask("document.querySelectorAll('svg').length") == 9


def test_answers_in_the_middle_of_the_page_can_be_compared_on_a_phone(browser: Browser, page: Path) -> None:
    browser.show(page, 390)
    one, other = (browser.ask(f"document.querySelectorAll('.two > div')[{place}].offsetTop") for place in (0, 1))
    assert other > one
    browser.show(page, 1200)
    one, other = (browser.ask(f"document.querySelectorAll('.two > div')[{place}].offsetTop") for place in (0, 1))
    assert other == one


def test_on_paper_it_is_dark_on_light_and_open(browser: Browser, page: Path) -> None:
    browser.show(page, 700, dark=True, media="print")
    assert browser.ask("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    assert "mmlu_law 7" in browser.ask("document.body.innerText")
    assert browser.printed().startswith(b"%PDF-")


def test_a_browser_that_notices_nothing_would_be_no_test(browser: Browser, tmp_path: Path) -> None:
    """What is asked for elsewhere, and what the console says, is seen."""
    bad = tmp_path / "bad.html"
    bad.write_text('<img src="https://example.com/a.png"><script>throw new Error("lost")</script>')
    browser.show(bad)
    assert "https://example.com/a.png" in browser.requested
    assert any("lost" in line for line in browser.console)
    empty = tmp_path / "empty.html"
    empty.write_text("<p></p>")
    browser.show(empty)
    assert not is_not_blank(browser.picture())
