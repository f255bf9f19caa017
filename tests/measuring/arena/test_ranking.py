"""A ranking says what the votes say, and what they do not."""

import json
import math

import pytest

from smidgen.errors import SmidgenError
from smidgen.measuring.arena.arena import Arena
from smidgen.measuring.arena.ranking import rank
from smidgen.measuring.arena.shown import describe
from smidgen.measuring.arena.words import headline
from tests.measuring.arena.made_votes import ballots_of

ROUND = "A>B*30 B>A*10 B>C*24 C>B*12 B=C*4 A>C*20 C>A*4"


def of(ranking: dict, name: str) -> dict:
    return next(one for one in ranking["models"] if one["model"] == name)


def test_order_scores_and_counts() -> None:
    ranking = rank(ballots_of(ROUND))
    assert [one["model"] for one in ranking["models"]] == ["A", "B", "C"]
    assert [one["rank"] for one in ranking["models"]] == [1, 2, 3]
    assert sum(one["score"] for one in ranking["models"]) == pytest.approx(3000)
    assert all(one["interval"][0] < one["score"] < one["interval"][1] for one in ranking["models"])
    b = of(ranking, "B")
    assert (b["votes"], b["won"], b["tied"], b["lost"]) == (80, 34, 4, 42)
    assert ranking["win_rates"][1] == [pytest.approx(0.25), None, pytest.approx(26 / 40)]
    assert ranking["comparisons"] == [[0, 40, 24], [40, 0, 40], [24, 40, 0]]
    assert ranking["votes"]["counted"] == 104 and ranking["votes"]["ties"] == 4


def test_400_points_are_odds_of_ten_to_one() -> None:
    ranking = rank(ballots_of("A>B*10 B>A"))
    assert of(ranking, "A")["score"] - of(ranking, "B")["score"] == pytest.approx(400)


def test_the_anchor_has_its_score_and_the_others_their_distance() -> None:
    free, anchored = rank(ballots_of(ROUND)), rank(ballots_of(ROUND), anchor=("C", 1200))
    assert of(anchored, "C")["score"] == 1200 and of(anchored, "C")["interval"] == [None, None]
    gap = of(free, "A")["score"] - of(free, "C")["score"]
    assert of(anchored, "A")["score"] == pytest.approx(1200 + gap)
    assert "its score was given" in of(anchored, "C")["reason"] and "fixed" in describe(anchored)
    with pytest.raises(SmidgenError, match="anchor D is not among the ranked models"):
        rank(ballots_of(ROUND), anchor=("D", 1000))


def test_the_same_seed_gives_the_same_intervals() -> None:
    one, again, other = (rank(ballots_of(ROUND), seed=seed) for seed in (1, 1, 2))
    assert one == again and one["models"] != other["models"]


def test_named_models_alone() -> None:
    ranking = rank(ballots_of(ROUND), ["B", "A"])
    assert {one["model"] for one in ranking["models"]} == {"A", "B"} and ranking["votes"]["left_out"] == 64
    with pytest.raises(SmidgenError, match="There are no votes on Z; there are on A, B, C"):
        rank(ballots_of(ROUND), ["A", "Z"])
    with pytest.raises(SmidgenError, match="at least two"):
        rank(ballots_of(ROUND), ["A"])


def test_models_that_never_met() -> None:
    with pytest.raises(SmidgenError, match="2 groups of models that were never compared.*: [ABCD], [ABCD]; "):
        rank(ballots_of("A>B B>A C>D D>C"))


