"""A teacher on disk knows a row whatever stands beside it: batches as they are read, epochs, workers."""

import json
import math
import tempfile
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from smidgen.distillation.objectives.losses import Listed, Target
from smidgen.distillation.teachers.cache import CachedTeacher, CacheOptions, cache_teacher
from smidgen.distillation.team.parallel import share_of
from smidgen.distillation.text.batch import Batch
from smidgen.formats.checkpoint import Checkpoint
from smidgen.formats.opening import open_checkpoint
from smidgen.training.text import TrainingText, read_training_text
from tests.distillation.teachers.test_cache import Dense
from tests.tiny_models import VOCABULARY, write_llama

LETTERS = "abcdefgh ijklmnop\nqrstuvwxyz"


class Sums:
    """A teacher of whom it can be told what it has read: its scores go by the sum of a document's tokens so far."""

    vocabulary = VOCABULARY

    def __init__(self) -> None:
        self._table = 2 * torch.randn(97, VOCABULARY, generator=torch.Generator().manual_seed(0))

    def targets(self, batch: Batch) -> Target:
        sums = torch.zeros_like(batch.ids)
        for row, ids in enumerate(batch.ids.tolist()):
            for place, token in enumerate(ids):
                begins = place == 0 or batch.documents[row, place] != batch.documents[row, place - 1]
                sums[row, place] = token + (0 if begins else int(sums[row, place - 1]))
        return Dense(self._table[sums % 97].flatten(0, 1))


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    return open_checkpoint(write_llama(tmp_path_factory.mktemp("model") / "llama.gguf"))


def read(model: Checkpoint, lengths: list[int], rows: int, context: int, seed: int, folder: Path) -> TrainingText:
    """Lines of these lengths, by the reader that a distillation uses."""
    path = folder / "texts.jsonl"
    texts = (LETTERS[number % 20 :] + number * LETTERS for number in range(len(lengths)))
    lines = [json.dumps({"text": text[:length]}) for text, length in zip(texts, lengths, strict=True)]
    path.write_text("\n".join(lines) + "\n")
    return read_training_text(model, model, (), (path,), rows=rows, context=context, tokens=1000, seed=seed)


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    lengths=st.lists(st.integers(3, 60), min_size=1, max_size=24), rows=st.integers(1, 5),
    context=st.sampled_from([16, 33, 64]), seed=st.integers(0, 3), workers=st.integers(1, 3),
)  # fmt: skip
def test_every_row_is_known_in_any_company(
    model: Checkpoint, lengths: list[int], rows: int, context: int, seed: int, workers: int
) -> None:
    """Two epochs and a half, shared by some processes, against the teacher asked again."""
    teacher = Sums()
    with tempfile.TemporaryDirectory() as name:
        text = read(model, lengths, rows, context, seed, Path(name))
        steps = math.ceil(text.rows / rows)
        options = CacheOptions(VOCABULARY, 0)
        cache_teacher(teacher, text.batches, steps, Path(name), teacher_sha256="a", fingerprint={}, options=options)
        cached = CachedTeacher(Path(name), "a", {})
        for step in range(math.ceil(2.5 * steps)):
            for rank in range(workers):
                compare(teacher, cached, share_of(text.batches.batch(step), rank, workers))


def test_epochs_of_mixed_lengths_are_learned_from(model: Checkpoint, tmp_path: Path) -> None:
    """A row of one document beside rows of one document, and then beside a row of several."""
    text = read(model, [60, 60, 60, 20, 20, 20], 2, 64, 1, tmp_path)
    batches = [text.batches.batch(step) for step in range(12)]
    assert {batch.apart is None for batch in batches} == {True, False}
    cache_teacher(Sums(), text.batches, math.ceil(text.rows / 2), tmp_path, teacher_sha256="a", fingerprint={},
                  options=CacheOptions(VOCABULARY, 0))  # fmt: skip
    for batch in batches:
        compare(Sums(), CachedTeacher(tmp_path, "a", {}), batch)


def compare(teacher: Sums, cached: CachedTeacher, batch: Batch) -> None:
    """What is known of a batch, and what the teacher says of it."""
    places = (batch.weights.flatten() != 0).nonzero()[:, 0]
    run = slice(0, len(places))
    found, said = (one.targets(batch).chosen(places).scores(run, 1.0) for one in (cached, teacher))
    assert isinstance(found, Listed) and isinstance(said, torch.Tensor)
    probabilities = torch.zeros_like(said).scatter_(1, found.ids, found.probabilities)
    torch.testing.assert_close(probabilities, said.softmax(1), rtol=1e-3, atol=1e-6)
