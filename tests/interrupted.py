"""Trainings that end before their time, for tests: in the middle of a step, or as a file takes its name."""

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from smidgen.distillation.loop.trainer import Trainer


class Died(BaseException):
    """As if the process had ended there."""


@contextmanager
def dying_at_file(number: int) -> Iterator[None]:
    """The main thread dies when it has given a file its name for the `number`th time, counted from 1."""
    replace, count = os.replace, 0

    def replace_and_die(*names: Any) -> None:
        nonlocal count
        replace(*names)
        if threading.current_thread() is threading.main_thread():
            count += 1
            if count == number:
                raise Died

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "replace", replace_and_die)
        yield


def files_named(work: Callable[[], object]) -> int:
    """How many files the main thread gives a name in some work."""
    replace, count = os.replace, 0

    def counting(*names: Any) -> None:
        nonlocal count
        replace(*names)
        count += threading.current_thread() is threading.main_thread()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "replace", counting)
        work()
    return count


@contextmanager
def asked_to_end(number: int = signal.SIGTERM, step: int = 3, training: int = 1) -> Iterator[None]:
    """The process gets a signal in the middle of a step, counted from 1, of the `training`th training."""
    learn, run, begun = Trainer._learn, Trainer.run, 0

    def counting(self: Trainer, resume: bool = False) -> Any:
        nonlocal begun
        begun += 1
        return run(self, resume)

    def learning(self: Trainer) -> Any:
        if begun == training and self._state.step == step - 1:
            os.kill(os.getpid(), number)
        return learn(self)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Trainer, "run", counting)
        patch.setattr(Trainer, "_learn", learning)
        yield