def test_a_model_that_never_won_has_a_bound_and_no_score() -> None:
    """All 20 votes lost to A and B, which are equal at 1000: the bound solves (1 + 10^((s − 1000)/400))^−20 = 0.05."""
    ranking = rank(ballots_of("A>B*10 B>A*10 A>C*10 B>C*10 D>A*3"))
    lost, never_lost = of(ranking, "C"), of(ranking, "D")
    assert lost["score"] is None and lost["interval"][0] is None and "never won (20 votes)" in lost["reason"]
    assert lost["interval"][1] == pytest.approx(1000 + 400 * math.log10(0.05 ** (-1 / 20) - 1), abs=0.01)
    assert never_lost["score"] is None and never_lost["interval"][1] is None and never_lost["rank"] == 1
    assert never_lost["interval"][0] == pytest.approx(1000 - 400 * math.log10(0.05 ** (-1 / 3) - 1), abs=0.01)
    shown = describe(ranking)
    assert "below" in shown and "above" in shown and "C: it never won (20 votes)" in shown
    with pytest.raises(SmidgenError, match="anchor D has no score"):
        rank(ballots_of("A>B*10 B>A*10 D>A*3"), anchor=("D", 1000))


def test_bounds_by_way_of_others_and_none_at_all() -> None:
    """D lost to C only, which has a bound itself; E won against C only, which says nothing of E."""
    ranking = rank(ballots_of("A>B*10 B>A*10 A>C*10 C>D*10 E>C*5"))
    c, d, e = (of(ranking, name) for name in "CDE")
    assert d["interval"][1] < c["interval"][1] and d["score"] is None
    assert e["interval"] == [None, None] and e["rank"] is None and "bounds" in e["reason"]
    assert [one["model"] for one in ranking["models"]][-1] == "E" and "not known" in describe(ranking)


def test_two_models_and_one_always_wins() -> None:
    ranking = rank(ballots_of("A>B*20"))
    assert of(ranking, "B")["score"] is None and of(ranking, "A")["interval"] == [None, None]
    assert "where the scale begins" in of(ranking, "A")["reason"] and ranking["neighbours"][0]["told_apart"] is None


def test_neighbours() -> None:
    close, apart = rank(ballots_of("A>B*52 B>A*48")), rank(ballots_of("A>B*90 B>A*10"))
    assert close["neighbours"][0]["told_apart"] is False and 4000 < close["neighbours"][0]["more_votes"] < 6000
    assert apart["neighbours"][0]["told_apart"] is True and apart["neighbours"][0]["more_votes"] == 0
    equal = rank(ballots_of("A>B*50 B>A*50"))["neighbours"][0]
    assert equal["more_votes"] is None and "no number of votes" in equal["reason"]
    few = rank(ballots_of("A>B*3 A=B*3"))["neighbours"][0]
    assert few["told_apart"] is False  # three wins and three ties may well be chance


def test_what_a_person_and_a_program_read() -> None:
    result = Arena(rank(ballots_of(ROUND + " Ä>A*3 A>Ä*3")))
    assert json.loads(result.to_json()) == result.facts
    text = result.describe()
    assert text.startswith("Ä is first with")
    assert max(map(len, text.splitlines())) <= 80 and "●" in text and "Won against" in text
    many = " ".join(f"m{one}=m{one + 1}*3" for one in range(20))
    assert "win_rates in --json" in describe(rank(ballots_of(many)))


@pytest.mark.parametrize(
    ("votes", "said"),
    [
        ("A>B*90 B>A*10", "A is first with 1191 points, and told apart from the next, B."),
        ("A>B*52 B>A*48", "A is first with 1007 points, but not told apart from B: that takes about"),
        ("A=B*9", "A is first with 1000 points, and B is its equal, as it seems."),
        ("A>B*90 B>A*10 C>A*3 B>D", "Without a score, since their votes are one-sided: C, D."),
        ("A>B*90 B>C*10", "These votes are too one-sided for scores"),
    ],
)
def test_the_first_sentence(votes: str, said: str) -> None:
    assert said in headline(rank(ballots_of(votes)))


def test_names_from_strangers_are_harmless() -> None:
    assert "\x1b" not in describe(rank(ballots_of("A\x1b[31m>B*3 B>A\x1b[31m*3")))
