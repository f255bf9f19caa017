"""How OpenMP's threads wait for each other: torch and llama.cpp want opposite things. Torch-free.

By default the threads wait in a busy loop for a while. With any other work on the machine that makes torch's many small
operations up to 30 times slower, so before torch is loaded they are told to sleep instead. llama.cpp's threads
meet some hundred times for every token; asleep in between, they decode several times slower. Its wheel brings an
OpenMP of its own, which reads the variable when it is loaded, so it is hidden then.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager

_POLICY, _ASLEEP = "OMP_WAIT_POLICY", "PASSIVE"


def wait_asleep() -> None:
    """For torch, before it is loaded. What a person has set stays."""
    os.environ.setdefault(_POLICY, _ASLEEP)


@contextmanager
def waiting_awake() -> Iterator[None]:
    """While an engine is loaded whose threads should not sleep. What a person has set stays."""
    ours = os.environ.get(_POLICY) == _ASLEEP
    if ours:
        del os.environ[_POLICY]
    try:
        yield
    finally:
        if ours:
            os.environ[_POLICY] = _ASLEEP
