"""Rows that the student writes: from which prompts, with which weights, and by which of two writers."""

from collections.abc import Sequence
from pathlib import Path

import pytest
import torch

from smidgen.distillation.loop.on_policy import DecoderWriter, OnPolicy
from smidgen.distillation.students.trainee import Plain
from smidgen.distillation.text.batch import NO_TARGET, Batch
from smidgen.errors import SmidgenError
from smidgen.formats.opening import open_checkpoint
from smidgen.formats.parts import load_decoder
from smidgen.model.decoder import Decoder
from smidgen.training.writing import EngineWriter
from tests.tiny_models import GEMMA3_CONFIG, VOCABULARY, random_decoder, write_llama

END, WIDTH = 1, 10


class Given:
    """Six rows of counting numbers; of the first, four tokens are a prompt."""

    def __init__(self, documents: torch.Tensor | None = None) -> None:
        self._documents = documents

    def batch(self, step: int) -> Batch:
        ids = torch.arange(6 * WIDTH).view(6, WIDTH) + 5
        targets = torch.cat([ids[:, 1:], torch.full((6, 1), NO_TARGET)], dim=1)
        weights = (targets != NO_TARGET).float()
        weights[0, :3] = 0
        documents = torch.zeros_like(ids) if self._documents is None else self._documents
        return Batch(ids, targets, weights, documents)


class Counting:
    """Writes 101, 102, … and ends the second text after two."""

    def __init__(self) -> None:
        self.prompts: list[list[int]] = []

    def __call__(self, prompts: Sequence[Sequence[int]], tokens: Sequence[int], seed: int) -> list[list[int]]:
        self.prompts = [list(prompt) for prompt in prompts]
        texts = [list(range(101, 101 + room)) for room in tokens]
        if len(texts) > 1:
            texts[1] = [101, 102, END]
        return texts


def test_the_student_goes_on_after_prompts_and_openings() -> None:
    writer = Counting()
    batch = OnPolicy(Given(), writer, 1.0, opening=2).batch(0)
    assert writer.prompts[:3] == [[5, 6, 7, 8], [15, 16], [25, 26]]
    assert batch.ids[0].tolist() == [5, 6, 7, 8, *range(101, 107)]
    assert batch.targets[0].tolist() == [6, 7, 8, *range(101, 108)]
    assert batch.weights[0].tolist() == [0, 0, 0, 1, 1, 1, 1, 1, 1, 1]
    assert batch.ids[1].tolist() == [15, 16, 101, 102, END, 0, 0, 0, 0, 0]
    assert batch.targets[1].tolist() == [16, 101, 102, END, *[NO_TARGET] * 6]
    assert batch.weights[1].tolist() == [0, 1, 1, 1, 0, 0, 0, 0, 0, 0]


def test_of_several_documents_the_first_is_gone_on_with() -> None:
    writer, documents = Counting(), (torch.arange(WIDTH) >= 3).long().expand(6, -1)
    batch = OnPolicy(Given(documents), writer, 1.0, opening=5).batch(0)
    assert writer.prompts[0] == [8, 9, 10, 11, 12]  # what counts begins in the second document of this row
    assert writer.prompts[1] == [15, 16, 17]
    assert not batch.documents.any()


def test_the_share_is_that_of_the_rows_and_the_same_every_time() -> None:
    batches = OnPolicy(Given(), Counting(), 0.4, opening=2, seed=5)
    written = [(batches.batch(step).ids[:, -1] != Given().batch(0).ids[:, -1]).tolist() for step in range(100)]
    assert 0.35 < sum(map(sum, written)) / 600 < 0.45
    assert written[:9] == [
        (batches.batch(step).ids[:, -1] != Given().batch(0).ids[:, -1]).tolist() for step in range(9)
    ]
    assert torch.equal(OnPolicy(Given(), Counting(), 0.0).batch(3).ids, Given().batch(3).ids)
    with pytest.raises(SmidgenError, match="not between 0 and 1"):
        OnPolicy(Given(), Counting(), 1.5)


def longhand_greedy(decoder: Decoder, prompt: list[int], tokens: int, end_ids: set[int]) -> list[int]:
    ids = list(prompt)
    while len(ids) < len(prompt) + tokens and (len(ids) == len(prompt) or ids[-1] not in end_ids):
        with torch.no_grad():
            ids.append(int(decoder(torch.tensor([ids]))[0, -1].argmax()))
    return ids[len(prompt) :]


def test_our_decoder_writes_what_it_expects() -> None:
    decoder = random_decoder(GEMMA3_CONFIG)
    prompts, tokens = [[5, 6, 7], [9], [100, 3, 8], [4, 4, 4]], [7, 9, 5, 9]
    free = [longhand_greedy(decoder, prompt, room, set()) for prompt, room in zip(prompts, tokens, strict=True)]
    end_ids = {free[0][3], free[3][1]}
    written = DecoderWriter(Plain(decoder), end_ids, temperature=0.0)(prompts, tokens, seed=0)
    assert written == [longhand_greedy(decoder, p, room, end_ids) for p, room in zip(prompts, tokens, strict=True)]
    assert len(written[0]) < 7


def test_the_seed_decides_what_our_decoder_writes() -> None:
    writer = DecoderWriter(Plain(random_decoder(GEMMA3_CONFIG)), [END])
    first, again, other = (writer([[5, 6], [7, 8]], [20, 20], seed) for seed in (1, 1, 2))
    assert first == again != other
    assert first[0] != first[1]
    batches = OnPolicy(Given(), writer, 0.5, opening=3)
    assert torch.equal(batches.batch(4).ids, batches.batch(4).ids)


def test_llama_cpp_writes_with_the_weights_of_the_moment(tmp_path: Path) -> None:
    prompts, tokens = [[5, 6, 7], [9, 60], [100, 3, 8, 20]], [6, 8, 3]
    with open_checkpoint(write_llama(tmp_path / "student.gguf.original")) as checkpoint:
        trainee = Plain(load_decoder(checkpoint))
        with EngineWriter(checkpoint, trainee, tmp_path / "work", every=2, temperature=0.0) as writer:

            def expected() -> list[list[int]]:
                rows = zip(prompts, tokens, strict=True)
                return [longhand_greedy(trainee.decoder, prompt, room, {1}) for prompt, room in rows]

            before = expected()
            assert writer(prompts, tokens, 0) == before
            with torch.no_grad():
                trainee.decoder.final_norm.weight[: GEMMA3_CONFIG.hidden // 2] *= -1
            after = expected()
            assert after != before
            assert writer(prompts, tokens, 0) == before  # every second time
            assert writer(prompts, tokens, 0) == after
        assert not list((tmp_path / "work").iterdir())
    assert all(0 <= token < VOCABULARY for row in after for token in row)
