"""Rows: every token predicted exactly once an epoch, never across documents, in an order that is a pure function."""

from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from smidgen.data.corpus.order import Rows, shuffled
from smidgen.data.corpus.shards import Corpus, Index, write_shard

BOS, END = 0, 1


@settings(deadline=None)
@given(st.integers(1, 700), st.integers(0, 2**40))
def test_a_shuffle_is_a_permutation(count: int, key: int) -> None:
    assert sorted(shuffled(place, count, key) for place in range(count)) == list(range(count))


def test_shuffles_differ_and_do_not_keep_neighbours() -> None:
    count = 1000
    first, second = ([shuffled(place, count, key) for place in range(count)] for key in (0, 1))
    assert sum(a == b for a, b in zip(first, second, strict=True)) < 10
    assert sum(abs(a - b) == 1 for a, b in zip(first, first[1:], strict=False)) < 10
    quarters = Counter((place // 250, value // 250) for place, value in enumerate(first))
    assert max(quarters.values()) < 95 and min(quarters.values()) > 35  # 62.5 are expected, ± 7


@st.composite
def corpora(draw: st.DrawFn) -> tuple[list[list[list[int]]], int | None]:
    """Shards of documents as they are stored, and the BOS they begin with."""
    bos = draw(st.sampled_from([BOS, None]))
    body = st.lists(st.integers(2, 50), min_size=1, max_size=20)
    documents = draw(st.lists(st.lists(body, min_size=1, max_size=5), min_size=1, max_size=4))
    front = [] if bos is None else [bos]
    return [[[*front, *text, END] for text in shard] for shard in documents], bos


@settings(deadline=None)
@given(corpora(), st.integers(2, 16))
def test_rows_hold_each_token_once_as_a_target(
    tmp_path_factory: pytest.TempPathFactory, corpus: tuple[list[list[list[int]]], int | None], context: int
) -> None:
    stored, bos = corpus
    folder: Path = tmp_path_factory.mktemp("corpus")
    shards = [write_shard(folder / f"{number}.safetensors", shard, 51) for number, shard in enumerate(stored)]
    rows = Rows(Corpus(folder, Index("", 51, bos, shards)), context)
    predicted: list[int] = []
    for number in range(len(rows)):
        row = rows.row(number)
        assert len(row.ids) == len(row.targets) == len(row.known) == len(row.documents) == context
        assert (row.documents[1:] >= row.documents[:-1]).all() and row.documents[0] == 0
        predicted += row.targets[row.known].tolist()
        same = row.documents[1:] == row.documents[:-1]
        inner = row.known[:-1] & same
        assert (row.ids[1:][inner] == row.targets[:-1][inner]).all()
        assert not row.known[1:][row.known[:-1] & ~same].any()  # only padding follows there
        if bos is not None:
            assert row.ids[0] == bos
            starts = [0, *(place for place in range(1, context) if row.documents[place] != row.documents[place - 1])]
            real = [place for place in starts if row.known[place:].any()]
            assert all(row.ids[place] == bos for place in real)
    documents = [document for shard in stored for document in shard]
    assert predicted == [token for document in documents for token in document[1:]]


def test_reading_across_shards(tmp_path: Path) -> None:
    documents = [[[2, 3], [4]], [[5]], [[6, 7, 8]]]
    shards = [write_shard(tmp_path / f"{n}.safetensors", shard, 70_000) for n, shard in enumerate(documents)]
    corpus = Corpus(tmp_path, Index("", 70_000, None, shards))
    for start in range(8):
        for stop in range(start, 10):
            tokens, begins = corpus.read(start, stop)
            assert tokens.tolist() == [2, 3, 4, 5, 6, 7, 8][start:stop]
            assert begins.tolist() == [place - start for place in (0, 2, 3, 4) if start <= place < min(stop, 7)]
