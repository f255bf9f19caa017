"""A busy machine is recognised, and what was measured on it is marked or left out."""

import pytest

from smidgen.engines.busy import Busy, Effort, is_nonsense, judge, why_left_out


def effort(cpu: float = 2.0, waited: float | None = 0.0, others: float | None = 0.0, wall: float = 1.0) -> Effort:
    """One second in which an engine with two threads had all of two processors, unless told otherwise."""
    return Effort(wall=wall, cpu=cpu, waited=waited, others=others, processors=2)


def judged(*rounds: Effort, rates: tuple[float, ...] = (50.0, 51.0)) -> Busy:
    return judge(rounds, 2, rates)


def test_a_calm_machine_needs_no_words() -> None:
    busy = judged(effort(), effort(cpu=1.98, waited=0.02, others=0.1))
    assert busy["sentence"] is None and not is_nonsense(busy)
    assert busy["share"] == pytest.approx(0.995) and busy["spread"] == pytest.approx(1 / 50.5)


def test_threads_that_sleep_of_themselves_are_no_sign_of_others() -> None:
    """Sampling a token is the work of one thread: the rest have nothing to do, and want nothing."""
    assert judged(effort(cpu=1.2, waited=0.0))["share"] == 1.0


def test_less_than_it_asked_for_is_marked() -> None:
    busy = judged(effort(cpu=1.4, waited=0.6, others=0.6))
    assert busy["share"] == pytest.approx(0.7) and busy["others"] == pytest.approx(0.3) and not is_nonsense(busy)
    assert busy["sentence"] is not None
    assert "70% of the processor time" in busy["sentence"] and "other programs had 30%" in busy["sentence"]


def test_a_third_of_the_processors_is_left_out() -> None:
    busy = judged(effort(cpu=0.6, waited=1.4, others=1.4))
    assert is_nonsense(busy) and "30% of the processor time" in why_left_out(busy)


def test_one_disturbed_round_of_three_does_not_spoil_the_median() -> None:
    busy = judged(effort(), effort(cpu=0.4, waited=1.6), effort(), rates=(50.0, 50.0, 50.5))
    assert busy["share"] == 1.0 and busy["sentence"] is None


def test_others_on_the_same_cores_are_marked_though_nobody_waited() -> None:
    busy = judged(effort(others=0.8))
    assert busy["sentence"] is not None and "other programs had 40% of the processors" in busy["sentence"]


def test_rounds_that_differ_much_are_marked() -> None:
    busy = judged(effort(), effort(), rates=(20.0, 50.0))
    assert busy["sentence"] is not None and "differ by 86%" in busy["sentence"]


def test_where_waiting_is_not_counted_processor_time_is_held_against_the_clock() -> None:
    assert judged(effort(cpu=1.6, waited=None, others=None))["sentence"] is None
    marked = judged(effort(cpu=1.2, waited=None, others=None))
    assert marked["share"] == pytest.approx(0.6) and marked["sentence"] is not None and marked["others"] is None
    assert is_nonsense(judged(effort(cpu=0.8, waited=None)))


def test_moments_are_too_short_to_judge() -> None:
    busy = judged(effort(wall=0.01, cpu=0.001, waited=0.5), rates=())
    assert busy["share"] is None and busy["sentence"] is None and not is_nonsense(busy)


def test_efforts_add_up() -> None:
    assert effort(waited=0.5) + effort(waited=0.25) == Effort(2.0, 4.0, 0.75, 0.0, 2)
    assert (effort() + effort(waited=None)).waited is None
