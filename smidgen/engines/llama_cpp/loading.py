"""How llama.cpp takes the weights into memory, so that each of them is there once.

llama.cpp maps the file: its pages are those of the system's cache, clean, and can be dropped and read again. On a CPU
it then *repacks* the matrices of some types (Q4_0, IQ4_NL, Q4_K and others, depending on the processor): it copies them
into an order that is multiplied quicker. The mapped originals of the copies are not read again, but they stay
resident, and a head that shares the embedding's matrix is copied although the embedding stays too. So a file made of
such types took more memory than a larger file of others.

Once llama.cpp has loaded, `give_back` takes all mapped pages out of the resident set. Those that the computation reads
come back at the first token, from the system's cache; the originals of the copies never do. What stays is each weight
once, repacked or mapped, at the full speed of repacking.

For Gemma 3 270M cut to 165 MB (benchmarks/memory.py, one thread) that is 304 MB instead of llama.cpp's 418, where the
original of 253 MB takes 391; of the 304, 118 are copies. Without repacking it takes 301 MB and decodes at 0.78 times
the speed. The peak while it loads is 406 MB, or 304 without repacking.

Two other ways, and why they are not the default. Without a map (`mapped=False`) everything is read into memory that
the system cannot drop, and a shared head is still there twice. Without repacking (`repacked=False`) nothing but the
system's own pages holds weights: the peak of loading is lower, several processes share one copy, and a model larger
than the memory still runs, slowly, but decoding is slower where types could be repacked. So repacking is left out where
copies could fill the memory, and only there.

While it loads, a process holds the mapped file and the copies at once. The system may drop the mapped part of that peak
whenever it needs the memory. Giving back works on Linux; elsewhere llama.cpp's own way stays.
"""

import ctypes
import mmap
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from smidgen.memory import usable_memory

_REPACKED_SHARE = 0.5  # of the memory: copies of a larger file could leave too little for other programs
_MAPS = Path("/proc/self/maps")


@dataclass(frozen=True)
class Loading:
    """How one model is loaded.

    mapped: the file is mapped, not read into memory of the process's own.
    repacked: matrices are copied into the processor's order where llama.cpp knows one for their type.
    given_back: pages of the map leave the resident set after loading.
    """

    mapped: bool = True
    repacked: bool = True
    given_back: bool = True

    def set_up(self, params: Any, xllamacpp: Any) -> None:
        """Say so in llama.cpp's parameters."""
        params.no_extra_bufts = not self.repacked
        if not self.mapped:
            params.load_mode = xllamacpp.llama_load_mode.LLAMA_LOAD_MODE_NONE


def choose_loading(paths: Iterable[Path]) -> Loading:
    """For files that are loaded together: repacked, unless they are larger than half the memory."""
    return Loading(repacked=sum(path.stat().st_size for path in paths) <= _REPACKED_SHARE * usable_memory())


def give_back(paths: Iterable[Path]) -> None:
    """Take the mapped pages of these files out of this process's resident set; they are read again when needed."""
    ranges = list(_mapped_ranges(paths))
    if not ranges:
        return
    madvise = ctypes.CDLL(None).madvise
    madvise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
    for start, end in ranges:
        madvise(start, end - start, mmap.MADV_DONTNEED)  # a hint: should the system refuse it, the pages just stay


def _mapped_ranges(paths: Iterable[Path]) -> Iterator[tuple[int, int]]:
    """Addresses of the read-only, shared maps of these files; none on systems that do not list them.

    Only such maps: pages of a private one may hold changes, which would be lost.
    """
    names = {os.path.realpath(path).replace("\n", "\\012") for path in paths}
    try:
        lines = _MAPS.read_text(errors="surrogateescape").splitlines()
    except OSError:
        return
    for line in lines:
        address, permissions, _, _, _, *name = line.split(maxsplit=5)
        if permissions == "r--s" and name and name[0] in names:
            start, end = (int(word, 16) for word in address.split("-"))
            yield start, end
