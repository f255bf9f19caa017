"""A teacher with other rows of padding: the same distribution over the tokens, and none over the student's padding."""

from pathlib import Path

import pytest
import torch

from smidgen.distillation.objectives.losses import Spelled
from smidgen.distillation.teachers.live import LiveTeacher
from smidgen.distillation.teachers.padded import PaddedTeacher
from smidgen.distillation.teachers.restricted import RestrictedTeacher
from smidgen.distillation.text.batch import Batch
from smidgen.formats.opening import open_checkpoint
from smidgen.model.tokenizer import Tokenizer
from smidgen.model.tokenizers.respelling import Respelling
from tests.distillation.teachers.test_restricted import as_batch, paired
from tests.padded_models import padded
from tests.tiny_models import VOCABULARY, write_llama

IDS = [[5, 100, 270, 299, 7], [260, 261, 262, 263, 264]]


@pytest.fixture
def models(tmp_path: Path) -> list[Path]:
    """300 tokens, with 0, 20 and 40 rows of padding that the last two would like best."""
    plain = write_llama(tmp_path / "plain.gguf")
    return [plain, *(padded(plain, tmp_path / f"{rows}.gguf", rows, 3.0) for rows in (320, 340))]


@pytest.mark.parametrize(("teacher", "student"), [(0, 1), (1, 0), (1, 2), (2, 1)])
def test_targets_are_the_plain_models_over_the_tokens(teacher: int, student: int, models: list[Path]) -> None:
    batch = as_batch(IDS)
    with (
        open_checkpoint(models[0]) as plain,
        open_checkpoint(models[teacher]) as one,
        open_checkpoint(models[student]) as other,
    ):
        expected = LiveTeacher(plain, quick=False).targets(batch).scores(slice(0, 10), 2.0)
        assert isinstance(expected, torch.Tensor)
        tokenizer = Tokenizer.from_gguf(other.tokenizer_metadata)
        live = LiveTeacher(one, quick=False)
        made = PaddedTeacher(live, tokenizer)
        found = made.targets(batch).scores(slice(0, 10), 2.0)
        assert isinstance(found, torch.Tensor)
        assert made.vocabulary == found.shape[1] == other.config.vocabulary
        probabilities = found.softmax(1)
        torch.testing.assert_close(probabilities[:, :VOCABULARY], expected.softmax(1))
        assert float(probabilities[:, VOCABULARY:].sum()) < 1e-30 and found.isfinite().all()
        part = made.targets(batch).chosen(torch.tensor([3, 7])).scores(slice(0, 2), 2.0)
        assert isinstance(part, torch.Tensor)
        torch.testing.assert_close(part, found[[3, 7]])


def test_what_a_student_wrote_in_padding_can_be_read(models: list[Path]) -> None:
    """Its rows are none of the teacher's."""
    batch = as_batch([[5, 339, 310, 7]])
    with open_checkpoint(models[0]) as one, open_checkpoint(models[2]) as other:
        made = PaddedTeacher(LiveTeacher(one, quick=False), Tokenizer.from_gguf(other.tokenizer_metadata))
        found = made.targets(batch).scores(slice(0, 4), 1.0)
        assert isinstance(found, torch.Tensor) and found.shape == (4, 340)


@pytest.mark.parametrize("restrict", [True, False])
def test_padding_of_a_student_with_some_of_the_tokens_is_impossible_too(restrict: bool, models: list[Path]) -> None:
    with open_checkpoint(models[1]) as one, open_checkpoint(models[2]) as other:
        larger, smaller = (Tokenizer.from_gguf(model.tokenizer_metadata) for model in (one, other))
        respelling = Respelling.between(larger, smaller)
        batch: Batch = paired(as_batch([[2, 265, 270, 299]]), larger, smaller, respelling)
        teacher = RestrictedTeacher(LiveTeacher(one, quick=False), respelling, restrict=restrict)
        found = teacher.targets(batch).scores(slice(0, 4), 1.0)
        scores = found.scores if isinstance(found, Spelled) else found
        assert scores.shape == (4, 340)
        counted = scores[batch.weights[0] != 0]
        assert len(counted) and float(counted.softmax(1)[:, VOCABULARY:].sum()) < 1e-20
