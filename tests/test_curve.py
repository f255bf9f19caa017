"""The picture of a curve: axes around all points, the lowest one marked, nothing of a stranger's taken for markup."""

import re
from pathlib import Path
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from smidgen.curve import curve_svg, write_curve

POINTS = [(0, 3.9), (100, 3.2), (200, 3.05), (300, 3.07)]
NUMBERS = st.floats(-1e12, 1e12, allow_subnormal=False)


def drawn(svg: str) -> list[tuple[float, float]]:
    line = re.search(r'polyline points="([^"]*)"', svg)
    assert line is not None
    pairs = (pair.split(",") for pair in line[1].split())
    return [(float(x), float(y)) for x, y in pairs]


def test_lower_values_are_drawn_lower_and_the_lowest_is_marked() -> None:
    svg = curve_svg("loss", POINTS, "steps", "nats", from_zero=False)
    places = drawn(svg)
    assert [x for x, _ in places] == sorted(x for x, _ in places)
    assert max(places, key=lambda place: place[1]) == places[2]  # downwards in a picture
    assert "3.0500" in svg and "300" in svg and "3.0500 after 200" in svg


def test_the_marked_point_is_the_lowest_or_the_one_that_is_named() -> None:
    points = [(0, 3.0), (5, 1.0), (10, 2.0)]

    def ringed(marked: float | None) -> str:
        return re.findall(r'text-anchor="middle"[^>]*>(\d\.\d{4})<', curve_svg("t", points, "x", "y", False, marked))[0]

    assert (ringed(None), ringed(10), ringed(0)) == ("1.0000", "2.0000", "3.0000")


def test_from_zero() -> None:
    labels = re.findall(r'text-anchor="end"[^>]*>([^<]*)<', curve_svg("kl", [(0, 0.06), (9, 0.05)], "s", "n", True))
    assert labels[0] == "0" and float(labels[-2]) >= 0.06


@given(st.lists(st.tuples(st.integers(0, 10**9), NUMBERS), min_size=1, max_size=8), st.booleans())
def test_every_point_is_inside(points: list[tuple[int, float]], from_zero: bool) -> None:
    points = [(x, abs(y)) for x, y in points] if from_zero else points
    for x, y in drawn(curve_svg("t", points, "x", "y", from_zero)):
        assert 0 <= x <= 480 and 0 <= y <= 200


def test_words_are_no_markup(tmp_path: Path) -> None:
    write_curve(tmp_path / "loss.svg", "<script>&", POINTS, "a<b", "&lt;", False)
    root = ElementTree.parse(tmp_path / "loss.svg").getroot()
    assert root.tag == "{http://www.w3.org/2000/svg}svg"
    assert root[0].text == "<script>&"


@pytest.mark.parametrize("points", [[], [(0, float("nan"))], [(0, 1.0), (1, float("inf"))]])
def test_what_is_no_curve(points: list[tuple[float, float]]) -> None:
    with pytest.raises(ValueError, match="points"):
        curve_svg("t", points, "x", "y", False)
