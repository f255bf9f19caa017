"""Writes a file so that its name never shows half of it, whatever happens.

The bytes go to `.NAME.partial` beside the target, are forced to disk, and take the target's name in one step. An error
or Ctrl-C removes the partial file. Only a killed process or a power cut can leave one; the next write to the same
target takes it over, since a lock that dies with its process tells a leftover from a write in progress.
"""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from smidgen.alone import LOCK, alone_in
from smidgen.errors import SmidgenError, printable

try:
    import fcntl
except ImportError:  # Windows, where an open file cannot be opened or removed by another process anyway
    fcntl = None


class Busy(SmidgenError):
    """Another process writes the same file just now."""


ATTEMPTS = 100  # to get hold of a partial file that other writers keep finishing


def partial_path(target: Path) -> Path:
    """Where the bytes of `target` are until they are complete."""
    return target.with_name(f".{target.name}.partial")


@contextmanager
def replacing(target: Path, size: int) -> Iterator[BinaryIO]:
    """Open a file for `size` bytes that becomes `target` when the block ends without an exception.

    Raises SmidgenError, before the block is entered, when the folder is missing or not writable, another process is
    writing the same target, or the disk has less than `size` bytes free; and when writing in the block fails (disk
    full).
    """
    refuse_unwritable(target)
    partial = partial_path(target)
    try:
        file = _open_alone(partial, target)
        try:
            file.truncate(0)
            refuse_full_disk(target, size)
            yield file
            _publish(file, partial, target)
        except BaseException:
            with suppress(OSError):
                partial.unlink()
            raise
        finally:
            with suppress(OSError):  # what could not be flushed has been reported already
                file.close()
    except OSError as error:
        reason = error.strerror or "the disk may be full"
        message = f"{printable(target)} cannot be written ({reason}); check the folder and the space on its disk"
        raise SmidgenError(message) from error


def refuse_unwritable(target: Path) -> None:
    """Raises SmidgenError where a file of this name cannot be made. Writes nothing, so it can be asked early."""
    folder = target.parent
    cannot = f"{printable(target)} cannot be written"
    if not folder.exists():
        raise SmidgenError(f"{cannot}: there is no folder {printable(folder)}; make it first")
    if not folder.is_dir():
        raise SmidgenError(f"{cannot}: {printable(folder)} is not a folder; choose another")
    if not os.access(folder, os.W_OK | os.X_OK):
        raise SmidgenError(f"{cannot}: {printable(folder)} is not writable by this user; choose another folder")
    if target.is_dir():
        raise SmidgenError(f"{cannot}: it is a folder; choose another name")


def refuse_unmakeable(folder: Path, advice: str) -> None:
    """Raises SmidgenError, ending in `advice`, where a folder neither is there and writable nor can be made.

    Makes nothing, so it can be asked early.
    """
    nearest = next(one for one in (folder, *folder.absolute().parents) if one.exists())
    if not nearest.is_dir():
        raise SmidgenError(f"{printable(folder)} cannot be a folder: {printable(nearest)} is a file. {advice}")
    if not os.access(nearest, os.W_OK | os.X_OK):
        why = f"{printable(nearest)} is not writable by this user"
        raise SmidgenError(f"{printable(folder)} cannot be written: {why}. {advice}")


@contextmanager
def making_folder(folder: Path) -> Iterator[None]:
    """Make a folder that the block fills; it must not exist or be empty. If the block fails, nothing of it is left.

    Raises SmidgenError where there is something in it, another smidgen fills it, or it cannot be made.
    """
    refuse_filled(folder)  # before the lock, which is a file
    with alone_in(folder):
        refuse_filled(folder)
        try:
            yield
        except BaseException:
            _empty(folder)
            raise


def refuse_filled(folder: Path) -> None:
    """Raises SmidgenError where there is something in a folder. One that is not there has nothing in it."""
    if folder.is_dir() and any(path.name != LOCK for path in folder.iterdir()):
        whose = ": a smidgen writes there, or one was ended in the midst of it" if (folder / LOCK).exists() else ""
        raise SmidgenError(f"{printable(folder)} is not empty{whose}. Choose another folder with -o.")


def _empty(folder: Path) -> None:
    for path in folder.iterdir():
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        elif path.name != LOCK:
            path.unlink()


def refuse_full_disk(target: Path, size: int) -> None:
    """Raises SmidgenError where the disk of `target`'s folder has less than `size` bytes free."""
    free = shutil.disk_usage(target.parent).free
    if free < size:
        needs = f"{printable(target)} needs {size} bytes, but its disk has {free} free"
        raise SmidgenError(f"{needs}; make room or choose another folder")


def _open_alone(partial: Path, target: Path) -> BinaryIO:
    """Open or take over the partial file, locked. A writer that finishes in between makes us look again."""
    flags = os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_BINARY", 0)
    for _ in range(ATTEMPTS):
        descriptor = os.open(partial, flags, 0o666)
        try:
            _lock(descriptor, target)
            with suppress(FileNotFoundError):
                if os.path.samestat(os.fstat(descriptor), partial.stat()):
                    return os.fdopen(descriptor, "wb")
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)
    raise _busy(target)


def _lock(descriptor: int, target: Path) -> None:
    if fcntl is None:
        return
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise _busy(target) from error
    except OSError:
        return  # a file system without locks: two writers at once cannot be told apart there


def _busy(target: Path) -> Busy:
    return Busy(f"{printable(target)} is being written by another process; wait for it or choose another name")


def _publish(file: BinaryIO, partial: Path, target: Path) -> None:
    file.flush()
    os.fsync(file.fileno())
    if fcntl is None:
        file.close()  # Windows does not rename open files
    os.replace(partial, target)
    with suppress(OSError):  # not every system can sync a folder; the file itself is safe
        descriptor = os.open(target.parent, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def remove_partial(target: Path) -> None:
    """Remove what a killed writer left of `target`; what is being written just now stays."""
    partial = partial_path(target)
    with suppress(OSError, Busy):
        descriptor = os.open(partial, os.O_RDWR)
        try:
            _lock(descriptor, target)
            partial.unlink()
        finally:
            os.close(descriptor)


def write_whole(path: Path, text: str) -> None:
    """Write a small text file, UTF-8, the same way. Raises SmidgenError where it cannot be written."""
    data = text.encode("utf-8")
    with replacing(path, len(data)) as file:
        file.write(data)
