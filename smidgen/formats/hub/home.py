"""Where smidgen keeps what it makes for itself, and a note of what it fetched for others to share. Torch-free.

Downloads lie in the hub's own cache, which belongs to every program of this machine. So that emptying ours takes
nothing from theirs, each file that smidgen fetched is noted in `downloads/`, one path a line, in a file for each repo.
"""

import os
import time
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from smidgen.shell import path_of

_NOTES = "downloads"
_NOTE_BYTES = 2**24


def cache_folder() -> Path:
    """The folder for files that smidgen makes for itself: `SMIDGEN_HOME`, else the platform's cache folder."""
    home = os.environ.get("SMIDGEN_HOME")
    if home:
        return path_of(home)
    from platformdirs import user_cache_path

    return user_cache_path("smidgen")


def answers_folder() -> Path:
    """Where what models answered to tasks is kept, a file for each model (engines/remembered.py)."""
    return cache_folder() / "answers"


def rates_folder() -> Path:
    """Where it is kept how quick types of weights are on this machine (engines/llama_cpp/type_rates.py)."""
    return cache_folder() / "rates"


def environments_folder() -> Path:
    """Where the environments are that were made for other frameworks (engines/frameworks/environment.py)."""
    return cache_folder() / "frameworks"


def notes_folder() -> Path:
    """Where the notes of downloads are."""
    return cache_folder() / _NOTES


def note_fetched(repo_folder: Path, blobs: Iterable[Path]) -> None:
    """Note that smidgen is about to fetch these files. Where that cannot be written, they stay when ours are removed.

    repo_folder: the repo's folder in the hub's cache.
    """
    note = notes_folder() / f"{repo_folder.name}.txt"
    with suppress(OSError):
        known = set(fetched(note))
        lines = [f"{blob.absolute()}\n" for blob in blobs if blob.absolute() not in known]
        note.parent.mkdir(parents=True, exist_ok=True)
        with note.open("a", encoding="utf-8", errors="surrogateescape") as file:
            file.write("".join(lines))  # in one piece: two processes may append


def fetched(note: Path) -> list[Path]:
    """The files that a note names, each once."""
    try:
        if note.stat().st_size > _NOTE_BYTES:
            return []
        lines = note.read_text(encoding="utf-8", errors="surrogateescape").splitlines()
    except OSError:
        return []
    return [Path(line) for line in dict.fromkeys(lines) if line]


def mark_used(path: Path) -> None:
    """Set the time of last use of a file, or of a folder's files: most systems keep it only roughly.

    The time of their last change stays.
    """
    with suppress(OSError):  # on a cache that is only read
        for file in path.iterdir() if path.is_dir() else (path,):
            os.utime(file, ns=(time.time_ns(), file.stat().st_mtime_ns))
