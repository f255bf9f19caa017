"""What is held out: together what belongs together, from everywhere, in two sets."""

import random
from collections import Counter

import pytest

from smidgen.distillation.text.held_out import FEWEST_TO_CHOOSE, Split, is_in
from smidgen.distillation.text.packing import Document


def document(name: str, seed: int, length: int = 60) -> Document:
    chance = random.Random(seed)
    return Document([chance.randrange(1000) for _ in range(length)], name, [1.0] * length)


MANY = [document(f"a.jsonl, line {line}", line) for line in range(400)]


def names(documents: list[Document]) -> set[str]:
    return {document.name for document in documents}


def test_every_document_is_on_one_side_and_half_of_what_is_held_out_reports() -> None:
    split = Split.of(MANY, 0.05, seed=0)
    assert (len(split.learned), len(split.choose), len(split.report)) == (380, 10, 10)
    assert len(names(split.learned) | names(split.choose) | names(split.report)) == 400
    assert split.notes("examples") == []
    assert names(Split.of(MANY, 0.05, seed=1).report) != names(split.report)
    assert Split.of(MANY, 0.05, seed=0) == split


def test_pieces_of_one_conversation_stay_together() -> None:
    pieces = [document(f"chats.jsonl, line {number // 4}", number) for number in range(400)]
    split = Split.of(pieces, 0.1, seed=3)
    assert not names(split.learned) & (names(split.choose) | names(split.report))
    assert not names(split.choose) & names(split.report)
    assert set(Counter(piece.name for piece in split.report).values()) == {4}


def test_equal_and_nearly_equal_ones_stay_together() -> None:
    copies = []
    for number in range(300):
        ids = list(document("", number % 100, 300).ids)
        ids[7] += number // 100  # the second and third time with another word
        copies.append(Document(ids, f"line {number}"))
    split = Split.of(copies, 0.1, seed=0)
    learned = {int(name.split()[1]) % 100 for name in names(split.learned)}
    held_out = [int(name.split()[1]) % 100 for name in names(split.choose) | names(split.report)]
    assert held_out and not learned & set(held_out)
    assert set(Counter(held_out).values()) == {3}


def test_every_source_has_its_share() -> None:
    """A language at the end, one at the beginning, and a small one between."""
    sources = {"en": 200, "fi": 40, "de": 160}
    documents = [
        document(f"{name} {line}", hash((name, line))) for name, count in sources.items() for line in range(count)
    ]
    split = Split.of(documents, 0.1, seed=0)
    held_out = Counter(name.split()[0] for name in names(split.choose) | names(split.report))
    assert held_out["en"] == pytest.approx(20, abs=1) and held_out["de"] == pytest.approx(16, abs=1)
    assert held_out["fi"] == pytest.approx(4, abs=1)
    reported = Counter(name.split()[0] for name in names(split.report))
    assert all(reported[name] for name in sources)


def test_a_text_that_is_much_of_all_is_learned_from() -> None:
    """Else a third of the data would go with one example."""
    many = [*MANY, *(Document([5] * 40, f"again {number}") for number in range(200))]
    for seed in range(20):
        split = Split.of(many, 0.05, seed)
        assert sum("again" in name for name in names(split.learned)) == 200


def test_a_system_prompt_that_all_have_makes_none_alike() -> None:
    prompt = document("", 1000, 300).ids
    chats = [Document([*prompt, *document("", number, 12).ids], f"line {number}") for number in range(40)]
    split = Split.of(chats, 0.1, seed=0)
    assert len(split.report) == 2 and len(split.choose) == 2


def test_two_kinds_of_equal_ones_are_learned_from_and_that_is_said() -> None:
    kinds = [Document(document("", number % 2).ids, f"line {number}") for number in range(40)]
    split = Split.of(kinds, 0.05, seed=0)
    assert len(split.learned) == 40 and "too much alike" in split.notes("examples")[0]


@pytest.mark.parametrize("documents", [MANY[:1], [MANY[0]] * 5, []])
def test_one_alone_is_learned_from_and_that_is_said(documents: list[Document]) -> None:
    split = Split.of(documents, 0.5, seed=0)
    assert (split.learned, split.choose, split.report) == (documents, [], [])
    assert "Nothing is held out" in split.notes("examples")[0]


def test_two_are_one_for_each_side() -> None:
    split = Split.of(MANY[:2], 0.05, seed=0)
    assert (len(split.learned), len(split.choose), len(split.report)) == (1, 0, 1)


def test_too_little_chooses_nothing() -> None:
    few, enough = Split.of(MANY, 0.05, 0).rows(64, 0), Split.of(MANY, 0.2, 0).rows(64, 0)
    assert (
        sum(batch.weight() for batch in few.choose)
        < FEWEST_TO_CHOOSE
        < sum(map(lambda row: row.weight(), enough.choose))
    )
    assert (few.can_choose, enough.can_choose) == (False, True)
    assert few.rows == [*few.choose, *few.report]


def test_what_is_in_the_other_set_is_found() -> None:
    nearly = Document([*MANY[3].ids[:-1], 0], "other.jsonl, line 1")
    assert is_in([nearly, document("other.jsonl, line 2", 10_000), MANY[5]], MANY[:50]) == [True, False, True]
