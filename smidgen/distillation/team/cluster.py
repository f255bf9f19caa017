"""Training, and work that needs no training, on a Ray cluster: `--ray ADDRESS`.

`train_on_ray` has Ray Train start one process for each worker, anywhere in the cluster, and torch's process group among
them; in each of them the same function runs as under `launch` or torchrun, and finds the others with `team.joined`.
When a worker or its host is lost, Ray starts all of them again, and they go on from the last checkpoint. `map_on_ray`
hands pieces of work to workers that have loaded a model once (Ray Data, a pool of actors): caching a teacher, writing
text.

All hosts need smidgen, the models under the same names, and one folder that all can write, for checkpoints and results.
Ray is the extra `cluster`; it sends no statistics anywhere from here.
"""

import logging
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stderr, suppress
from functools import cached_property, partial
from io import TextIOBase
from pathlib import Path
from tempfile import TemporaryDirectory
from threading import Event, Thread
from typing import Any, TypeVar

from smidgen.distillation.teachers.cache import CacheOptions, cache_teacher, join_caches, steps_cached
from smidgen.distillation.teachers.live import Teacher
from smidgen.distillation.team.parallel import BACKEND_OF_ACCELERATORS
from smidgen.distillation.text.batch import Batches
from smidgen.errors import SmidgenError, printable
from smidgen.progress import say, set_quiet, track
from smidgen.ray_cluster import connected, last_line

T = TypeVar("T")
Job = dict[str, Any]

_SECONDS_BETWEEN_NEWS = 0.5


def train_on_ray(
    work: Callable[[bool], T],
    workers: int,
    address: str,
    *,
    resume: bool = False,
    restarts: int = 3,
    gpus: bool = False,
) -> T:
    """As `launch`, with the processes on a cluster. gpus: one for each worker."""
    with connected(address, workers) as ray, TemporaryDirectory() as notes:
        from ray.train import FailureConfig, RunConfig, ScalingConfig
        from ray.train.torch import TorchConfig, TorchTrainer

        mailbox = ray.remote(num_cpus=0)(_Mailbox).remote()
        trainer = TorchTrainer(
            _member,
            train_loop_config={"work": work, "resume": resume, "mailbox": mailbox},
            torch_config=TorchConfig(backend=BACKEND_OF_ACCELERATORS if gpus else "gloo"),
            scaling_config=ScalingConfig(num_workers=workers, use_gpu=gpus),
            run_config=RunConfig(storage_path=notes, failure_config=FailureConfig(max_failures=restarts)),
        )
        try:
            with _relaying(ray, mailbox):
                trainer.fit()
        except RuntimeError as error:
            reason = ray.get(mailbox.open.remote())[1] or (
                f"the training failed on the cluster {restarts + 1} times: {printable(last_line(error), 200)}. Go on "
                "with --resume when its cause is gone."
            )
            raise SmidgenError(reason) from error
        result, error = ray.get(mailbox.open.remote())
    if error is not None:
        raise SmidgenError(error)
    return result


class _Mailbox:
    """What the workers leave for whoever waits, and for those that are started after them."""

    def __init__(self) -> None:
        self._started: set[int] = set()
        self._result: Any = None
        self._error: str | None = None
        self._said = ""

    def started_before(self, rank: int) -> bool:
        """Whether this is not the first worker of its rank."""
        before = rank in self._started
        self._started.add(rank)
        return before

    def leave(self, result: Any, error: str | None) -> None:
        self._result, self._error = result, self._error or error

    def open(self) -> tuple[Any, str | None]:
        return self._result, self._error

    def say(self, text: str) -> None:
        self._said += text

    def news(self) -> list[str]:
        """Whole lines that were said since the last time."""
        *lines, self._said = self._said.split("\n")
        return lines


class _ToMailbox(TextIOBase):
    """Standard error of a worker on another machine."""

    def __init__(self, mailbox: Any) -> None:
        self._mailbox = mailbox

    def write(self, text: str, /) -> int:
        """Sends it."""
        self._mailbox.say.remote(text)
        return len(text)


@contextmanager
def _relaying(ray: Any, mailbox: Any) -> Iterator[None]:
    """Show here what the first worker says. What Ray itself has to say is in its logs."""
    over = Event()

    def relay() -> None:
        with suppress(ray.exceptions.RayError):
            for line in ray.get(mailbox.news.remote()):
                say(line)

    def listen() -> None:
        while not over.wait(_SECONDS_BETWEEN_NEWS):
            relay()

    listener = Thread(target=listen, daemon=True)
    listener.start()
    try:
        yield
    finally:
        over.set()
        listener.join()
        relay()


