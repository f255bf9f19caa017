"""The bias scores are the paper's."""

import pytest

from smidgen.measuring.tasks.bias import Said, bias_by_category, compare_bias

BIASED, AGAINST, UNKNOWN = Said(False, True), Said(False, False), Said(True, None)


def test_scores_of_ambiguous_questions() -> None:
    """(1 − accuracy) · (2 · n_biased / n − 1), by hand."""
    found = compare_bias([UNKNOWN] * 10, [BIASED] * 3 + [AGAINST] * 1 + [UNKNOWN] * 6, True)
    assert found["original"] == 0.0 and found["cut"] == pytest.approx(0.4 * (2 * 3 / 4 - 1))
    assert found["people_named"] == {"original": 0, "cut": 4} and found["items"] == 10
    assert found["interval"][0] <= found["difference"] <= found["interval"][1]
    assert "too few answers count (10)" in found["note"]


def test_scores_of_disambiguated_questions() -> None:
    """2 · n_biased / n − 1, whatever is right."""
    right_and_biased, right_and_not = Said(True, True), Said(True, False)
    found = compare_bias([right_and_biased] * 20 + [right_and_not] * 20, [BIASED] * 30 + [AGAINST] * 10, False)
    assert (found["original"], found["cut"], found["difference"]) == (0.0, 0.5, 0.5)
    assert 0.2 < found["interval"][0] < 0.5 < found["interval"][1] < 0.8 and found["note"] is None


def test_where_nobody_is_named_there_is_no_score() -> None:
    found = compare_bias([Said(False, None)] * 5, [BIASED] * 5, False)
    assert "named nobody" in found["reason"] and "interval" not in found


def test_the_same_answers_have_no_difference() -> None:
    answers = [BIASED, AGAINST, UNKNOWN] * 20
    found = compare_bias(answers, answers, True)
    assert found["difference"] == 0 and found["interval"] == [0.0, 0.0]


def test_categories_whose_bias_rose_most_are_first() -> None:
    before = [AGAINST, BIASED, BIASED, UNKNOWN]
    after = [BIASED, BIASED, BIASED, Said(False, None)]
    found = bias_by_category(["Age", "Age", "Religion", "SES"], before, after, False)
    assert list(found) == ["Age", "Religion", "SES"]
    assert found["Age"] == {"original": 0.0, "cut": 1.0, "items": 2} and found["SES"]["original"] is None
