"""Batches out of a corpus: exact resume in the middle of an epoch, every row once an epoch, some held out."""

from pathlib import Path

import pytest
import torch

from smidgen.data.corpus.shards import Index, write_shard
from smidgen.distillation.text.batch import NO_TARGET
from smidgen.distillation.text.sharded import ShardedBatches
from smidgen.errors import BadFile, SmidgenError


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    documents = [[0, *range(2, 2 + length), 1] for length in (5, 17, 1, 30, 8, 3, 12, 40)]
    shards = [write_shard(tmp_path / f"{n}.safetensors", documents[n * 4 : n * 4 + 4], 50) for n in range(2)]
    Index("abc", 50, 0, shards).write(tmp_path)
    return tmp_path


def test_a_step_is_the_same_whenever_it_is_asked_for(corpus: Path) -> None:
    batches = ShardedBatches(corpus, 3, 8, seed=1)
    steps = [batches.batch(step) for step in range(9)]
    again = ShardedBatches(corpus, 3, 8, seed=1)
    for step in (7, 2, 5):
        assert torch.equal(again.batch(step).ids, steps[step].ids)
    other = ShardedBatches(corpus, 3, 8, seed=2)
    assert any(not torch.equal(other.batch(step).ids, steps[step].ids) for step in range(9))


def test_every_row_once_an_epoch_and_never_those_held_out(corpus: Path) -> None:
    batches = ShardedBatches(corpus, 1, 8, seed=0, held_out=2)
    epoch = batches.count
    assert batches.steps_per_epoch == epoch and batches.divided
    first, second = ([batches.batch(step).name for step in range(start, start + epoch)] for start in (0, epoch))
    assert len(set(first)) == epoch and set(first) == set(second) and first != second
    assert batches.held_out().ids.shape == (2, 8)
    assert not any(batches.held_out().name.split("rows ")[1].split(", ")[0] == name.split()[-1] for name in first)


def test_what_is_held_out_is_from_every_part_of_the_corpus(corpus: Path) -> None:
    rows = ShardedBatches(corpus, 1, 8, seed=0).count
    batches = ShardedBatches(corpus, 1, 8, seed=0, held_out=4)
    aside = [int(number) for number in batches.held_out().name.split("rows ")[1].split(", ")]
    assert [4 * number // rows for number in aside] == [0, 1, 2, 3]
    learned = {int(batches.batch(step).name.split()[-1]) for step in range(batches.count)}
    assert learned == set(range(rows)) - set(aside)


def test_documents_that_are_measured_on_are_not_learned_from(tmp_path: Path) -> None:
    documents = [[0, *[10 * number + place for place in range(9)], 1] for number in range(100)]  # 11 tokens each
    shards = [write_shard(tmp_path / f"{n}.safetensors", documents[n * 50 : n * 50 + 50], 1000) for n in range(2)]
    Index("abc", 1000, 0, shards).write(tmp_path)
    batches = ShardedBatches(tmp_path, 1, 8, seed=0, held_out=5)

    def numbers(ids: torch.Tensor) -> set[int]:
        return {int(token) // 10 for token in ids[ids > 1]}

    measured = numbers(batches.held_out().ids)
    learned = set[int]().union(*(numbers(batches.batch(step).ids) for step in range(batches.count)))
    assert not batches.divided and not measured & learned
    assert len(measured | learned) >= 90  # of 100: little else is lost


def test_weights_count_predictions_within_documents(corpus: Path) -> None:
    batch = ShardedBatches(corpus, 64, 8, seed=0).batch(0)
    assert batch.documents is not None and batch.name.startswith(str(corpus))
    assert torch.equal(batch.weights > 0, batch.targets != NO_TARGET)
    assert batch.ids[:, 0].eq(0).all()
    inner = (batch.weights[:, :-1] > 0) & (batch.documents[:, 1:] == batch.documents[:, :-1])
    assert inner.sum() > 80
    assert torch.equal(batch.ids[:, 1:][inner], batch.targets[:, :-1][inner])


def test_errors(corpus: Path) -> None:
    with pytest.raises(SmidgenError, match="another model"):
        ShardedBatches(corpus, 1, 8, 0, tokenizer="def")
    with pytest.raises(SmidgenError, match="1000 of them held out"):
        ShardedBatches(corpus, 1, 8, 0, held_out=1000)
    with pytest.raises(SmidgenError, match="nothing to predict"):
        ShardedBatches(corpus, 1, 1, 0)
    (corpus / "1.safetensors").write_bytes(b"x")
    batches = ShardedBatches(corpus, 100, 8, 0)
    with pytest.raises(BadFile, match="is damaged"):
        batches.batch(0)
