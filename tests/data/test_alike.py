"""Near duplicates by their tokens, against the Jaccard similarity written out."""

import random

import pytest

from smidgen.data.alike import groups_of_alike as groups_found

CHANCE = random.Random(1)


def groups_of_alike(texts: list[list[int]]) -> list[int]:
    """For each text the first that it belongs to."""
    groups = groups_found(texts)
    return [groups.first(number) for number in range(len(texts))]


def text(length: int) -> list[int]:
    return [CHANCE.randrange(30_000) for _ in range(length)]


def changed(original: list[int], words: int) -> list[int]:
    copy = list(original)
    for place in CHANCE.sample(range(len(copy)), words):
        copy[place] = 30_000
    return copy


def similarity(one: list[int], other: list[int]) -> float:
    sets = [{tuple(ids[start : start + 5]) for start in range(len(ids) - 4)} for ids in (one, other)]
    return len(sets[0] & sets[1]) / len(sets[0] | sets[1])


def test_copies_with_few_changes_are_alike_and_others_are_not() -> None:
    originals = [text(200) for _ in range(300)]
    near, far = [changed(original, 2) for original in originals], [changed(original, 30) for original in originals]
    assert min(map(similarity, originals, near)) > 0.85 and max(map(similarity, originals, far)) < 0.5
    groups = groups_of_alike([*originals, *near, *far])
    assert groups[:300] == list(range(300))
    assert sum(group == place for place, group in enumerate(groups[300:600])) >= 290
    assert sum(group == place for place, group in enumerate(groups[600:])) <= 30


@pytest.mark.parametrize("length", [1, 2, 4, 5, 6])
def test_short_ones(length: int) -> None:
    one = list(range(length))
    assert groups_of_alike([one, [*one[:-1], 99], one]) == [0, 1, 0]


def test_a_chain_is_one_group_and_the_order_does_not_matter() -> None:
    chain = [text(400)]
    for _ in range(4):
        chain.append(changed(chain[-1], 1))
    assert groups_of_alike([*chain[::2], *chain[1::2]]) == [0] * 5


@pytest.mark.parametrize("copies", [3, 9, 20, 60])
def test_many_copies_are_found(copies: int) -> None:
    original = text(200)
    others = [text(200) for _ in range(6 * copies)]
    near = [changed(original, 1) for _ in range(copies)]
    groups = groups_of_alike([*others, *near])
    assert groups[: len(others)] == list(range(len(others))) and len(set(groups[len(others) :])) <= 2


def test_what_all_have_in_common_makes_none_alike() -> None:
    """A long system prompt before short questions, some of them asked twice with another word at the end."""
    system = text(300)
    questions = [text(12) for _ in range(60)]
    asked = [[*system, *question] for question in [*questions, *questions[:5]]]
    assert groups_of_alike(asked) == [*range(60), *range(5)]
    again = [*asked[:60], [*system, *questions[7], 1]]
    assert groups_of_alike(again)[-1] == 7


def test_none_and_many_equal_ones() -> None:
    assert groups_of_alike([]) == []
    assert groups_of_alike([[1, 2, 3]] * 50) == [0] * 50
