"""The charts' geometry: lengths are as their figures, nothing leaves the picture, words say the same."""

from typing import Any

import pytest

from smidgen.measuring.report_charts import (
    WIDTH,
    Estimate,
    forest_chart,
    spread_chart,
    stack_chart,
    sure_chart,
    tick_step,
)
from tests.measuring.whole_card import whole_card

BOTH = {"embedding": {"original": 300, "cut": 100}, "attention": {"original": 100, "cut": 0}}


def test_bars_of_both_files_have_one_scale() -> None:
    chart = stack_chart(BOTH)
    before, after = chart.stacks
    assert [piece.width for piece in before.pieces] == [pytest.approx(0.75 * WIDTH), pytest.approx(0.25 * WIDTH)]
    assert [piece.width for piece in after.pieces] == [pytest.approx(0.25 * WIDTH)]
    assert (
        chart.description == "Embedding: 300 bytes before, 100 bytes after; Attention: 100 bytes before, 0 bytes after."
    )


def test_the_spread_shows_all_tokens_the_figures_and_the_floor() -> None:
    card = whole_card()
    text, floor = card["fidelity"][0], card["noise_floor"]
    chart = spread_chart(text, floor)
    assert chart is not None
    counts = [float(column.height) for column in chart.columns]
    assert max(counts) == pytest.approx(110) and all(0 <= column.x <= WIDTH for column in chart.columns)
    assert [mark.words.split()[0] for mark in chart.marks] == ["median", "mean", "p99"]
    assert [mark.x for mark in chart.marks] == sorted(mark.x for mark in chart.marks)
    assert 0 <= chart.floor[0].x < chart.floor[1].x < chart.marks[1].x
    assert "floor, mean 0.000400" in chart.description
    assert spread_chart(text, None) is not None


@pytest.mark.parametrize("last", [0.03, 0.3, 2.5])
@pytest.mark.parametrize("mean", [0.001, 0.02, 0.03, 0.29])
def test_no_line_at_a_figure_crosses_the_words_of_another(mean: float, last: float) -> None:
    counts = [0] * 8 + [10] * 19 + [0] * 5
    text = {"kl_median": 0.01, "kl_mean": mean, "kl_p99": last, "kl_histogram": {"edges": edges(), "counts": counts}}
    chart = spread_chart(text, None)
    assert chart is not None and len({mark.y for mark in chart.marks}) == 3
    for mark in chart.marks:
        width = 5.5 * len(mark.words) * (-1 if mark.anchor == "end" else 1)
        first, end = sorted((mark.x, mark.x + width))
        assert 0 <= first and end <= WIDTH
        assert not [other for other in chart.marks if other.y < mark.y and first < other.x < end]


def test_older_cards_have_no_such_charts() -> None:
    assert spread_chart({"kl_mean": 0.1}, None) is None and sure_chart({"kl_mean": 0.1}) is None
    assert forest_chart([]) is None


@pytest.mark.parametrize("nats", [0.0, 1e-12, 1e-3, 500.0])
def test_a_text_whose_tokens_are_all_alike_can_be_drawn(nats: float) -> None:
    counts = [0] * 32
    counts[0 if nats < 1 else -1] = 100
    text = {"kl_median": nats, "kl_mean": nats, "kl_p99": nats, "kl_histogram": {"edges": edges(), "counts": counts}}
    for floor in (None, {"kl_mean": 0.0, "kl_p99": 0.0}, {"kl_mean": 1e-3, "kl_p99": 0.02}):
        chart = spread_chart(text, floor)
        assert chart is not None and all(0 <= mark.x <= WIDTH for mark in (*chart.marks, *chart.floor))


def edges() -> list[float]:
    return [10 ** (step / 4) for step in range(-24, 9)]


def test_sureness_leaves_out_what_never_happened() -> None:
    buckets: list[dict[str, Any]] = [
        {"least": 0.0, "most": 0.5, "tokens": 0, "kl_mean": None, "same_top1": None},
        {"least": 0.5, "most": 1.0, "tokens": 9, "kl_mean": 0.0, "same_top1": 1.0},
    ]
    chart = sure_chart({"by_sureness": buckets})
    assert chart is not None and len(chart.bars) == 1 and chart.bars[0].length == 0
    assert "50 to 100% sure: 9 tokens" in chart.description


def test_a_forest_has_zero_in_it_and_each_interval_around_its_figure() -> None:
    estimates = [Estimate("a", -3.0, -5.0, -1.0, "-3"), Estimate("b (of many)", 2.0, 1.0, 4.0, "+2", weak=True)]
    chart = forest_chart(estimates)
    assert chart is not None
    assert all(0 <= line.first < line.x < line.last <= WIDTH for line in chart.lines)
    assert chart.lines[0].last < chart.zero < chart.lines[1].first
    assert [line.label for line in chart.lines] == ["a", "b"]
    assert [words for _, words in chart.ticks] == ["−6", "−4", "−2", "0", "+2", "+4"]
    assert chart.description == "a: -3; b (of many): +2 (says little)."


def test_a_forest_of_no_difference_at_all_can_be_drawn() -> None:
    chart = forest_chart([Estimate("a", 0.0, 0.0, 0.0, "0")])
    assert chart is not None and chart.lines[0].x == chart.zero


@pytest.mark.parametrize(("low", "high"), [(0.0, 1.0), (-20.0, 9.4), (0.0, 3e-7), (-1e-3, 700.0), (-100.0, 100.0)])
def test_ticks_are_few(low: float, high: float) -> None:
    step = tick_step(low, high)
    assert 1 <= (high - low) / step <= 7
