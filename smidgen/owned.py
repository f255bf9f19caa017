"""Which files of a folder smidgen wrote: a verb replaces only what a verb wrote. Torch-free.

`.smidgen.json` in the folder lists them with their hashes. Before a verb writes, it claims the names (a hash of null:
in the making); at its end the hashes are taken. So a README.md that was there before, or that a person has changed
since, is never replaced without a word, and what an interrupted run left can be.
"""

import hashlib
import json
from collections.abc import Callable, Iterable
from pathlib import Path

from smidgen.atomic import write_whole
from smidgen.errors import SmidgenError, printable

MANIFEST = ".smidgen.json"
_SCHEMA = 1
_MANIFEST_BYTES = 2**20


def refuse_others(folder: Path, names: Iterable[str], known: Callable[[Path], bool] | None = None) -> None:
    """Raises SmidgenError where a file of one of these names is there that smidgen did not write, or not so.

    known: tells by its content whether a file that is on no list is smidgen's; without it, none is.
    """
    if not folder.is_dir():
        return
    ours = _read(folder)
    for name in names:
        path = folder / name
        if not (path.exists() or path.is_symlink()):
            continue
        if name not in ours and known is not None and known(path):
            continue
        if name not in ours:
            why = "smidgen did not write it"
        elif ours[name] is not None and (not path.is_file() or ours[name] != _sha256(path)):
            why = "it was changed since smidgen wrote it"
        else:
            continue
        raise SmidgenError(
            f"{printable(path)} is there, and {why}: it would be replaced. Move it, or choose another place with -o."
        )


def is_ours(folder: Path, name: str) -> bool:
    """Whether smidgen wrote this file, and nobody has changed it since."""
    found, path = _read(folder).get(name), folder / name
    return found is not None and path.is_file() and found == _sha256(path)


def listed(folder: Path) -> dict[str, bool]:
    """The names on a folder's list, each with whether that file is there as smidgen wrote it. They may be a stranger's:
    look at a name before it becomes a path."""
    return {name: "/" not in name and is_ours(folder, name) for name in _read(folder)}


def claim(folder: Path, names: Iterable[str]) -> None:
    """Note that these files are about to be written. What else the folder's list has stays on it."""
    _write(folder, _read(folder) | dict.fromkeys(names))


def settle(folder: Path) -> None:
    """Take the hashes of what was claimed and written; what was not written goes off the list."""
    ours = {name: found for name, found in _read(folder).items() if (folder / name).is_file()}
    _write(folder, {name: found or _sha256(folder / name) for name, found in ours.items()})


def renew(folder: Path, names: Iterable[str]) -> None:
    """Take the hashes of files that were written anew into a folder that a verb wrote; of no other folder."""
    if (folder / MANIFEST).is_file():
        _write(folder, _read(folder) | {name: _sha256(folder / name) for name in names})


def _read(folder: Path) -> dict[str, str | None]:
    """Name → hash of the files on a folder's list; empty where there is none, or none that can be read."""
    path = folder / MANIFEST
    try:
        if not path.is_file() or path.stat().st_size > _MANIFEST_BYTES:
            return {}
        listed = json.loads(path.read_text(encoding="utf-8"))
        files = listed["files"] if listed["schema"] == _SCHEMA else {}
        return {str(name): found for name, found in files.items() if found is None or isinstance(found, str)}
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return {}


def _write(folder: Path, files: dict[str, str | None]) -> None:
    listed = {"schema": _SCHEMA, "files": dict(sorted(files.items()))}
    write_whole(folder / MANIFEST, json.dumps(listed, indent=1) + "\n")


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
