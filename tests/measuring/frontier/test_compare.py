"""Which cuts are on the frontier, what compares, and what is refused."""

import random
from pathlib import Path
from typing import Any

import pytest

from smidgen.errors import SmidgenError
from smidgen.measuring.frontier import words
from smidgen.measuring.frontier.cards import read_cards
from smidgen.measuring.frontier.compare import Comparison, as_data, compare_cards, on_frontier
from smidgen.measuring.frontier.frontier import compare
from smidgen.measuring.frontier.page import render
from tests.measuring.frontier.little_cards import card, score, speed, text, three, write


def compared(folder: Path, *cards: dict[str, Any]) -> Comparison:
    return compare_cards(read_cards(write(folder, *cards)))


def test_the_frontier_is_what_no_other_is_at_least_as_good_as() -> None:
    assert on_frontier([1, 2, 3], [3.0, 2.0, 1.0]) == [True, True, True]
    assert on_frontier([1, 2, 3], [1.0, 2.0, 0.5]) == [True, False, True]
    assert on_frontier([1, 1], [1.0, 1.0]) == [True, True]
    assert on_frontier([1, 1], [1.0, 2.0]) == [True, False]


def test_along_the_frontier_loss_falls_and_all_others_are_beaten() -> None:
    draw = random.Random(0)
    for _ in range(50):
        sizes, losses = [draw.randrange(9) for _ in range(8)], [float(draw.randrange(9)) for _ in range(8)]
        best = on_frontier(sizes, losses)
        kept = sorted({pair for pair, good in zip(zip(sizes, losses, strict=True), best, strict=True) if good})
        assert all(one[0] < other[0] and one[1] > other[1] for one, other in zip(kept, kept[1:], strict=False))
        for size, loss, good in zip(sizes, losses, best, strict=True):
            assert good or any(one[0] <= size and one[1] <= loss for one in kept)


def test_a_cut_that_is_larger_and_worse_is_named(tmp_path: Path) -> None:
    found = compared(tmp_path, *reversed(three()))
    assert [one.name for one, _ in found.frontier()] == ["small", "middle"]
    assert words.beaten(found) == ["plain is larger than middle and worse (KL 0.0300 against 0.00800)."]
    assert "2 of them are the best of their size, 1 not" in words.headline(found)
    assert words.steps(found) == ["From small to middle: 10.0 MB more take KL from 0.0900 to 0.00800."]
    small, middle = words.advice(found)
    assert small.startswith("small (60.0 MB) is the smallest of all, and predicts much like")
    assert middle.startswith("middle (70.0 MB) is the smallest that predicts almost exactly like")


def test_a_difference_within_chance_is_said_to_be_one(tmp_path: Path) -> None:
    close = card("other", 75_000_000, text(0.0081, 1.01))
    said = words.beaten(compared(tmp_path, *three(), close))
    assert (
        said[0]
        == "other is larger than middle and not better: the difference is within chance (KL 0.00810 against 0.00800)."
    )


def test_better_on_another_text_is_not_hidden(tmp_path: Path) -> None:
    one = card("one", 60_000_000, text(0.5, 1.5), text(0.2, 1.2, "de"))
    other = card("other", 70_000_000, text(0.6, 1.6), text(0.1, 1.1, "de"))
    found = compared(tmp_path, one, other)
    assert found.text == "prose" and "but it loses less on de." in words.beaten(found)[0]


def test_with_fewer_tokens_loss_is_told_by_bits_per_byte(tmp_path: Path) -> None:
    trimmed = card("trimmed", 50_000_000, text(0.001, 1.4, dropped_mass=0.02))
    found = compared(tmp_path, *three(), trimmed)
    assert found.by_bits and as_data(found)["by"] == "bits_per_byte"
    assert any("bits per byte from 1.40 to 1.05" in step for step in words.steps(found))


def test_cuts_of_other_originals_are_refused_by_name(tmp_path: Path) -> None:
    one, other, _ = three()
    other["original"] = other["original"] | {"sha256": "cd" * 32, "name": "huge"}
    said = r"different originals: small of big \(sha256 abab.*\), middle of huge \(sha256 cdcd"
    with pytest.raises(SmidgenError, match=said):
        compared(tmp_path, one, other)


