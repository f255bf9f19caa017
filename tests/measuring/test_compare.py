"""Which positions and bytes are scored, against the definitions written out over whole logit matrices."""

import math
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from smidgen.data.text import cut_into_windows
from smidgen.errors import SmidgenError, Unsupported
from smidgen.measuring import divergence
from smidgen.measuring.divergence import compare
from smidgen.measuring.pairing import Kept, pair_windows
from smidgen.progress import Task
from tests.data.test_text import ByteTokenizer
from tests.measuring.test_pairing import GreedyTokenizer


class TinyModel:
    """A causal toy: the hidden state is a running mix of random embeddings. Padding on the right cannot be seen."""

    def __init__(self, seed: int, vocabulary: int = 258, logit_cap: float | None = None, context: int = 4096) -> None:
        generator = torch.Generator().manual_seed(seed)
        self.embedding = torch.randn(vocabulary, 16, generator=generator)
        self.head = torch.randn(vocabulary, 16, generator=generator)
        self.config: Any = SimpleNamespace(
            vocabulary=vocabulary, hidden=16, logit_cap=logit_cap, context_length=context, layers=range(30)
        )

    def layer_operations(self, length: int) -> list[float]:
        return [float(length) for _ in self.config.layers]

    def hidden_states(self, windows: Tensor, progress: Task | None = None) -> Tensor:
        for _ in self.config.layers:
            if progress is not None:
                progress.advance()
        return self.embedding[windows].cumsum(dim=1) / torch.arange(1, windows.shape[1] + 1)[:, None].sqrt()

    def head_rows(self, start: int, stop: int) -> Tensor:
        return self.head[start:stop]

    def log_probabilities(self, ids: list[int]) -> Tensor:
        logits = self.hidden_states(torch.tensor([ids]))[0] @ self.head.T
        if self.config.logit_cap is not None:
            logits = self.config.logit_cap * torch.tanh(logits / self.config.logit_cap)
        return logits.double().log_softmax(dim=1)


class TinyLogits:
    """The same seen through its logits alone, some places of a window at a time."""

    def __init__(self, model: TinyModel) -> None:
        self.model, self.at_once, self.config = model, 7, model.config

    def logits(self, windows: Iterable[list[int]]) -> Iterator[Tensor]:
        for ids in windows:
            logits = self.model.hidden_states(torch.tensor([ids]))[0] @ self.model.head.T
            yield from logits.split(self.at_once)


