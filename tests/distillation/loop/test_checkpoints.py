"""Checkpoints: bound to their training, whole or absent, and kept when the next cannot be written."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from smidgen import atomic
from smidgen.distillation.text.batch import Batch
from smidgen.errors import SmidgenError
from tests.distillation.training import OPTIONS, RandomBatches, digest, plain, trainer


def interrupted(folder: Path, **more: Any) -> None:
    """A training that ends after step 7, with a checkpoint of step 5."""

    class Interrupted(RandomBatches):
        def batch(self, step: int) -> Batch:
            if step == 7:
                raise KeyboardInterrupt
            return super().batch(step)

    with pytest.raises(KeyboardInterrupt):
        trainer(plain(), folder, batches=Interrupted(), **more).run()


def test_a_checkpoint_of_other_settings_is_refused(tmp_path: Path) -> None:
    interrupted(tmp_path / "work", fingerprint={"teacher": "abc"})
    other_teacher = trainer(plain(), tmp_path / "work", fingerprint={"teacher": "xyz"})
    with pytest.raises(SmidgenError, match="was begun with teacher 'abc', now it is 'xyz'"):
        other_teacher.run(resume=True)
    other_rate = trainer(
        plain(), tmp_path / "work", replace(OPTIONS, learning_rate=0.5), fingerprint={"teacher": "abc"}
    )
    with pytest.raises(SmidgenError, match="was begun with learning_rate 0.01, now it is 0.5"):
        other_rate.run(resume=True)
    more_often = trainer(
        plain(), tmp_path / "work", replace(OPTIONS, checkpoint_every=1), fingerprint={"teacher": "abc"}
    )
    assert more_often.run(resume=True).steps == 10


def test_without_resume_a_training_begins_anew(tmp_path: Path) -> None:
    interrupted(tmp_path / "work", fingerprint={"teacher": "abc"})
    again, whole = plain(), plain()
    trainer(again, tmp_path / "work").run()
    trainer(whole).run()
    assert digest(again) == digest(whole)


def test_resume_without_a_checkpoint_begins_at_the_beginning(tmp_path: Path) -> None:
    resumed, whole = plain(), plain()
    assert trainer(resumed, tmp_path / "work").run(resume=True).steps == 10
    trainer(whole).run()
    assert digest(resumed) == digest(whole)


@pytest.mark.parametrize("full", ["before", "while writing"])
def test_a_full_disk_leaves_the_checkpoint_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, full: str) -> None:
    def publish(*_: object) -> None:
        raise OSError(28, "No space left on device")

    class Filling(RandomBatches):
        def batch(self, step: int) -> Batch:
            if step == 8 and full == "before":
                monkeypatch.setattr(atomic.shutil, "disk_usage", lambda _: atomic.shutil._ntuple_diskusage(1, 1, 0))
            elif step == 8:
                monkeypatch.setattr(atomic, "_publish", publish)
            return super().batch(step)

    wanted = "needs .* bytes, but its disk has 0 free" if full == "before" else "No space left on device"
    with pytest.raises(SmidgenError, match=wanted) as caught:
        trainer(plain(), tmp_path / "work", batches=Filling()).run()
    assert "\n" not in str(caught.value)
    monkeypatch.undo()
    files = {path.name for path in (tmp_path / "work").iterdir()}
    assert files == {"checkpoint.safetensors", "fingerprint.json"}
    resumed, whole = plain(), plain()
    trainer(resumed, tmp_path / "work").run(resume=True)
    trainer(whole).run()
    assert digest(resumed) == digest(whole)


def test_a_damaged_checkpoint_is_one_line(tmp_path: Path) -> None:
    interrupted(tmp_path / "work")
    path = tmp_path / "work" / "checkpoint.safetensors"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(SmidgenError, match="checkpoint.safetensors is damaged") as caught:
        trainer(plain(), tmp_path / "work").run(resume=True)
    assert "\n" not in str(caught.value)
