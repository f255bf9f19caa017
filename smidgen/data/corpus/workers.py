"""Runs pieces of work in several processes, with results in order and only a few pieces on their way at once."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import AbstractContextManager
from multiprocessing import get_context
from typing import Any, TypeVar

from smidgen.errors import SmidgenError

T = TypeVar("T")


class Workers(AbstractContextManager["Workers"]):
    """`count` processes, each of which first calls `begin(value)`. One works in this process itself.

    They are started afresh, not forked: a fork of a process with threads (torch, tokenizers) may hang.
    """

    def __init__(self, count: int, begin: Callable[[Any], None], value: Any) -> None:
        self._count = count
        self._pool: ProcessPoolExecutor | None = None
        if count > 1:
            self._pool = ProcessPoolExecutor(count, get_context("spawn"), begin, (value,))
        else:
            begin(value)

    def __exit__(self, *_: object) -> None:
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)

    def run(self, work: Callable[..., T], jobs: Iterable[tuple[Any, ...]]) -> Iterator[T]:
        """The results of `work(*job)`, in the jobs' order. Raises SmidgenError for a full disk or a killed process."""
        try:
            if self._pool is None:
                yield from (work(*job) for job in jobs)
            else:
                yield from self._in_processes(self._pool, work, jobs)
        except BrokenProcessPool as error:
            raise SmidgenError(
                "a worker process was killed, most likely because memory ran out. Run again with --resume and fewer "
                "--workers."
            ) from error
        except OSError as error:
            reason = error.strerror or str(error)
            raise SmidgenError(f"the work folder cannot be written: {reason}. Make room and add --resume.") from error

    def _in_processes(
        self, pool: ProcessPoolExecutor, work: Callable[..., T], jobs: Iterable[tuple[Any, ...]]
    ) -> Iterator[T]:
        waiting: deque[Future[T]] = deque()
        for job in jobs:
            waiting.append(pool.submit(work, *job))
            if len(waiting) > self._count:  # one more than can run, so that none has to wait for the reader
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
