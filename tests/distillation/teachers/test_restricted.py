"""Students with some of the teacher's tokens: spellings, texts read side by side, and whose probability goes where."""

from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from smidgen.distillation.objectives.losses import DistillObjective, Divergence, Spelled
from smidgen.distillation.teachers.cache import CachedTeacher, CacheOptions, cache_teacher
from smidgen.distillation.teachers.live import LiveTeacher, Teacher
from smidgen.distillation.teachers.restricted import RestrictedTeacher, teach, teacher_documents
from smidgen.distillation.text.batch import NO_TARGET, Batch
from smidgen.distillation.text.paired import NO_POSITION, Paired
from smidgen.errors import SmidgenError, Unsupported
from smidgen.formats.checkpoint import Checkpoint
from smidgen.formats.gguf.reader import GGUFFile
from smidgen.formats.opening import open_checkpoint
from smidgen.model.tokenizer import Tokenizer
from smidgen.model.tokenizers.respelling import Respelling
from smidgen.model.tokenizers.subset import Pieces, subset
from tests.model.test_tokenizer_subset import KINDS, byte_level, llama3, sentencepiece, types_of
from tests.tiny_models import LLAMA_CONFIG, LLAMA_KEYS, gguf_tensors, random_decoder, write_model

TEXT = "the quick brown fox jumps over the lazy dog, and then other people sing those songs\n\nnobody knows 字 é"


def tokenizers(metadata: dict[str, Any], keep: int) -> tuple[Tokenizer, Tokenizer, Respelling]:
    """A tokenizer, one of about `keep` of its tokens, and how they stand to each other."""
    pieces = Pieces(metadata)
    order = list(pieces.in_order([*sorted(pieces.essential), *range(len(pieces))]))
    kept = np.array(sorted(order[: max(keep, len(pieces.closed([])))]))
    larger = Tokenizer.from_gguf(metadata)
    smaller = Tokenizer.from_gguf(subset(metadata, types_of(metadata), kept)[0])
    respelling = Respelling.between(larger, smaller)
    assert respelling.kept.tolist() == kept.tolist()
    return larger, smaller, respelling


@cache
def made(make: Callable[[], dict[str, Any]]) -> tuple[Tokenizer, Tokenizer, Respelling]:
    metadata = make()
    return tokenizers(metadata, 300 if make is not sentencepiece else 310)


def as_batch(rows: list[list[int]], documents: list[list[int]] | None = None) -> Batch:
    width = max(map(len, rows))
    ids = torch.tensor([row + [0] * (width - len(row)) for row in rows])
    targets = torch.tensor([row[1:] + [NO_TARGET] * (width - len(row) + 1) for row in rows])
    numbers = torch.zeros_like(ids) if documents is None else torch.tensor(documents)
    return Batch(ids, targets, (targets != NO_TARGET).float(), numbers, "a text")


class Once:
    """Batches of which there is one."""

    def __init__(self, batch: Batch) -> None:
        self._batch = batch

    def batch(self, step: int) -> Batch:
        return self._batch


def paired(batch: Batch, larger: Tokenizer, smaller: Tokenizer, respelling: Respelling) -> Batch:
    return Paired.respelled(Once(batch), smaller, larger, respelling).batch(0)


# -- spellings -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("make", KINDS)
def test_every_dropped_token_is_spelled_and_reads_the_same(make: Callable[[], dict[str, Any]]) -> None:
    larger, smaller, respelling = made(make)
    assert len(smaller) < len(larger)
    for token, spelling in zip(respelling.dropped.tolist(), respelling.spellings, strict=True):
        assert b"".join(smaller.piece(piece) for piece in spelling) == larger.piece(token)
        assert respelling.smaller_ids[token] == -1
    gone = np.flatnonzero((respelling.smaller_ids < 0) & (respelling.ranks < 0)).tolist()
    assert all(token in larger.control for token in gone)
    for token in range(len(smaller)):
        assert smaller.token_text(token) == larger.token_text(int(respelling.kept[token]))


@pytest.mark.parametrize("make", KINDS)
def test_texts_have_the_spellings(make: Callable[[], dict[str, Any]]) -> None:
    """What the student's tokenizer makes of a word is what the table says of the word's token."""
    larger, smaller, respelling = made(make)
    found = 0
    spaces = ("", " ") if make in (byte_level, llama3) else ("",)
    for word in (space + word for word in TEXT.split() for space in spaces):
        ids = larger.encode(word)
        if len(ids) == 1 and respelling.ranks[ids[0]] >= 0:
            assert smaller.encode(word) == list(respelling.spellings[respelling.ranks[ids[0]]])
            found += 1
    assert found


