"""A live teacher says what its decoder says, in a few rows at a time and in either number format."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from smidgen.distillation.teachers import live as teachers
from smidgen.distillation.teachers.live import LiveTeacher
from smidgen.distillation.text.batch import NO_TARGET, Batch
from smidgen.errors import SmidgenError
from smidgen.formats.opening import open_checkpoint
from smidgen.formats.parts import load_decoder
from tests.tiny_models import VOCABULARY, write_gemma3, write_llama


def batch(rows: int = 5, length: int = 20) -> Batch:
    ids = torch.randint(VOCABULARY, (rows, length), generator=torch.Generator().manual_seed(0))
    targets = torch.cat([ids[:, 1:], torch.full((rows, 1), NO_TARGET)], dim=1)
    return Batch(ids, targets, (targets != NO_TARGET).float(), torch.zeros_like(ids))


@pytest.mark.parametrize("write", [write_gemma3, write_llama])
def test_it_says_what_its_decoder_says(
    write: Callable[[Path], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(teachers, "_TOKENS_AT_ONCE", 45)  # two rows of twenty tokens
    monkeypatch.setattr(teachers, "_ROWS_AT_ONCE", 7)
    with open_checkpoint(write(tmp_path / "model.gguf")) as checkpoint:
        given, decoder = batch(), load_decoder(checkpoint)
        with torch.no_grad():
            expected = decoder(given.ids).flatten(0, 1)
        exact, quick = LiveTeacher(checkpoint, quick=False), LiveTeacher(checkpoint)
    positions = torch.arange(3, 90, 4)
    scores = exact.targets(given).chosen(positions).scores(slice(2, 9), 2.0)
    assert isinstance(scores, torch.Tensor)
    torch.testing.assert_close(scores, expected[positions[2:9]] / 2, rtol=1e-4, atol=1e-4)
    assert not scores.requires_grad
    rough = quick.targets(given).scores(slice(0, 100), 1.0)
    assert isinstance(rough, torch.Tensor)
    assert (rough - expected).abs().mean() < 0.1 * expected.std()
    assert exact.vocabulary == quick.vocabulary == VOCABULARY


def test_documents_do_not_see_one_another(tmp_path: Path) -> None:
    with open_checkpoint(write_llama(tmp_path / "model.gguf")) as checkpoint:
        live, quick = LiveTeacher(checkpoint, quick=False), LiveTeacher(checkpoint)
    given = batch(2)
    numbers = (torch.arange(20) >= 8).long().expand(2, -1)
    together = live.hidden_states(given.ids, numbers)
    torch.testing.assert_close(together[:, :8], live.hidden_states(given.ids[:, :8]), rtol=1e-4, atol=1e-4)
    assert (together[:, 8:] - live.hidden_states(given.ids)[:, 8:]).abs().max() > 0.01
    assert (quick.hidden_states(given.ids, numbers) - together).abs().mean() < 0.1 * together.std()


def test_one_that_is_large_for_this_machine_says_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It stays in its file, decoded where it is used."""
    given = batch(2)
    with open_checkpoint(write_llama(tmp_path / "big.gguf")) as checkpoint:
        whole = LiveTeacher(checkpoint, quick=False)
        monkeypatch.setattr("smidgen.formats.frozen.usable_memory", lambda: 100_000)
        frozen = LiveTeacher(checkpoint)
        assert not [name for name, value in frozen.decoder.named_parameters() if value.dim() > 1]
        assert torch.equal(frozen.hidden_states(given.ids), whole.hidden_states(given.ids))
        assert torch.equal(frozen.head, whole.head)


def test_batches_in_other_tokens_are_refused(tmp_path: Path) -> None:
    with open_checkpoint(write_llama(tmp_path / "model.gguf")) as checkpoint:
        live = LiveTeacher(checkpoint)
    given = batch()
    other = Batch(given.ids, given.targets, given.weights, given.documents, "a text", given.ids, given.ids)
    with pytest.raises(SmidgenError, match="other tokens than the teacher in a text"):
        live.targets(other)
