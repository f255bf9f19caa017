"""The ranking as a page: whole, harmless, and only in place of another such page."""

import os
from pathlib import Path

import pytest

from smidgen.errors import SmidgenError
from smidgen.measuring.arena.page import refuse_page, render
from smidgen.measuring.arena.ranking import rank
from tests.browser import Browser, browser_or_skip
from tests.measuring.arena.made_votes import ballots_of
from tests.measuring.test_page_in_a_browser import assert_looks_right

VOTES = "A>B*30 B>A*10 B>C*24 C>B*12 A>C*20 C>A*4 D>A*3 B>E*5"
HEADINGS = ("Scores", "Who won against whom", "Are neighbours told apart?", "Where the votes come from")


@pytest.fixture
def page(tmp_path: Path) -> Path:
    judge = {
        "model": "the judge", "comparisons": 9, "judged": 8, "changed_with_order": 2, "first_both_times": 1,
        "unparsed": 1, "identical": 3, "too_long": 1, "notes": ["It did not finish."],
    }  # fmt: skip
    path = tmp_path / "arena.html"
    ballots = ballots_of(VOTES)
    for _ in range(9):
        ballots.add("<script>alert(1)</script>", "A", "tie")
    path.write_text(render(rank(ballots) | {"judge": judge}), encoding="utf-8")
    return path


def test_what_is_on_it(page: Path) -> None:
    text = page.read_text("utf-8")
    assert "<script" not in text and "&lt;script&gt;" in text
    assert "it never lost (3 votes)" in text and "below" in text and "above" in text
    assert "changed its mind with the order: 2 of 8" in text and "It did not finish." in text


def test_a_browser_shows_it(page: Path) -> None:
    with Browser(browser_or_skip()) as browser:
        assert_looks_right(browser, page, HEADINGS)


def test_other_files_are_not_replaced(page: Path, tmp_path: Path) -> None:
    refuse_page(page)
    refuse_page(tmp_path / "new.html")
    (tmp_path / "mine.html").write_text("<!doctype html><title>mine</title>")
    for name, said in (("mine.html", "smidgen did not write it"), ("arena.json", "must end in .html")):
        with pytest.raises(SmidgenError, match=said):
            refuse_page(tmp_path / name)


def test_what_is_no_file_is_not_replaced_nor_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.html")
    (tmp_path / "dangling.html").symlink_to("nothing")
    for name in ("pipe.html", "dangling.html"):
        with pytest.raises(SmidgenError, match="smidgen did not write it"):
            refuse_page(tmp_path / name)