@pytest.mark.parametrize("make", KINDS)
def test_beginnings_of_spellings_are_looked_up(make: Callable[[], dict[str, Any]]) -> None:
    _, _, respelling = made(make)
    beginnings = {spelling[:size] for spelling in respelling.spellings for size in range(1, len(spelling) + 1)}
    for pieces in [*beginnings, (0, 0, 0)]:
        size = len(pieces)
        longhand = [i for i, s in enumerate(respelling.spellings) if s[:size] == pieces and len(s) > size]
        assert list(respelling.beginning_with(pieces)) == longhand
        if longhand:
            expected = [respelling.spellings[place][size] for place in longhand]
            assert respelling.next_pieces(respelling.beginning_with(pieces), size).tolist() == expected


def test_another_vocabulary_is_refused() -> None:
    larger, smaller, _ = made(byte_level)
    with pytest.raises(Unsupported, match="the student's token .* is not one of the teacher's"):
        Respelling.between(smaller, larger)
    assert Respelling.between(larger, larger).same


def test_a_real_vocabulary(smollm_path: Path) -> None:
    with GGUFFile.open(smollm_path) as file:
        larger, smaller, respelling = tokenizers(dict(file.metadata), 16_384)
    assert len(respelling.dropped) == len(larger) - len(smaller)
    text = "An extraordinarily complicated sentence about thermodynamics,\n\twith naïve Übermut and 漢字."
    batch = paired(as_batch([smaller.encode(text)]), larger, smaller, respelling)
    assert batch.teacher_ids is not None
    assert batch.teacher_ids[0].tolist() == larger.encode(text)


# -- texts side by side ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("make", KINDS)
def test_teacher_positions_have_read_the_same_bytes(make: Callable[[], dict[str, Any]]) -> None:
    larger, smaller, respelling = made(make)
    bos = smaller.bos_id
    whole = smaller.encode(TEXT)
    rows = [([] if bos is None else [bos]) + whole[:60], whole[7:40], smaller.encode("b" + TEXT[:20])]
    batch = paired(as_batch(rows), larger, smaller, respelling)
    assert batch.teacher_ids is not None
    assert batch.teacher_positions is not None
    shared = 0
    for row, ids in enumerate(rows):
        for place, position in enumerate(batch.teacher_positions[row, : len(ids) - 1].tolist()):
            read = b"".join(smaller.piece(token) for token in ids[: place + 1])
            ends = [b"".join(larger.piece(t) for t in batch.teacher_ids[row, : n + 1].tolist()) for n in range(80)]
            same = [n for n, text in enumerate(ends[: batch.teacher_ids.shape[1]]) if text in (read, b" " + read)]
            assert position == (same[0] if same else NO_POSITION)
            shared += position != NO_POSITION
    assert shared > 30


def test_bytes_that_are_no_text_are_byte_tokens_for_both() -> None:
    larger, smaller, respelling = made(sentencepiece)
    half = [token for token in range(len(smaller)) if smaller.piece(token) in (b"\xe5", b"\xad")]
    ids = [*smaller.encode("the"), *half, *smaller.encode("dog")]
    batch = paired(as_batch([ids]), larger, smaller, respelling)
    assert batch.teacher_positions is not None
    assert (batch.teacher_positions[0, -4:] != NO_POSITION).any()
    assert batch.teacher_ids is not None
    spelled = b"".join(larger.piece(token) for token in batch.teacher_ids[0].tolist())
    assert b"\xe5\xad" in spelled or b"\xad\xe5" in spelled


def test_documents_follow_the_text_to_the_teachers_positions() -> None:
    larger, smaller, respelling = made(sentencepiece)
    assert smaller.bos_id is not None
    first, second = [smaller.bos_id, *smaller.encode("the quick fox")], [smaller.bos_id, *smaller.encode("nobody")]
    numbers = [0] * len(first) + [1] * len(second)
    batch = paired(as_batch([first + second], [numbers]), larger, smaller, respelling)
    assert batch.teacher_ids is not None
    documents = teacher_documents(batch)
    assert documents is not None
    begins = batch.teacher_ids[0].tolist().index(int(respelling.kept[smaller.bos_id]), 1)
    assert documents[0].tolist() == [0] * begins + [1] * (len(documents[0]) - begins)


