"""Training and other work on a Ray cluster of this machine. One test for all: Ray takes seconds to start."""

from contextlib import ExitStack
from functools import partial
from pathlib import Path

import pytest

from smidgen.data.sources import TextSource
from smidgen.distillation.students.fresh import FreshShape
from smidgen.distillation.teachers.cache import CachedTeacher, CacheOptions, cache_teacher, steps_cached
from smidgen.distillation.team.cluster import cache_on_ray, map_on_ray, train_on_ray
from smidgen.errors import SmidgenError
from smidgen.ray_cluster import connected
from smidgen.training.begun import day_of
from smidgen.training.lesson import DistillOptions, Lesson
from smidgen.training.on_cluster import author, prepared_on_ray, written_on_ray
from tests.cutting.test_cut import TEXT
from tests.distillation.together import lines, refuse_three, teacher_and_batches, train, train_and_be_killed_once
from tests.tiny_models import write_llama

NAMES = {"teacher_sha256": "ab" * 32, "fingerprint": {"texts": "random"}, "options": CacheOptions(4, 4)}


def test_on_ray(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = str(write_llama(tmp_path / "tiny.gguf"))
    monkeypatch.setenv("SMIDGEN_HOME", str(tmp_path / "our home"))
    jobs = [{"seed": 7 * 1_000_003 + place, "tokens": tokens} for place, tokens in enumerate((64, 64, 22))]
    written = "\n\n".join(author(model)(job)["text"] for job in jobs)
    monkeypatch.setenv("SMIDGEN_HOME", str(tmp_path / "home"))
    with connected("local", 2):
        _trains_as_one_process_does(tmp_path)
        _caches_what_one_process_does(tmp_path)
        for address in ("local", "what is written is kept"):
            assert written_on_ray(model, 150, 7, 2, address, tokens_a_job=64).text == written
        _prepares_a_distillation(tmp_path, model)
        with pytest.raises(SmidgenError, match="^three is not to be had$"):
            map_on_ray(refuse_three, [{"n": number} for number in range(5)], 1, "local")


def _trains_as_one_process_does(folder: Path) -> None:
    """Although a worker is killed on the way."""
    evaluations, loss = train_on_ray(partial(train_and_be_killed_once, folder / "two"), 2, "local")
    train(folder / "one")
    one, two = lines(folder / "one"), lines(folder / "two")
    assert [line["loss"] for line in two] == pytest.approx([line["loss"] for line in one], rel=1e-4)
    assert loss == two[-1]["loss"] and len(evaluations) == 4


def _caches_what_one_process_does(folder: Path) -> None:
    teacher, batches = teacher_and_batches()
    for name, steps in (("cached", 5), ("joined", 3)):
        cache_teacher(teacher, batches, steps, folder / name, **NAMES)
    cache_on_ray(teacher_and_batches, 5, folder / "joined", 1, "local", **NAMES, steps_a_job=2)  # goes on there
    alone, joined = (
        CachedTeacher(folder / name, "ab" * 32, {"texts": "random"}) for name in ("cached", "joined")
    )  # fmt: skip
    for step in range(5):
        batch = batches.batch(step)
        weighed = (batch.weights.flatten() != 0).nonzero()[:, 0]
        one, two = (each.targets(batch).chosen(weighed).scores(slice(0, 4), 1.0) for each in (alone, joined))
        assert repr(one) == repr(two)
    assert not list((folder / "joined").glob("part-*"))


def _prepares_a_distillation(folder: Path, model: str) -> None:
    """The teacher has said all that it will be asked, and the training finds that."""
    options = DistillOptions(
        2, (TextSource.of("letters", TEXT[:2000]),), shape=FreshShape(layers=1), batch=2, context=32, cache_teacher=True
    )
    prepared, resume = prepared_on_ray(model, None, folder / "out", options, 2, "local", resume=False)
    assert prepared == options and resume
    with ExitStack() as stack:
        lesson = Lesson.open(model, None, options, stack)
        workspace = lesson.open_workspace(folder / "out", day_of(folder / "out", resume).isoformat(), resume)
        assert steps_cached(lesson.cache_folder(workspace)) == lesson.asked()[1] == 2 + len(lesson.held_out().rows)
