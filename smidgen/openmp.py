"""How OpenMP's threads wait for each other: torch wants them asleep, llama.cpp awake for a moment. Torch-free.

By default the threads wait in a busy loop, of milliseconds. With any other work on the machine that makes torch's many
small operations up to 30 times slower, so before torch is loaded they are told to sleep instead. llama.cpp's threads
meet some hundred times for every token: asleep in between, they decode at less than half their speed; in long busy
loops, they burn the time in which the thread that they wait for could run, and decode at a hundredth of it beside other
work. So they look so many times, about a hundredth of a millisecond, and then sleep (benchmarks/busy.py). The wheel has
an OpenMP of its own, which reads the variables when it is loaded.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager

_POLICY, _ASLEEP = "OMP_WAIT_POLICY", "PASSIVE"
_LOOKS, _LOOKS_OF_LLAMA_CPP = "GOMP_SPINCOUNT", "300"


def wait_asleep() -> None:
    """For torch, before it is loaded. What a person has set stays."""
    os.environ.setdefault(_POLICY, _ASLEEP)


@contextmanager
def waiting_awake() -> Iterator[None]:
    """While an engine is loaded whose threads should sleep only after a moment. What a person has set stays."""
    before = {name: os.environ.get(name) for name in (_POLICY, _LOOKS)}
    if before[_POLICY] in (None, _ASLEEP) and before[_LOOKS] is None:
        os.environ.pop(_POLICY, None)
        os.environ[_LOOKS] = _LOOKS_OF_LLAMA_CPP
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name, None)
            if value is not None:
                os.environ[name] = value
