"""Training and other work on a Ray cluster of this machine. One test for all: Ray takes seconds to start."""

from functools import partial
from pathlib import Path

import pytest

from smidgen.distill.cluster import cache_on_ray, connected, map_on_ray, train_on_ray
from smidgen.distill.teacher_cache import CachedTeacher, CacheOptions, cache_teacher
from smidgen.errors import SmidgenError
from smidgen.on_cluster import written_on_ray
from tests.distill.together import lines, refuse_three, teacher_and_batches, train, train_and_be_killed_once
from tests.tiny_models import write_llama

NAMES = {"teacher_sha256": "ab" * 32, "fingerprint": {"texts": "random"}, "options": CacheOptions(4, 4)}


def test_on_ray(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SMIDGEN_HOME", str(tmp_path / "home"))
    with connected("local"):
        _trains_as_one_process_does(tmp_path)
        _caches_what_one_process_does(tmp_path)
        _writes_the_same_with_any_number_of_workers(tmp_path)
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
    cache_teacher(teacher, batches, 5, folder / "cached", **NAMES)
    for steps in (3, 5):  # the second call goes on where the first one ended
        cache_on_ray(teacher_and_batches, steps, folder / "joined", 1, "local", **NAMES, steps_a_job=2)
    alone, joined = (
        CachedTeacher(folder / name, "ab" * 32, {"texts": "random"}) for name in ("cached", "joined")
    )  # fmt: skip
    for step in range(5):
        batch = batches.batch(step)
        weighed = (batch.weights.flatten() != 0).nonzero()[:, 0]
        one, two = (each.targets(batch).chosen(weighed).scores(slice(0, 4), 1.0) for each in (alone, joined))
        assert repr(one) == repr(two)
    assert not list((folder / "joined").glob("part-*"))


def _writes_the_same_with_any_number_of_workers(folder: Path) -> None:
    model = str(write_llama(folder / "tiny.gguf"))
    one, two = (written_on_ray(model, 1500, 7, workers, "local", tokens_a_job=600) for workers in (1, 2))
    assert one == two and len(one.text) > 1000
