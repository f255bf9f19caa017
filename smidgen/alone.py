"""One command at a time in a folder: a second one that would write there is refused. Torch-free.

While a command works in it the folder has a file `.smidgen.lock`, which the system locks (`flock`, or `msvcrt` on
Windows). Such a lock ends with its process, however that ends, so what a dead one has left is simply taken over. Where
the file system knows no locks, two commands cannot be told apart.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from smidgen.errors import SmidgenError, printable

try:
    import fcntl
except ImportError:
    fcntl = None
try:
    import msvcrt
except ImportError:
    msvcrt = None

LOCK = ".smidgen.lock"
_ATTEMPTS = 100  # to get hold of a file that others keep removing
_PLACE = 2**20  # of the byte that Windows locks: beyond what is read of the file


@contextmanager
def alone_in(folder: Path) -> Iterator[None]:
    """Hold a folder, made if it is not there, while the block runs.

    Raises SmidgenError where another command holds it, or where it cannot be written. A folder that was made for this
    and is still empty goes again.
    """
    made = [one for one in (folder, *folder.parents) if not one.exists()]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        descriptor = _held(folder)
    except OSError as error:
        reason = f"{printable(folder)} cannot be written: {error.strerror}."
        raise SmidgenError(f"{reason} Choose another folder with -o.") from error
    try:
        yield
    finally:
        _let_go(folder / LOCK, descriptor)
        with suppress(OSError):  # not empty
            for one in made:
                one.rmdir()


def _held(folder: Path) -> int:
    """An open descriptor of the folder's lock. One that its holder removes in between makes us look again."""
    path = folder / LOCK
    for _ in range(_ATTEMPTS):
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0), 0o666)
        try:
            if not _locks(descriptor):
                raise SmidgenError(
                    f"Another smidgen{_holder(descriptor)} is writing to {printable(folder)}. Wait for it, or choose "
                    "another folder with -o."
                )
            with suppress(FileNotFoundError):
                if os.path.samestat(os.fstat(descriptor), path.stat()):
                    os.ftruncate(descriptor, 0)
                    os.write(descriptor, b"%d\n" % os.getpid())
                    return descriptor
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)
    raise SmidgenError(f"{printable(path)} keeps coming and going; wait for the other smidgen there.")


def _locks(descriptor: int) -> bool:
    """Whether this process has the lock now, or the file system knows none."""
    try:
        if fcntl is not None:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        elif msvcrt is not None:
            os.lseek(descriptor, _PLACE, os.SEEK_SET)
            msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
            os.lseek(descriptor, 0, os.SEEK_SET)
    except (BlockingIOError, PermissionError):
        return False
    except OSError:
        return True
    return True


def _holder(descriptor: int) -> str:
    """Its process, in brackets, where it has written that down."""
    os.lseek(descriptor, 0, os.SEEK_SET)
    said = os.read(descriptor, 20).strip()
    return f" (process {int(said)})" if said.isdigit() else ""


def _let_go(path: Path, descriptor: int) -> None:
    """While the file is locked its name goes, so that nobody waits for it; Windows does not remove open files."""
    if fcntl is not None:
        with suppress(OSError):
            path.unlink()
        os.close(descriptor)
    else:
        os.close(descriptor)
        with suppress(OSError):
            path.unlink()