TEXT = "Ein Satz, and a sentence; 漢字 and so on. " * 9


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Several groups of windows, several chunks of the vocabulary, several of positions."""
    monkeypatch.setattr(divergence, "_HEAD_ROWS", 100)
    monkeypatch.setattr(divergence, "_LOGIT_BYTES", 100 * 4 * 30)
    monkeypatch.setattr(divergence, "_HIDDEN_BYTES", 64 * 16 * 4 * 3)


def test_each_layer_is_a_step_of_the_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    tasks = []

    @contextmanager
    def tracked(label: str, total: int) -> Iterator[Task]:
        tasks.append(Task(label, total))
        yield tasks[-1]

    monkeypatch.setattr(divergence, "track", tracked)
    compare(TinyModel(0), TinyModel(1), cut_into_windows(TEXT, ByteTokenizer(), 64), "Comparing")
    (task,) = tasks
    assert task.done == task.total and task.total % (2 * 30 + 3) == 0  # layers of both models, chunks of the head


@pytest.mark.parametrize("adds_bos", [True, False])
def test_figures_are_the_definition(adds_bos: bool) -> None:
    original, cut = TinyModel(0, logit_cap=5.0), TinyModel(0)
    tokenizer = ByteTokenizer(adds_bos)
    windows = cut_into_windows(TEXT, tokenizer, 64)
    assert len(windows) > 4 and windows.lengths[-1] < 64

    kl, same, bits_original, bits_cut, scored_bytes = [], [], 0.0, 0.0, 0
    for row, length in zip(windows.ids.tolist(), windows.lengths.tolist(), strict=True):
        ids = row[:length]
        p, q = original.log_probabilities(ids), cut.log_probabilities(ids)
        for place in range(adds_bos, length):  # every prediction but that after BOS
            kl.append(float((p[place].exp() * (p[place] - q[place])).sum()))
            same.append(bool(p[place].argmax() == q[place].argmax()))
        for place in range(1, length):  # each text token that something stands before
            bits_original -= float(p[place - 1, ids[place]]) / math.log(2)
            bits_cut -= float(q[place - 1, ids[place]]) / math.log(2)
            scored_bytes += 1  # a token of this tokenizer is a byte

    result = compare(original, cut, windows)
    assert result.tokens == len(kl) == len(TEXT.encode()) == windows.text_tokens
    assert result.bytes == scored_bytes == len(TEXT.encode()) - (0 if adds_bos else len(windows))
    assert result.kl_mean == pytest.approx(sum(kl) / len(kl), rel=1e-5)
    assert result.kl_p99 == pytest.approx(float(torch.tensor(kl).quantile(0.99)), rel=1e-4)
    assert result.kl_p999 == pytest.approx(float(torch.tensor(kl).quantile(0.999)), rel=1e-4)
    assert result.same_top1 == pytest.approx(sum(same) / len(same))
    assert result.bits_per_byte_original == pytest.approx(bits_original / scored_bytes, rel=1e-5)
    assert result.bits_per_byte_cut == pytest.approx(bits_cut / scored_bytes, rel=1e-5)
    assert result.kl_standard_error is not None and result.kl_standard_error > 0


@pytest.mark.parametrize("adds_bos", [True, False])
def test_places_without_a_partner_count_for_bits_per_byte_alone(adds_bos: bool) -> None:
    original_tokenizer = GreedyTokenizer(["xab", "abab", "ba", "b x"], adds_bos)
    keep = [token for token in range(261) if original_tokenizer.piece(token) not in (b"xab", b"ba")]
    cut_tokenizer = GreedyTokenizer(["abab", "b x"], adds_bos)
    original, cut = TinyModel(0, 261), TinyModel(1, 259)
    text = "xababx abba, xababx xab " * 12
    windows = cut_into_windows(text, original_tokenizer, 29)
    pairs = pair_windows(windows, text, original_tokenizer, cut_tokenizer, Kept.of(torch.tensor(keep)))
    result = compare(original, cut, pairs)

    kl, bits, cut_bits, scored = [], 0.0, 0.0, 0
    for row, cut_row, partner in zip(pairs.original.rows(), pairs.cut.rows(), pairs.partner.tolist(), strict=True):
        p, q = original.log_probabilities(row), cut.log_probabilities(cut_row)
        for place in range(adds_bos, len(row)):
            if partner[place] >= 0:
                restricted, other = p[place, keep].log_softmax(dim=0), q[partner[place]]
                kl.append(float((restricted.exp() * (restricted - other)).sum()))
        first = next(place for place, other in enumerate(partner) if other >= 0)
        bits -= sum(float(p[i - 1, row[i]]) for i in range(first + 1, len(row))) / math.log(2)
        later = range(partner[first] + 1, len(cut_row))
        cut_bits -= sum(float(q[i - 1, cut_row[i]]) for i in later) / math.log(2)
        scored += sum(len(cut_tokenizer.piece(cut_row[i])) for i in later)

    assert result.aligned == len(kl) / windows.text_tokens < 0.95
    assert result.kl_mean == pytest.approx(sum(kl) / len(kl), rel=1e-5)
    assert result.bytes == scored
    assert result.bits_per_byte_original == pytest.approx(bits / scored, rel=1e-5)
    assert result.bits_per_byte_cut == pytest.approx(cut_bits / scored, rel=1e-5)


def test_a_model_against_itself_costs_nothing() -> None:
    windows = cut_into_windows(TEXT, ByteTokenizer(), 64)
    result = compare(TinyModel(3), TinyModel(3), windows)
    assert (result.kl_mean, result.kl_p999, result.same_top1) == (0.0, 0.0, 1.0)
    assert result.bits_per_byte_original == result.bits_per_byte_cut


def test_padding_is_neither_seen_nor_counted() -> None:
    windows = cut_into_windows(TEXT[:100], ByteTokenizer(), 512)
    padded = compare(TinyModel(0), TinyModel(1), windows)
    exact = compare(TinyModel(0), TinyModel(1), cut_into_windows(TEXT[:100], ByteTokenizer(), windows.text_tokens + 1))
    assert padded.kl_mean == pytest.approx(exact.kl_mean, rel=1e-6)
    assert padded.bits_per_byte_cut == pytest.approx(exact.bits_per_byte_cut, rel=1e-6)
    assert padded.kl_standard_error is None


def test_different_vocabularies_are_refused_before_any_work() -> None:
    with pytest.raises(Unsupported, match="258 and 300 tokens"):
        compare(TinyModel(0), TinyModel(0, vocabulary=300), cut_into_windows(TEXT, ByteTokenizer(), 64))


def test_a_broken_model_is_an_error_and_not_a_figure() -> None:
    broken = TinyModel(1)
    broken.head[200] = torch.nan
    with pytest.raises(SmidgenError, match="weights are damaged"):
        compare(TinyModel(0), broken, cut_into_windows(TEXT, ByteTokenizer(), 64))


@pytest.mark.parametrize("text", ["", "a"])
def test_too_little_text_is_an_error(text: str) -> None:
    with pytest.raises(SmidgenError, match="Give a longer one"):
        compare(TinyModel(0), TinyModel(1), cut_into_windows(text, ByteTokenizer(adds_bos=False), 64))


def test_padding_is_left_out_on_both_sides() -> None:
    """Rows that no text becomes, at other places in each: KL over the tokens, bits per byte over all rows."""
    tokenizer = ByteTokenizer()
    original, cut = TinyModel(0, 270), TinyModel(1, 430)
    ids = torch.tensor([*range(200), *range(205, 263)])
    cut_ids = torch.tensor([*range(150), *range(300, 408)])
    kept = Kept(ids, cut_ids, left_out(270, ids), left_out(430, cut_ids))
    own, cut_own = Renumbered(tokenizer, ids.tolist()), Renumbered(tokenizer, cut_ids.tolist())
    windows = cut_into_windows(TEXT, own, 64)
    pairs = pair_windows(windows, TEXT, own, cut_own, kept)
    result = compare(original, cut, pairs)

    kl, same, masses, bits, cut_bits, scored = [], [], [], 0.0, 0.0, 0
    for row, cut_row in zip(pairs.original.rows(), pairs.cut.rows(), strict=True):
        p, q = original.log_probabilities(row), cut.log_probabilities(cut_row)
        for place in range(1, len(row)):
            kept_p, kept_q = p[place, ids].log_softmax(dim=0), q[place, cut_ids].log_softmax(dim=0)
            kl.append(float((kept_p.exp() * (kept_p - kept_q)).sum()))
            same.append(bool(kept_p.argmax() == kept_q.argmax()))
            masses.append((1 - float(p[place, ids].exp().sum()), 1 - float(q[place, cut_ids].exp().sum())))
            bits -= float(p[place - 1, row[place]]) / math.log(2)
            cut_bits -= float(q[place - 1, cut_row[place]]) / math.log(2)
            scored += 1
    assert result.kl_mean == pytest.approx(sum(kl) / len(kl), rel=1e-5)
    assert result.same_top1 == pytest.approx(sum(same) / len(same))
    assert (result.dropped_mass, result.tokens_dropped, result.aligned) == (0.0, 0.0, 1.0)
    assert result.padding_mass_original == pytest.approx(sum(one for one, _ in masses) / len(masses), rel=1e-5)
    assert result.padding_mass_cut == pytest.approx(sum(other for _, other in masses) / len(masses), rel=1e-5)
    assert result.bits_per_byte_original == pytest.approx(bits / scored, rel=1e-5)
    assert result.bits_per_byte_cut == pytest.approx(cut_bits / scored, rel=1e-5)


def left_out(vocabulary: int, ids: Tensor) -> Tensor:
    return torch.tensor(sorted(set(range(vocabulary)) - set(ids.tolist())))


class Renumbered(ByteTokenizer):
    """The same tokens under other ids."""

    def __init__(self, tokenizer: ByteTokenizer, ids: list[int]) -> None:
        super().__init__(tokenizer.adds_bos)
        self.ids = ids
        self.own = {token: place for place, token in enumerate(ids)}
        self.bos_id = None if tokenizer.bos_id is None else ids[tokenizer.bos_id]

    def encode(self, text: str, *, add_bos: bool = False, parse_special: bool = False) -> list[int]:
        return [self.ids[token] for token in super().encode(text)]

    def decode(self, ids: Iterable[int], *, skip_special: bool = False) -> str:
        return super().decode((self.own[token] for token in ids), skip_special=skip_special)

    def piece(self, token: int) -> bytes:
        return super().piece(self.own[token]) if token in self.own else b""


def test_median_and_buckets_are_the_definition() -> None:
    original, cut = TinyModel(0), TinyModel(1)
    original.head *= 0.5  # sure of some tokens and not of others
    windows = cut_into_windows(TEXT, ByteTokenizer(True), 64)
    kl, sure, same = [], [], []
    for row, length in zip(windows.ids.tolist(), windows.lengths.tolist(), strict=True):
        p, q = original.log_probabilities(row[:length]), cut.log_probabilities(row[:length])
        for place in range(1, length):
            kl.append(float((p[place].exp() * (p[place] - q[place])).sum()))
            sure.append(float(p[place].max().exp()))
            same.append(bool(p[place].argmax() == q[place].argmax()))
    result = compare(original, cut, windows)
    assert result.kl_median == pytest.approx(float(torch.tensor(kl).quantile(0.5)), rel=1e-4)
    assert result.kl_p90 == pytest.approx(float(torch.tensor(kl).quantile(0.9)), rel=1e-4)
    borders = [(bucket["least"], bucket["most"]) for bucket in result.by_sureness]
    assert borders == [(0.0, 0.25), (0.25, 0.5), (0.5, 0.75), (0.75, 1.0)]
    assert sum(bucket["tokens"] for bucket in result.by_sureness) == result.tokens
    for bucket in result.by_sureness:
        here = [
            place
            for place, one in enumerate(sure)
            if bucket["least"] <= one < bucket["most"] or one == 1 == bucket["most"]
        ]
        assert bucket["tokens"] == len(here)
        if here:
            assert bucket["kl_mean"] == pytest.approx(sum(kl[place] for place in here) / len(here), rel=1e-4)
            assert bucket["same_top1"] == pytest.approx(sum(same[place] for place in here) / len(here))
        else:
            assert bucket["kl_mean"] is bucket["same_top1"] is None
    assert len([bucket for bucket in result.by_sureness if bucket["tokens"]]) > 1


@pytest.mark.parametrize("adds_bos", [True, False])
def test_logits_that_come_in_portions_give_the_same_figures(adds_bos: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of one vocabulary, and where the cut has fewer tokens, so that places have no partner."""
    tasks = []

    @contextmanager
    def tracked(label: str, total: int) -> Iterator[Task]:
        tasks.append(Task(label, total))
        yield tasks[-1]

    monkeypatch.setattr(divergence, "track", tracked)
    windows = cut_into_windows(TEXT, ByteTokenizer(adds_bos), 64)
    original, cut = TinyModel(0, logit_cap=5.0), TinyModel(1)
    assert close(compare(original, TinyLogits(cut), windows), compare(original, cut, windows))

    tokenizer, smaller = (
        GreedyTokenizer(["xab", "abab", "ba", "b x"], adds_bos),
        GreedyTokenizer(["abab", "b x"], adds_bos),
    )
    keep = [token for token in range(261) if tokenizer.piece(token) not in (b"xab", b"ba")]
    text = "xababx abba, xababx xab " * 12
    windows = cut_into_windows(text, tokenizer, 29)
    pairs = pair_windows(windows, text, tokenizer, smaller, Kept.of(torch.tensor(keep)))
    original, cut = TinyModel(0, 261), TinyModel(1, 259)
    assert close(compare(original, TinyLogits(cut), pairs), compare(original, cut, pairs))
    assert all(task.done == task.total for task in tasks)


def close(one: divergence.Divergence, other: divergence.Divergence) -> bool:
    pairs = zip(vars(one).values(), vars(other).values(), strict=True)
    return all(
        found == pytest.approx(wanted, rel=1e-5, abs=1e-9) for found, wanted in pairs if isinstance(found, float | int)
    )
