"""One process at a time: in a folder, where a second command is refused; at a path, where it may wait. Torch-free.

While a command works in it the folder has a file `.smidgen.lock`, and beside a path lies `.NAME.lock`, which the system
locks (`flock`, or `msvcrt` on Windows). Such a lock ends with its process, however that ends, so what a dead one has
left is simply taken over. Where the file system knows no locks, two processes cannot be told apart.
"""

import os
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
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
_PAUSE = 0.2  # seconds between two looks at a lock that others have
_PLACE = 2**20  # of the byte that Windows locks: beyond what is read of the file


@contextmanager
def alone_in(folder: Path) -> Iterator[None]:
    """Hold a folder, made if it is not there, while the block runs.

    Raises SmidgenError where another command holds it, or where it cannot be written. A folder that was made for this
    and is still empty goes again.
    """

    def refuse(holder: str) -> None:
        raise SmidgenError(
            f"Another smidgen{holder} is writing to {printable(folder)}. Wait for it, or choose another folder with -o."
        )

    made = [one for one in (folder, *folder.parents) if not one.exists()]
    with ExitStack() as stack:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            stack.callback(_remove_empty, made)
            stack.enter_context(_holding(folder / LOCK, refuse))
        except OSError as error:
            reason = f"{printable(folder)} cannot be written: {error.strerror}."
            raise SmidgenError(f"{reason} Choose another folder with -o.") from error
        yield


@contextmanager
def alone_at(path: Path, taken: Callable[[str], None]) -> Iterator[None]:
    """Hold what is, or will be, at a path, while the block runs. The folder that it is in must be there.

    taken: called once where another process holds it, with that process in brackets where it is known. When this
    returns we wait; what it raises ends the attempt.
    Raises OSError where nothing can be written beside the path.
    """
    with _holding(path.with_name(f".{path.name}.lock"), taken):
        yield


@contextmanager
def _holding(lock: Path, taken: Callable[[str], None]) -> Iterator[None]:
    descriptor = _held(lock, taken)
    try:
        yield
    finally:
        _let_go(lock, descriptor)


def _remove_empty(folders: list[Path]) -> None:
    with suppress(OSError):  # not empty
        for one in folders:
            one.rmdir()


def _held(path: Path, taken: Callable[[str], None]) -> int:
    """An open descriptor of a lock. One that its holder removes in between makes us look again."""
    told = False
    for _ in range(_ATTEMPTS):
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0), 0o666)
        try:
            while not _locks(descriptor):
                if not told:
                    taken(_holder(descriptor))
                    told = True
                time.sleep(_PAUSE)
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