# -- whose probability goes where ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> tuple[LiveTeacher, Checkpoint]:
    """A tiny Llama with as many tokens as `sentencepiece`."""
    metadata = sentencepiece()
    tokens = metadata["tokenizer.ggml.tokens"]
    config = replace(LLAMA_CONFIG, vocabulary=len(tokens), logit_cap=None)
    path = tmp_path_factory.mktemp("teacher") / "t.gguf"
    keys = LLAMA_KEYS | {"vocab_size": len(tokens)}
    write_model(path, "llama", keys, gguf_tensors(random_decoder(config)), [f"t{i}" for i in range(len(tokens))])
    checkpoint = open_checkpoint(path)
    return LiveTeacher(checkpoint, quick=False), checkpoint


def longhand(
    probabilities: torch.Tensor, respelling: Respelling, pieces: tuple[int, ...], restrict: bool
) -> torch.Tensor:
    """q of the module's text, one token of the teacher after the other."""
    q = torch.zeros(respelling.smaller, dtype=torch.float64)
    for token, probability in enumerate(probabilities.double()):
        kept, rank = int(respelling.smaller_ids[token]), int(respelling.ranks[token])
        if kept >= 0 and not pieces:
            q[kept] += probability
        elif rank >= 0 and (pieces or not restrict):
            spelling = respelling.spellings[rank]
            if spelling[: len(pieces)] == pieces and len(spelling) > len(pieces):
                q[spelling[len(pieces)]] += probability
    return q / q.sum()


@pytest.mark.parametrize("restrict", [False, True])
@pytest.mark.parametrize("temperature", [1.0, 2.0])
def test_targets_are_those_of_the_longhand_sums(
    teacher: tuple[LiveTeacher, Checkpoint], restrict: bool, temperature: float
) -> None:
    larger, smaller, respelling = made(sentencepiece)
    live, _ = teacher
    assert smaller.bos_id is not None
    batch = paired(as_batch([[smaller.bos_id, *smaller.encode(TEXT)]]), larger, smaller, respelling)
    assert batch.teacher_ids is not None
    assert batch.teacher_positions is not None
    learned = RestrictedTeacher(live, respelling, restrict=restrict)
    assert learned.vocabulary == len(smaller)
    count = batch.ids.shape[1] - 1
    target = learned.targets(batch).chosen(torch.arange(count))
    parts = [target.scores(slice(start, start + 7), temperature) for start in range(0, count, 7)]
    scores = torch.cat([part.scores if isinstance(part, Spelled) else part for part in parts])
    p = (live.hidden_states(batch.teacher_ids)[0] @ live.head.T).softmax(1)
    before, pieces, inside, from_text = 0, (), 0, 0
    for place in range(count):
        position = int(batch.teacher_positions[0, place])
        if position != NO_POSITION:
            before, pieces = position, ()
        else:
            pieces = (*pieces, int(batch.ids[0, place]))
        rank = int(respelling.ranks[int(batch.teacher_ids[0, before + 1])])
        if pieces and (rank < 0 or respelling.spellings[rank][: len(pieces)] != pieces):
            expected = torch.nn.functional.one_hot(batch.targets[0, place], respelling.smaller).double()
            from_text += 1
        else:
            expected = longhand(p[before], respelling, pieces, restrict)
            expected = expected ** (1 / temperature) / (expected ** (1 / temperature)).sum()
            inside += bool(pieces)
        torch.testing.assert_close(scores[place].softmax(0).double(), expected, rtol=2e-4, atol=1e-9)
    assert torch.isfinite(scores).all()
    assert inside > 5


def test_it_needs_paired_batches(teacher: tuple[LiveTeacher, Checkpoint]) -> None:
    _, smaller, respelling = made(sentencepiece)
    with pytest.raises(SmidgenError, match="pair them"):
        RestrictedTeacher(teacher[0], respelling).targets(as_batch([smaller.encode(TEXT)]))


