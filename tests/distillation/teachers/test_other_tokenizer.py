"""Teachers with another tokenizer: which positions are paired, what is compared there, what is refused."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from smidgen.distillation.objectives import losses
from smidgen.distillation.objectives.losses import DistillObjective, Divergence
from smidgen.distillation.teachers.other_tokenizer import Aligned, OtherTokenizerTeacher, RankedTarget
from smidgen.distillation.text.batch import NO_TARGET, Batch
from smidgen.errors import SmidgenError
from smidgen.formats.opening import open_checkpoint
from smidgen.model.decoder import Decoder
from smidgen.model.tokenizer import Tokenizer
from tests.tiny_models import GEMMA3_CONFIG, LLAMA_CONFIG, VOCABULARY, random_decoder

TEXTS = ("The unbelievably gleaming café was closed, naïvely enough.", " It cost 1234 dollars;\n\nnobody paid… 日本語")


class OneBatch:
    def __init__(self, batch: Batch) -> None:
        self._batch = batch

    def batch(self, step: int) -> Batch:
        return self._batch


@pytest.fixture(scope="module")
def tokenizers(gemma_path: Path, smollm_path: Path) -> tuple[Tokenizer, Tokenizer]:
    """A student's with BOS and spaces put before texts or not, and a teacher's of another kind."""
    first, second = (Tokenizer.from_gguf(open_checkpoint(path).file.metadata) for path in (gemma_path, smollm_path))
    return first, second


def batch_of(rows: list[list[int]], documents: list[list[int]] | None = None) -> Batch:
    width = max(map(len, rows))
    ids, weights = torch.zeros(len(rows), width, dtype=torch.long), torch.zeros(len(rows), width)
    for place, row in enumerate(rows):
        ids[place, : len(row)] = torch.tensor(row)
        weights[place, : len(row)] = 1
    return Batch(
        ids,
        torch.full_like(ids, NO_TARGET),
        weights,
        torch.zeros_like(ids) if documents is None else torch.tensor(documents),
        "notes.txt",
    )


@pytest.mark.parametrize("turned", [False, True])
def test_paired_positions_have_read_the_same_bytes(tokenizers: tuple[Tokenizer, Tokenizer], turned: bool) -> None:
    student, teacher = reversed(tokenizers) if turned else tokenizers
    batch = batch_of([student.encode(text, add_bos=student.adds_bos) for text in TEXTS])
    aligned = Aligned(OneBatch(batch), student, teacher).batch(0)
    assert aligned.teacher_ids is not None and aligned.teacher_positions is not None
    for row, text in enumerate(TEXTS):
        expected = teacher.encode(text, add_bos=teacher.adds_bos)
        assert aligned.teacher_ids[row, : len(expected)].tolist() == expected
        paired = 0
        for place, position in enumerate(aligned.teacher_positions[row].tolist()):
            if position < 0:
                continue
            paired += 1
            read, taught = (
                b"".join(tokenizer.piece(token) for token in ids if token != tokenizer.bos_id)
                for tokenizer, ids in (
                    (student, batch.ids[row, : place + 1].tolist()),
                    (teacher, aligned.teacher_ids[row, : position + 1].tolist()),
                )
            )
            assert read == taught
        assert paired > 5
        last = int(batch.weights[row].sum()) - 1
        assert aligned.teacher_positions[row, last] == len(expected) - 1  # the whole text


def test_documents_of_a_row_are_read_one_by_one(tokenizers: tuple[Tokenizer, Tokenizer]) -> None:
    student, teacher = tokenizers
    parts = [student.encode(text, add_bos=student.adds_bos) for text in TEXTS]
    row, numbers = parts[0] + parts[1], [0] * len(parts[0]) + [1] * len(parts[1])
    aligned = Aligned(OneBatch(batch_of([row], [numbers])), student, teacher).batch(0)
    separate = [Aligned(OneBatch(batch_of([part])), student, teacher).batch(0) for part in parts]
    ids = [part.teacher_ids[0] for part in separate if part.teacher_ids is not None]
    assert aligned.teacher_ids is not None and aligned.teacher_positions is not None
    assert torch.equal(aligned.teacher_ids[0], torch.cat(ids))
    places = [part.teacher_positions[0] for part in separate if part.teacher_positions is not None]
    moved = torch.where(places[1] < 0, places[1], places[1] + len(ids[0]))
    assert torch.equal(aligned.teacher_positions[0], torch.cat([places[0], moved]))


def test_what_cannot_be_aligned_is_refused(tokenizers: tuple[Tokenizer, Tokenizer]) -> None:
    student, teacher = tokenizers
    with pytest.raises(SmidgenError, match="the same tokens"):
        Aligned(OneBatch(batch_of([[1]])), student, student)
    chat = student.encode("<start_of_turn>user\nHello", add_bos=True, parse_special=True)
    with pytest.raises(SmidgenError, match=r"<start_of_turn> in notes\.txt"):
        Aligned(OneBatch(batch_of([chat])), student, teacher).batch(0)
    whole = (teacher.token_text(token) for token in range(1000, len(teacher)))
    begun = next(ids for word in whole if word.isalpha() and word.isascii() and len(ids := student.encode(word)) == 2)
    ids, targets = torch.tensor([begun[:1]]), torch.tensor([begun[1:2]])
    batch = Batch(ids, targets, torch.ones(1, 1), torch.zeros_like(ids), "notes.txt")
    with pytest.raises(SmidgenError, match=r"never stop at the same byte of notes\.txt"):
        Aligned(OneBatch(batch), student, teacher).batch(0)


class Live:
    """A decoder that reads."""

    def __init__(self, decoder: Decoder) -> None:
        self.decoder, self.config = decoder, decoder.config

    @property
    def head(self) -> Tensor:
        return self.decoder.embedding.weight

    def hidden_states(self, ids: Tensor, documents: Tensor | None = None) -> Tensor:
        return self.decoder.hidden_states(ids, documents=documents)


@pytest.mark.parametrize("teacher_tokens", [200, 450])
def test_the_loss_is_that_of_the_paper(teacher_tokens: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Sorted probabilities of both at every paired position, the shorter vocabulary filled up with zeros."""
    monkeypatch.setattr(losses, "_LOGITS", 3 * VOCABULARY)
    student = random_decoder(LLAMA_CONFIG)
    teacher = random_decoder(replace(GEMMA3_CONFIG, vocabulary=teacher_tokens), 1)
    generator = torch.Generator().manual_seed(2)
    ids = torch.randint(VOCABULARY, (2, 9), generator=generator)
    positions = torch.tensor([[0, -1, 2, 3, -1, 5, 6, 9], [-1, 1, 2, -1, 4, 7, -1, 8]])
    batch = Batch(
        ids[:, :-1], ids[:, 1:], torch.rand(2, 8, generator=generator), torch.zeros(2, 8, dtype=torch.long),
        teacher_ids=torch.randint(teacher_tokens, (2, 10), generator=generator), teacher_positions=positions,
    )  # fmt: skip
    objective = DistillObjective(OtherTokenizerTeacher(Live(teacher), VOCABULARY), Divergence(hard=0.4))
    loss, sums = objective(student, batch)

    logits = student(batch.ids)
    cross_entropy = torch.nn.functional.cross_entropy(logits.mT, batch.targets, reduction="none")
    assert batch.teacher_ids is not None
    width = max(VOCABULARY, teacher_tokens)
    q, p = (
        torch.nn.functional.pad(scores.softmax(-1).sort(descending=True).values, (0, width - scores.shape[-1]))
        for scores in (logits, teacher(batch.teacher_ids))
    )
    taught = torch.take_along_dim(p, positions.clamp(min=0)[..., None], 1)
    distance = (q - taught).abs().sum(-1) * (positions >= 0)
    expected = ((0.6 * distance + 0.4 * cross_entropy) * batch.weights).sum()
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)
    assert set(sums) == {"cross_entropy"}
    parameters = [parameter for name, parameter in student.named_parameters() if "down" in name or "head" in name]
    slopes = [torch.autograd.grad(value, parameters, retain_graph=True) for value in (loss, expected)]
    for mine, longhand in zip(*slopes, strict=True):
        assert torch.allclose(mine, longhand, rtol=1e-3, atol=1e-6)


