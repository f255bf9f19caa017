"""What is told of a training: its noise against many drawings, and the words."""

import random
import statistics

import pytest

from smidgen.distillation.loop.watch import Change, Losses


def drawn(chance: random.Random, rows: int) -> tuple[Losses, Losses]:
    """Rows that differ much from each other, and by 0.1 ± 0.05 a token from before to after."""
    weights = tuple(float(chance.randrange(20, 200)) for _ in range(rows))
    before = tuple(weight * chance.gauss(3, 1) for weight in weights)
    after = tuple(was - weight * chance.gauss(0.1, 0.05) for was, weight in zip(before, weights, strict=True))
    return Losses(before, weights), Losses(after, weights)


def test_the_noise_is_how_much_the_difference_varies() -> None:
    chance = random.Random(0)
    pairs = [drawn(chance, 20) for _ in range(2000)]
    differences = [after.mean - before.mean for before, after in pairs]
    noises = [Change.between(*pair).noise or 0 for pair in pairs]
    assert statistics.mean(noises) == pytest.approx(statistics.stdev(differences), rel=0.05)
    assert statistics.mean(noises) < 0.1 * statistics.stdev(before.mean for before, _ in pairs)


def test_one_row_tells_nothing_of_its_noise() -> None:
    change = Change.between(Losses((6.0,), (3.0,)), Losses((3.0,), (3.0,)))
    assert change == Change(2.0, 1.0, None, 1) and str(change) == "2.0000 before, 1.0000 after"


@pytest.mark.parametrize(
    ("change", "said", "worse"),
    [
        (Change(2.0, 1.5, 0.1, 20), "1.5000 after (0.5000 ± 0.1000 lower over 20 rows)", False),
        (Change(2.0, 1.9, 0.1, 20), "1.9000 after (0.1000 ± 0.1000 lower over 20 rows, which may be chance)", False),
        (Change(2.0, 2.4, 0.1, 3), "2.4000 after (0.4000 ± 0.1000 higher over 3 rows, which may be chance)", False),
        (Change(2.0, 2.0, 0.0, 20), "2.0000 after (no difference)", False),
        (Change(2.0, 2.4, 0.1, 20), "2.4000 after (0.4000 ± 0.1000 higher over 20 rows)", True),
    ],
)
def test_words(change: Change, said: str, worse: bool) -> None:
    assert (str(change), change.is_worse) == (f"2.0000 before, {said}", worse)
