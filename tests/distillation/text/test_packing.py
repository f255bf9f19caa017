"""Packed rows: every token once, targets within documents, the same batches whatever came before."""

from collections import Counter
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from smidgen.data.sources import TextSource
from smidgen.data.text import cut_into_windows
from smidgen.distillation.text.batch import NO_TARGET
from smidgen.distillation.text.packing import Document, PackedBatches, text_documents
from smidgen.errors import SmidgenError
from smidgen.formats.opening import open_checkpoint
from smidgen.model.tokenizer import Tokenizer

BOS = 99


def documents(*lengths: int) -> list[Document]:
    """Each token of each document is its own number."""
    first, made = 100, []
    for number, length in enumerate(lengths):
        made.append(Document(range(first, first + length), f"document {number}"))
        first += length
    return made


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(0, 40), min_size=1, max_size=12), st.integers(2, 12), st.sampled_from([BOS, None]))
def test_every_token_is_in_one_row_and_targets_stay_within(lengths: list[int], context: int, bos: int | None) -> None:
    lengths = [*lengths, 5]
    batches = PackedBatches(documents(*lengths), bos, 2, context, 0)
    batch = batches.rows(range(len(batches)))
    groups = batch.documents
    seen, predicted = Counter[int](), Counter[int]()
    for ids, targets, weights, group in zip(batch.ids, batch.targets, batch.weights, groups, strict=True):
        for position in range(context):
            if ids[position] >= 100:
                seen[int(ids[position])] += 1
            if targets[position] != NO_TARGET:
                assert targets[position] == ids[position + 1] and group[position] == group[position + 1]
                predicted[int(targets[position])] += 1
            assert weights[position] == float(targets[position] != NO_TARGET)
    room = context - (bos is not None)
    every = range(100, 100 + sum(lengths))
    if bos is None:
        alone = sum(length % room == 1 or room == 1 for length in lengths)  # a last token with nothing before it
        assert len(seen) >= len(every) - alone * room
    else:
        assert set(seen) == set(predicted) == set(every)
    assert max(seen.values()) == max(predicted.values()) == 1


def test_packing_leaves_little_room() -> None:
    batches = PackedBatches(documents(*range(1, 60)), BOS, 4, 64, 0)
    assert batches.tokens / (len(batches) * 64) > 0.95


def test_a_step_is_a_function_of_its_number() -> None:
    batches = PackedBatches(documents(*[7] * 50), BOS, 4, 8, seed=5)
    again = PackedBatches(documents(*[7] * 50), BOS, 4, 8, seed=5)
    for step in (31, 0, 12):
        assert torch.equal(batches.batch(step).ids, again.batch(step).ids)
    other = PackedBatches(documents(*[7] * 50), BOS, 4, 8, seed=6)
    assert not torch.equal(batches.batch(0).ids, other.batch(0).ids)
    rows = [tuple(row.tolist()) for step in range(25) for row in batches.batch(step).ids]
    assert len(set(rows[:50])) == len(set(rows[50:])) == 50  # every epoch has every row once
    assert rows[:50] != rows[50:]


def test_rows_of_one_document_need_no_mask_and_names_say_where() -> None:
    alone = PackedBatches(documents(7, 7), BOS, 2, 8, 0).batch(0)
    assert alone.apart is None and set(alone.name.split(", ")) == {"document 0", "document 1"}
    assert PackedBatches(documents(3, 3), BOS, 1, 8, 0).batch(0).apart is not None


def test_weights_are_those_of_the_predicted_tokens() -> None:
    answered = Document([5, 6, 7, 8, 9], "answered", [0, 0, 1, 0.5, 0])
    asked_only = Document([5, 6, 7], "asked only", [0, 0, 0])
    batch = PackedBatches([answered, asked_only], None, 1, 6, 0).batch(0)
    assert batch.ids.tolist() == [[5, 6, 7, 8, 9, 0]]
    assert batch.weights.tolist() == [[0, 1, 0.5, 0, 0, 0]]
    with_bos = PackedBatches([answered], BOS, 1, 4, 0)  # cut after the third token
    assert sorted(with_bos.rows([0, 1]).weights.tolist()) == [[0, 0, 1, 0], [0.5, 0, 0, 0]]


@pytest.mark.parametrize("lengths", [[0], [1, 1]])
def test_nothing_to_learn_from_is_refused(lengths: list[int]) -> None:
    with pytest.raises(SmidgenError, match="no document has two tokens"):
        PackedBatches(documents(*lengths), None, 1, 8, 0)
    with pytest.raises(SmidgenError, match="context of 1 token"):
        PackedBatches(documents(5), BOS, 1, 1, 0)


def test_texts_are_windows_of_the_tokenizer(smollm_path: Path) -> None:
    tokenizer = Tokenizer.from_gguf(open_checkpoint(smollm_path).file.metadata)
    source = TextSource.of("tale", "Once upon a time there was a small model. " * 20)
    batches = PackedBatches(text_documents([source], tokenizer, 32), None, 2, 32, 0)
    assert batches.tokens == cut_into_windows(source.text, tokenizer, 32).text_tokens
    assert batches.batch(0).name.startswith("tale, window ")
