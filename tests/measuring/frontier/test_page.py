"""The page of a comparison, and what the command writes and prints."""

import json
from pathlib import Path
from typing import Any

import pytest

from smidgen.cli.main import main
from smidgen.measuring.frontier.cards import read_cards
from smidgen.measuring.frontier.compare import compare_cards
from smidgen.measuring.frontier.page import render
from smidgen.measuring.frontier.pictures import HEIGHT, WIDTH, Point, plot
from tests.measuring.frontier.little_cards import card, score, speed, text, three, write
from tests.measuring.test_report import Page


def full() -> list[dict[str, Any]]:
    more = {"speed": speed(60.0), "tasks": {"mmlu": score(-0.03)}}
    return three(**more, safety={"refusals": {"refused_unsafe": score(-0.01)}, "stereotypes": score(0.01)})


def run(*arguments: object) -> int:
    with pytest.raises(SystemExit) as left:
        main(["measure", "--compare", *map(str, arguments)])
    return int(left.value.code or 0)


def test_the_page_has_every_section_and_asks_nothing_of_the_network(tmp_path: Path) -> None:
    page = render(compare_cards(read_cards(write(tmp_path, *full()))))
    parsed = Page(page)
    assert list(parsed.sections) == ["take", "quality", "tasks", "speed", "figures", "origin"]
    assert parsed.pictures == {"take": 0, "quality": 2, "tasks": 3, "speed": 2, "figures": 0, "origin": 0}
    assert "http" not in page.replace("http-equiv", "") and "url(" not in page and "default-src 'none'" in page
    assert not {tag for tag, _ in parsed.tags} & {"script", "link", "img", "iframe"}
    titles = page.count("<title")
    assert titles == 1 + 7 + 7 * 3  # of the page, of each picture, of each point
    for said in ("plain is larger than middle and worse", "small (60.0 MB)", "0.00800", "-3.0", "1.50"):
        assert said in page, said


def test_what_was_not_measured_alike_has_no_section_but_a_reason(tmp_path: Path) -> None:
    page = render(compare_cards(read_cards(write(tmp_path, *three()))))
    assert list(Page(page).sections) == ["take", "quality", "figures", "origin"]
    assert "The speed of small is left out: not asked for." in page


def test_a_trimmed_vocabulary_has_no_picture_of_kl(tmp_path: Path) -> None:
    trimmed = card("trimmed", 50_000_000, text(0.001, 1.4, tokens_dropped=0.02))
    page = Page(render(compare_cards(read_cards(write(tmp_path, *three(), trimmed)))))
    assert page.pictures["quality"] == 1 and "KL divergence is not drawn" in page.sections["quality"]


def test_strings_of_strangers_stay_text(tmp_path: Path) -> None:
    evil = "<script>alert(1)</script>\"'&{{ 7*7 }}"
    cards = full()
    cards[0]["cut"]["name"] = evil
    for made in cards:
        made["original"]["name"] = evil
        made["fidelity"][0]["text"] = evil
        made["speed"]["machine"] = evil
        made["tasks"] = {evil: score(0.0)}
    page = render(compare_cards(read_cards(write(tmp_path, *cards))))
    Page(page)
    assert "<script" not in page and "{{ 7*7 }}" in page


@pytest.mark.parametrize("values", [[0.1, 0.1], [0.0, 1e-9, 3.0], [5.0], [1e-6, 1e6], [-3.0, 2.0]])
@pytest.mark.parametrize("logarithmic", [False, True])
def test_every_point_is_inside_its_picture(values: list[float], logarithmic: bool) -> None:
    if logarithmic and min(values) < 0:
        return
    points = [
        Point(chr(65 + place), 10**8 + (place // 2) * 10**6, value, value - 9, value + 9, True, "")
        for place, value in enumerate(values)
    ]
    drawn = plot("title", points, logarithmic=logarithmic, rule=(1.0, "original"))
    for dot in drawn.dots:
        assert 0 < dot.x < WIDTH and 0 < dot.y < HEIGHT and 0 < dot.letter_x < WIDTH and 0 < dot.letter_y < HEIGHT
        assert dot.bar is not None and all(0 < end < HEIGHT for end in dot.bar)
    assert len(drawn.up) >= 1 and len(drawn.up) < 14 and len({words for _, words in drawn.up}) == len(drawn.up)
    assert len({words for _, words in drawn.along}) == len(drawn.along)


def test_letters_of_near_points_do_not_hide_each_other() -> None:
    points = [
        Point(chr(65 + place), 10**8 + place * 10**5, 1.0 + place / 100, None, None, True, "") for place in (0, 1, 2)
    ]
    points.append(Point("D", 2 * 10**8, 9.0, None, None, True, ""))
    places = [(dot.letter_x, dot.letter_y) for dot in plot("title", points).dots]
    assert all(
        abs(one[0] - other[0]) + abs(one[1] - other[1]) > 8
        for place, one in enumerate(places)
        for other in places[:place]
    )


def test_the_command_prints_a_table_and_writes_the_page(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    paths = write(tmp_path, *full())
    assert run(*paths, "-o", tmp_path) == 0
    said = capsys.readouterr().out
    assert "* A  small" in said and "  C  plain" in said and "plain is larger than middle and worse" in said
    page = (tmp_path / "frontier.html").read_text("utf-8")
    assert page.startswith("<!doctype html>")
    assert run(*paths, "-o", tmp_path / "frontier.html") == 0  # its own page may be replaced
    assert run(*reversed(paths), "--json") == 0
    data = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert [(cut["name"], cut["frontier"], cut["beaten_by"]) for cut in data["cuts"]] == [
        ("small", True, None), ("middle", True, None), ("plain", False, "middle")
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["{0}/cut0"], "Missing argument"),
        (["{0}/cut0", "{0}"], "has no card.json"),
        (["{0}/cut0", "{0}/cut0"], "given twice"),
        (["{0}/cut0", "{0}/cut1", "--tokens", "99"], "--tokens says how to measure"),
        (["{0}/cut0", "{0}/cut1", "--no-speed"], "--no-speed says how to measure"),
        (["{0}/cut0", "{0}/cut1", "-o", "{0}/new.json"], "must end in .html"),
        (["{0}/cut0", "{0}/cut1", "-o", "{0}/mine.html"], "is no comparison by smidgen"),
        (["{0}/cut0", "{0}/cut1", "-o", "{0}/none/new.html"], "no folder"),
    ],
)
def test_bad_input_is_one_line(
    arguments: list[str], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write(tmp_path, *three())
    (tmp_path / "mine.html").write_text("<title>mine</title>")
    before = sorted(tmp_path.iterdir())
    assert run(*(argument.format(tmp_path) for argument in arguments)) == 2
    output = capsys.readouterr()
    assert output.out == "" and output.err.count("\n") == 1 and said in output.err
    assert sorted(tmp_path.iterdir()) == before


def test_a_third_model_without_compare_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["measure", "a", "b", "c"])
    assert "c is one model too many" in capsys.readouterr().err
