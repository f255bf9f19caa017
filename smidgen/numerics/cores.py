"""Independent pieces of work, each on a core of its own."""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import torch

_Piece = TypeVar("_Piece")
_Result = TypeVar("_Result")


def on_all_cores(work: Callable[[_Piece], _Result], pieces: Sequence[_Piece]) -> list[_Result]:
    """`work` of every piece, in order. For operations that are too small for all cores to meet in each of them.

    What comes out is the same for every number of cores: each operation runs on one. For that time torch's own number
    of threads is 1, in the whole process. Inside of `work` another call of this takes its pieces one by one.
    """
    threads = torch.get_num_threads()
    if threads == 1:
        return [work(piece) for piece in pieces]
    torch.set_num_threads(1)
    try:
        if len(pieces) <= 1:
            return [work(piece) for piece in pieces]
        # A new thread takes OpenMP's number until torch tells it another, which not every operation waits for.
        with ThreadPoolExecutor(min(threads, len(pieces)), initializer=torch.set_num_threads, initargs=(1,)) as pool:
            return list(pool.map(work, pieces))
    finally:
        torch.set_num_threads(threads)