@pytest.mark.parametrize(
    ("other", "said"),
    [
        (text(0.1, 1.1, "code"), "The text prose: it was not measured for b"),
        (
            text(0.1, 1.1, windows=11),
            "prose: a .5,000 tokens. and b .5,000 tokens. were measured on different passages",
        ),
        (text(0.1, 1.1, bytes=19_999), "different passages"),
        (text(0.1, 1.1, bits_per_byte_original=1.01), "different passages"),
    ],
)
def test_texts_that_differ_are_refused_by_name(other: dict[str, Any], said: str, tmp_path: Path) -> None:
    with pytest.raises(SmidgenError, match=f"share no text to compare on. .*{said}"):
        compared(tmp_path, card("a", 10**7, text(0.1, 1.1)), card("b", 2 * 10**7, other))


def test_only_what_all_share_is_compared_and_the_rest_is_said(tmp_path: Path) -> None:
    one = card("a", 10**7, text(0.1, 1.1), text(0.1, 1.1, "de"), tasks={"mmlu": score(0.0), "mbpp": score(0.0)})
    other = card("b", 2 * 10**7, text(0.05, 1.1), tasks={"mmlu": score(0.0, items=100)})
    found = compared(tmp_path, one, other)
    assert found.texts == ("prose",) and found.scores == {}
    assert found.notes == (
        "The text de is left out: it was not measured for b.",
        "MMLU is left out: the cuts were not asked the same items (a 200, b 100).",
        "MBPP is left out: not measured for b.",
    )


def test_a_text_that_a_cut_was_made_with_flatters(tmp_path: Path) -> None:
    seen = card("seen", 20_000_000, text(0.01, 1.0, seen_in_calibration=0.4))
    assert any(
        "40% of the text prose was also used to make seen" in note for note in compared(tmp_path, *three(), seen).notes
    )


def test_tasks_say_what_is_more_than_chance(tmp_path: Path) -> None:
    cards = [made | {"tasks": {"mmlu": score(change)}} for made, change in zip(three(), (-0.1, 0.01, 0.0), strict=True)]
    (said,) = words.scores(compared(tmp_path, *cards))
    assert "small -10.0 points (200 items). For the others, the difference may be chance." in said
    (tmp_path / "guess").mkdir()
    guessed = [made | {"tasks": {"mmlu": score(-0.1, at_chance=True)}} for made in three()]
    assert "differences mean nothing" in words.scores(compared(tmp_path / "guess", *guessed))[0]


def test_speeds_compare_beside_the_original_that_took_turns(tmp_path: Path) -> None:
    rates = (speed(60.0, 40.0), speed(100.0, 80.0), speed(10.0, 40.0, busy=True))
    found = compared(tmp_path, *(made | {"speed": rate} for made, rate in zip(three(), rates, strict=True)))
    small, middle, plain = (found.speeds.data(one) for one in found.cards)
    assert small is not None and middle is not None and plain is None
    assert (small["times_the_original"], middle["times_the_original"]) == (1.5, 1.25)
    assert "The speed of plain is left out: the machine was busy." in found.speeds.notes
    assert any("40.0 to 80.0" in note for note in found.speeds.notes)


def test_speeds_of_other_machines_are_left_out(tmp_path: Path) -> None:
    rates = (speed(60.0), speed(100.0, machine="a mainframe"), speed(50.0))
    found = compared(tmp_path, *(made | {"speed": rate} for made, rate in zip(three(), rates, strict=True)))
    assert len(found.speeds.rates) == 2
    assert any(
        "middle is left out: measured with llama on 2 threads of a mainframe" in one for one in found.speeds.notes
    )
    (tmp_path / "none").mkdir()
    none = compared(tmp_path / "none", *three())
    assert not none.speeds.rates and "The speed of small is left out: not asked for." in none.speeds.notes


def test_without_the_originals_speed_it_is_said_to_compare_less(tmp_path: Path) -> None:
    found = compared(tmp_path, *(made | {"speed": speed(50.0, None)} for made in three()))
    assert not found.speeds.relative and "each cut at its own time" in found.speeds.notes[-1]


def test_too_few_and_too_many(tmp_path: Path) -> None:
    with pytest.raises(SmidgenError, match="needs 2 to 26 cuts"):
        compared(tmp_path, three()[0])
    (tmp_path / "many").mkdir()
    with pytest.raises(SmidgenError, match="here are 27"):
        compared(tmp_path / "many", *(card(f"cut{place}", 10**7 + place, text(0.1, 1.1)) for place in range(27)))


def test_numbers_that_nothing_is_divided_by(tmp_path: Path) -> None:
    cards = [one | {"speed": speed(60.0, original=5e-324)} for one in three()]
    assert "<html" in render(compare(write(tmp_path, *cards)))


def test_too_many_are_refused_before_they_are_read(tmp_path: Path) -> None:
    with pytest.raises(SmidgenError, match="needs 2 to 26 cuts, each with its card; here are 1000"):
        compare([tmp_path / "nothing"] * 1000)