def test_a_student_learns_its_own_spelling_live_and_from_disk(
    teacher: tuple[LiveTeacher, Checkpoint], tmp_path: Path
) -> None:
    """Texts with dropped tokens, read side by side, until the student says what the teacher says of its pieces."""
    larger, smaller, respelling = made(sentencepiece)
    texts = [smaller.encode(text) for text in (TEXT[:50], TEXT[30:90], "the lazy fox runs")]
    batches = Paired.respelled(Once(as_batch(texts)), smaller, larger, respelling)
    batch, learned = batches.batch(0), RestrictedTeacher(teacher[0], respelling)
    options = CacheOptions(len(smaller), 0)
    cache_teacher(learned, batches, 1, tmp_path, teacher_sha256="aa", fingerprint={}, options=options)
    student = random_decoder(replace(LLAMA_CONFIG, vocabulary=len(smaller)), seed=1)
    live, cached = DistillObjective(learned), DistillObjective(CachedTeacher(tmp_path, "aa", {}))
    optimizer = torch.optim.Adam(student.parameters(), 0.01)
    losses = []
    for _ in range(40):
        loss, _ = live(student, batch)
        losses.append(float(loss.detach()) / batch.weight())
        torch.testing.assert_close(cached(student, batch)[0], loss, rtol=2e-3, atol=2e-3)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert losses[-1] < 0.25 * losses[0]


def test_the_reverse_divergence_is_not_ruled_by_impossible_spellings(
    teacher: tuple[LiveTeacher, Checkpoint], tmp_path: Path
) -> None:
    """Inside a spelling the loss is the forward divergence, from a teacher in memory as from one on disk."""
    larger, smaller, respelling = made(sentencepiece)
    batches = Paired.respelled(Once(as_batch([smaller.encode(TEXT)])), smaller, larger, respelling)
    batch, learned = batches.batch(0), RestrictedTeacher(teacher[0], respelling)
    options = CacheOptions(len(smaller), 0)
    cache_teacher(learned, batches, 1, tmp_path, teacher_sha256="aa", fingerprint={}, options=options)
    assert batch.teacher_positions is not None
    inside = (batch.teacher_positions == NO_POSITION).float()
    assert inside.sum() > 5 and (1 - inside).sum() > 5
    student = random_decoder(replace(LLAMA_CONFIG, vocabulary=len(smaller)), seed=1)
    parameters = list(student.parameters())

    def loss(known: Teacher, kind: str, weights: torch.Tensor) -> tuple[torch.Tensor, tuple[torch.Tensor, ...]]:
        part = replace(batch, weights=batch.weights * weights.clamp(min=1e-7))  # a cache knows which places count
        found, _ = DistillObjective(known, Divergence(kind))(student, part)  # type: ignore[arg-type]
        return found.detach() / part.weight(), torch.autograd.grad(found / part.weight(), parameters)

    for known in (learned, CachedTeacher(tmp_path, "aa", {})):
        reverse, forward = (loss(known, kind, inside) for kind in ("reverse", "forward"))
        torch.testing.assert_close(reverse, forward)
        elsewhere, _ = loss(known, "reverse", 1 - inside)
        everywhere, _ = loss(known, "reverse", torch.ones_like(inside))
        share = float(inside.sum() / batch.weights.count_nonzero())
        assert float(everywhere) == pytest.approx(share * float(reverse[0]) + (1 - share) * float(elsewhere), rel=0.1)
        assert float(reverse[0]) < 12


def test_the_teacher_is_chosen_by_the_two_vocabularies(tmp_path: Path) -> None:
    tokens = ["<pad>", "</s>", "<s>", "<unk>", *(f"<0x{byte:02X}>" for byte in range(256)), *"ab▁", "ab", "▁ab"]
    sizes = {"teacher": tokens, "student": tokens[:-1], "stranger": [*tokens[:-1], "ba"]}
    opened: dict[str, Checkpoint] = {}
    for name, listed in sizes.items():
        decoder = random_decoder(replace(LLAMA_CONFIG, vocabulary=len(listed)))
        keys = LLAMA_KEYS | {"vocab_size": len(listed)}
        opened[name] = open_checkpoint(
            write_model(tmp_path / f"{name}.gguf", "llama", keys, gguf_tensors(decoder), listed)
        )
    batches = Once(as_batch([[2, 263, 2, 5]]))
    found, same = teach(opened["teacher"], opened["teacher"], batches)
    assert isinstance(found, LiveTeacher)
    assert same is batches
    found, other = teach(opened["teacher"], opened["student"], batches)
    assert isinstance(found, RestrictedTeacher)
    assert found.vocabulary == len(tokens) - 1
    assert other.batch(0).teacher_ids is not None
    with pytest.raises(Unsupported, match="token 264, 'ba', is not one of the teacher's"):
        teach(opened["teacher"], opened["stranger"], batches)
