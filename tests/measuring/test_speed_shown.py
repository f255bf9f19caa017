"""Speed, memory and energy as tables: figures with their ranges, and what has to be said beside them."""

from typing import Any

from smidgen.measuring.card import build_card
from smidgen.measuring.report import render
from smidgen.measuring.speed_shown import (
    co2_rows,
    context_rows,
    energy_rows,
    energy_words,
    memory_rows,
    models_of,
    remarks,
    speed_rows,
)
from tests.measuring.test_card import model, speed, text

NO_TOKEN: dict[str, Any] = {"joules_per_token": None, "joules_per_token_net": None, "cpu_seconds_per_token": None}
CALM: dict[str, Any] = {"share": 1.0, "others": 0.0, "spread": 0.1, "load": 2.0, "sentence": None}


def measured(rate: float, **changes: Any) -> dict[str, Any]:
    """What measuring one model finds."""
    context = {
        "context": 512, "prompt_tokens_per_s": 8 * rate, "prompt_tokens_per_s_range": [7 * rate, 9 * rate],
        "decode_tokens_per_s": rate, "decode_tokens_per_s_range": [rate, rate],
        "time_to_first_token_s": 512 / (8 * rate), "time_to_first_token_s_range": [1.0, 2.0], "repeats": 2,
    }  # fmt: skip
    energy = {
        "joules_per_token": None, "reason": "no counter", "domains": [], "idle_watts": None,
        "prefill": NO_TOKEN | {"cpu_seconds_per_token": 0.002}, "decode": NO_TOKEN | {"cpu_seconds_per_token": 0.01},
    }  # fmt: skip
    more = {
        "decode_tokens_per_s_range": [rate - 1, rate + 1], "prompt_tokens": 256, "decode_tokens": 64, "reason": None,
        "busy": CALM, "by_context": [context], "left_out": [], "energy": energy,
    }  # fmt: skip
    return speed(rate) | more | changes


def counted(joules: float) -> dict[str, Any]:
    token = {"joules_per_token": joules, "joules_per_token_net": joules / 2, "cpu_seconds_per_token": 0.01}
    return {
        "joules_per_token": joules, "reason": None, "domains": ["package-0", "dram"], "idle_watts": 5.0,
        "prefill": token, "decode": token,
    }  # fmt: skip


def test_two_models_stand_side_by_side_with_ranges_and_ratios() -> None:
    rows = {row.title: row for row in speed_rows([measured(40.0), measured(60.0)])}
    write = rows["writing 64 tokens, tokens/s"]
    assert write.cells == ("40.0", "60.0") and write.ranges == ("39.0 to 41.0", "59.0 to 61.0")
    assert write.ratio(1, 0) == "1.50×" and write.ratio(0, 1) == "0.667×"
    assert [row.cells for row in memory_rows([measured(1.0)])] == [("280.0 MB",), ("300.0 MB",)]
    (context,) = context_rows([measured(40.0), measured(60.0)])
    assert context.context == 512 and context.read.cells == ("320", "480") and context.write.ranges == ("", "")


def test_what_one_of_them_lacks_is_a_dash_and_what_both_lack_is_no_row() -> None:
    busy = measured(1.0, decode_tokens_per_s=None, decode_tokens_per_s_range=None, by_context=[])
    rows = {row.label: row for row in speed_rows([busy, measured(60.0)])}
    assert rows["writing 64 tokens"].cells == ("–", "60.0") and rows["writing 64 tokens"].ratio(1, 0) == ""
    assert "first token after them" not in rows
    (context,) = context_rows([busy, measured(60.0)])
    assert context.read.cells == ("–", "480")


def test_processor_time_stands_in_where_no_energy_could_be_read() -> None:
    models = [measured(1.0)]
    assert {row.title: row.cells for row in energy_rows(models)} == {
        "reading a token, ms of processor time": ("2.00",), "writing a token, ms of processor time": ("10.0",)
    }  # fmt: skip
    assert energy_words(models) == "Energy was not measured: no counter." and co2_rows(models) == []


def test_energy_names_what_was_counted() -> None:
    models = [measured(1.0, energy=counted(2.0))]
    assert energy_words(models) == "Energy counted by: package-0, dram. Idle it takes 5.00 W."
    busy = measured(1.0, energy=counted(2.0), busy=CALM | {"sentence": "The machine was busy."})
    assert "other programs" in energy_words([busy])
    assert [row.cells[0] for row in energy_rows(models)] == ["2.00", "1.00", "10.0"] * 2
    co2 = {"grid_grams_per_kwh": 400.0, "grams_per_1000_tokens": {"prefill": 0.1, "decode": 0.25}}
    (read, written) = co2_rows([measured(1.0, energy=counted(2.0) | {"co2": co2})])
    assert (read.cells, written.cells) == (("0.100",), ("0.250",)) and written.unit == "g of CO2"


def test_a_busy_machine_is_said_once_and_what_was_left_out_too() -> None:
    words = [CALM | {"share": share, "sentence": f"got {share:.0%}"} for share in (0.8, 0.7)]
    models = [measured(1.0, busy=busy, left_out=["2 of 5 rounds."]) for busy in words]
    assert remarks(models) == ["got 70%", "2 of 5 rounds."]
    assert remarks([measured(1.0)]) == []
    assert remarks([measured(1.0, reason="too busy", busy=words[0])]) == ["Speed was not measured: too busy."]


def card_with(*speeds: dict[str, Any]) -> dict[str, Any]:
    return build_card(
        model("big", "Q8_0", 200_000), model("small", "Q4_0", 110_000), [text("prose", 0.06)], speed=speeds
    )


def test_the_page_shows_lengths_energy_and_remarks() -> None:
    busy = CALM | {"share": 0.7, "sentence": "The machine was busy."}
    page = render(card_with(measured(40.0, energy=counted(2.0)), measured(60.0, energy=counted(1.0), busy=busy)))
    for said in ("512 tokens: reading, tokens/s", "(420 to 540)", "The machine was busy.", "package-0, dram"):
        assert said in page
    assert "Writing a token, net of idle, joules" in page


def test_the_page_of_a_machine_that_was_too_busy_says_so_and_keeps_the_memory() -> None:
    nothing = {"decode_tokens_per_s": None, "prompt_tokens_per_s": None, "by_context": [], "reason": "it was too busy"}
    page = render(card_with(measured(1.0, **nothing), measured(1.0, **nothing)))
    assert page.count("Speed was not measured: it was too busy.") == 1 and "280.0 MB" in page


def test_cards_of_earlier_versions_and_without_speed_have_a_page() -> None:
    old = card_with(speed(40.0), speed(60.0))
    assert "60.0" in render(old) and context_rows(models_of(old)) == [] and remarks(models_of(old)) == []
    assert "not measured: not asked for" in render(
        build_card(model("big", "Q8_0", 200_000), model("small", "Q4_0", 110_000), [])
    )