def test_ranks_alone_are_refused() -> None:
    student, teacher, ids = random_decoder(LLAMA_CONFIG), random_decoder(GEMMA3_CONFIG, 1), torch.arange(4)[None]
    batch = Batch(ids, ids, torch.ones(1, 4), torch.zeros_like(ids))
    objective = DistillObjective(OtherTokenizerTeacher(Live(teacher), VOCABULARY))
    with pytest.raises(SmidgenError, match="align"):
        objective(student, batch)
    with pytest.raises(SmidgenError, match="cross-entropy"):
        objective(student, replace(batch, teacher_ids=ids, teacher_positions=ids))


def test_few_ranks_and_a_temperature() -> None:
    generator = torch.Generator().manual_seed(0)
    hidden, head = torch.randn(3, 8, generator=generator), torch.randn(50, 8, generator=generator)
    target = RankedTarget(hidden, torch.ones(3, dtype=torch.bool), head, 4.0, 6)
    found = target.chosen(torch.tensor([0, 2])).scores(slice(1, 2), 2.0)
    p = (4 * torch.tanh(hidden[2] @ head.T / 4) / 2).softmax(0).sort(descending=True).values
    assert torch.allclose(found.probabilities[0], p[:6], rtol=1e-5)
    assert found.rest.item() == pytest.approx(p[6:].sum().item(), rel=1e-4)
