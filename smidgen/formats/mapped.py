"""Files of weights as memory maps: opened only if they are regular files, and pages given back when they were read.

Torch-free; the bounded readers of GGUF and safetensors stand on it.
"""

import mmap
import os
import stat
from pathlib import Path

from smidgen.errors import BadFile, printable


def map_file(path: Path, suffix: str, damaged: str) -> mmap.mmap:
    """Map a regular file, read-only; pipes and devices are refused before opening, since opening a pipe waits.

    suffix: of such files, as in ".gguf", for what to do instead.  damaged: what to do about an empty file.
    Raises BadFile for anything that cannot be mapped.
    """
    shown = printable(path)
    try:
        mode = path.stat().st_mode
        if stat.S_ISDIR(mode):
            raise BadFile(f"{shown} is a folder, not a {suffix} file; give the {suffix} file in it")
        if not stat.S_ISREG(mode):
            raise BadFile(f"{shown} is not a regular file; give the path of a {suffix} file")
        with path.open("rb") as file:
            if not os.fstat(file.fileno()).st_size:
                raise BadFile(f"{shown} is empty (0 bytes); {damaged}")
            return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    except FileNotFoundError as error:
        raise BadFile(f"{shown} does not exist; check the path") from error
    except PermissionError as error:
        raise BadFile(f"{shown} may not be read by this user; check its permissions") from error
    except (OSError, ValueError) as error:
        raise BadFile(f"{shown} cannot be opened ({printable(error)}); check the path and the disk") from error


def give_back(data: mmap.mmap) -> None:
    """Take the pages that were read out of this process's resident set; they are read again when they are needed."""
    if hasattr(data, "madvise"):
        data.madvise(mmap.MADV_DONTNEED)