def _member(config: Job) -> None:
    """One of the processes. An error that a person can act on is not worth another attempt: that one ends at once."""
    import ray
    from ray.train import get_context

    rank, mailbox = get_context().get_world_rank(), config["mailbox"]
    again = ray.get(mailbox.started_before.remote(rank))
    if ray.get(mailbox.open.remote())[1] is not None:
        return
    os.environ["LOCAL_RANK"] = str(get_context().get_local_rank())
    os.environ["LOCAL_WORLD_SIZE"] = str(get_context().get_local_world_size())
    with redirect_stderr(_ToMailbox(mailbox) if rank == 0 else sys.stderr):
        if again and rank == 0:
            say("A worker was lost; all start again from the last checkpoint.")
        try:
            result = config["work"](config["resume"] or again)
        except SmidgenError as error:
            ray.get(mailbox.leave.remote(None, str(error)))
            raise
    if rank == 0:
        ray.get(mailbox.leave.remote(result, None))


def map_on_ray(
    make: Callable[[], Callable[[Job], Job]], jobs: Sequence[Job], workers: int, address: str, *,
    label: str = "Working", gpus: bool = False,
) -> list[Job]:  # fmt: skip
    """What a function that each worker has made for itself gives for each job, in the jobs' order.

    make: a function of a module (or a `partial` of one) that loads what is needed and returns what does a job. Jobs and
    results are plain data. A job whose worker is lost is done again by another.
    """
    with connected(address, workers) as ray:
        from ray.data import ActorPoolStrategy, DataContext, from_items

        logging.getLogger("ray.data").setLevel(logging.CRITICAL)
        DataContext.get_current().enable_progress_bars = False
        pieces = from_items(
            [{"place": place, "job": job} for place, job in enumerate(jobs)], override_num_blocks=len(jobs)
        )
        pool = ActorPoolStrategy(size=min(workers, len(jobs)))
        worker: Any = _Worker  # which Ray makes an actor of, and calls
        done = pieces.map(worker, fn_constructor_args=(make,), compute=pool, num_gpus=1 if gpus else None)
        found: dict[int, Job] = {}
        try:
            with track(label, len(jobs)) as task:
                for row in done.iter_rows():
                    if row["error"]:
                        raise SmidgenError(row["error"])
                    found[row["place"]] = row["result"]
                    task.advance()
        except ray.exceptions.RayError as error:
            raise SmidgenError(f"the work failed on the cluster: {printable(last_line(error), 200)}.") from error
    return [found[place] for place in range(len(jobs))]


class _Worker:
    """One of the actors."""

    def __init__(self, make: Callable[[], Callable[[Job], Job]]) -> None:
        self._make = make

    @cached_property
    def _work(self) -> Callable[[Job], Job]:
        """Made with the first job, where errors are told to people."""
        set_quiet(True)
        return self._make()

    def __call__(self, row: Job) -> Job:
        try:
            return {"place": row["place"], "result": self._work(row["job"]), "error": ""}
        except SmidgenError as error:
            return {"place": row["place"], "result": {}, "error": str(error)}


def cache_on_ray(
    make: Callable[[], tuple[Teacher, Batches]], steps: int, folder: Path, workers: int, address: str, *,
    teacher_sha256: str, fingerprint: Mapping[str, Any], options: CacheOptions = CacheOptions(),  # noqa: B008
    steps_a_job: int = 16,
) -> None:  # fmt: skip
    """As `cache_teacher`, by many workers: each keeps runs of steps in folders beside, which are joined at the end.

    make: loads the teacher and the batches, once in each worker. An interrupted call goes on where it was.
    """
    folder.mkdir(parents=True, exist_ok=True)
    parts = [(start, min(start + steps_a_job, steps)) for start in range(0, steps, steps_a_job)]
    jobs: list[Job] = [
        {"begin": begin, "end": end, "folder": str(folder / f"part-{begin}")}
        for begin, end in parts
        if end > steps_cached(folder)
    ]
    if not jobs:
        return
    settings = {"teacher_sha256": teacher_sha256, "fingerprint": dict(fingerprint), "options": options}
    map_on_ray(partial(_caching, make, settings), jobs, workers, address, label="Asking the teacher")
    join_caches([Path(job["folder"]) for job in jobs], folder)


def _caching(make: Callable[[], tuple[Teacher, Batches]], settings: dict[str, Any]) -> Callable[[Job], Job]:
    """What a worker of `cache_on_ray` does."""
    teacher, batches = make()

    def cache(job: Job) -> Job:
        cache_teacher(teacher, batches, job["end"], Path(job["folder"]), begin=job["begin"], **settings)
        return {"end": job["end"]}

    return cache
