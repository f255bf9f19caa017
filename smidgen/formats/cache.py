"""What smidgen keeps on this machine, and how it is removed: only files that smidgen put there. Torch-free.

Downloads, which lie in the hub's shared cache; models that are joined from packages; conversions; copies of drafts with
more rows; text that models wrote themselves; their answers to tasks; how quick types of weights are here; and
environments for other frameworks. Files of other names, and downloads of other programs, are neither listed nor
touched.
"""

import os
import re
import shutil
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from stat import S_ISDIR, S_ISLNK
from typing import Literal

from smidgen.alone import alone_at
from smidgen.atomic import partial_path, remove_partial
from smidgen.errors import SmidgenError, printable
from smidgen.formats.convert import CONVERSION, conversions_folder
from smidgen.formats.hub.catalogue import CATALOGUE, cached_file
from smidgen.formats.hub.home import (
    answers_folder,
    cache_folder,
    environments_folder,
    fetched,
    notes_folder,
    rates_folder,
)

Kind = Literal["download", "catalogue", "conversion", "draft", "text", "answers", "rates", "environment"]

_EARLIER_CONVERSION = re.compile(r"[0-9a-f]{64}\.gguf")  # as it was called before its name said what it is
_TEXT = re.compile(r"[0-9a-f]{16}-.+\.json")
_DRAFT = re.compile(r"[0-9a-f]{64}\.gguf|\.[0-9a-f]{64}\.gguf\.partial")
_ANSWERS = re.compile(r"[0-9a-f]{16}\.jsonl")
_DRAFTS = "copies of drafts"
_RATES = re.compile(r"[0-9a-f]{16}\.json")
_ENVIRONMENT = re.compile(r"(?P<runtime>[a-z]+)-(?P<versions>[0-9a-f]{12})")
_TEXTS = "self-written text"
_ANSWERED = "answers to tasks"
_MEASURED = "speeds of types"


@dataclass(frozen=True)
class Kept:
    """Something in the cache.

    name: of this thing and no other: where several have one, with an ending that tells them apart and never changes.
    group: the name without that ending.  last_used: seconds since 1970.  files: all of it; of a download links too, of
    an environment its folder.
    """

    name: str
    group: str
    kind: Kind
    bytes: int
    last_used: float
    files: tuple[Path, ...]


def kept(name: str | None = None) -> list[Kept]:
    """What is there, of this name or at all; the largest first. The name of a group is that of all its things.

    Raises SmidgenError where nothing has the name.
    """
    models = [*_downloads(), *_joined(), *_conversions(), *_drafts()]
    found = _told_apart([*models, *_texts(), *_answers(), *_rates(), *_environments()])
    found.sort(key=lambda one: (-one.bytes, one.name))
    if name is None:
        return found
    named = [one for one in found if name in (one.name, one.group)]
    if not named:
        there = {0: "it is empty", 1: "it has one other thing"}.get(len(found), f"it has {len(found)} other things")
        listed = "; `smidgen models --cache` lists what there is" if found else ""
        raise SmidgenError(f"the cache has no {printable(name)}: {there}{listed}.")
    return named


def _told_apart(things: Sequence[Kept]) -> list[Kept]:
    """With the ending left out of the names that need none."""
    names: defaultdict[str, set[str]] = defaultdict(set)
    for one in things:
        names[one.group].add(one.name)
    return [one if len(names[one.group]) > 1 else replace(one, name=one.group) for one in things]


def remove(things: Iterable[Kept]) -> None:
    """Remove them. What another process has open stays usable for it, but for environments.

    Raises SmidgenError at the end where something could not be removed.
    """
    failed: list[str] = []
    for one in things:
        for file in one.files:
            try:
                _remove(file)
            except OSError as error:
                failed.append(f"{printable(file)} ({error.strerror or error})")
        if one.kind == "download":
            _tidy_repo(one.group)
    if failed:
        raise SmidgenError(f"{failed[0]} cannot be removed, and {len(failed) - 1} more; all else was.")


def _remove(file: Path) -> None:
    if file.is_dir() and not file.is_symlink():
        _remove_environment(file)
    elif file.name.endswith(".partial"):
        remove_partial(file.with_name(file.name.removeprefix(".").removesuffix(".partial")))
    else:
        file.unlink(missing_ok=True)


class _InUse(Exception):
    """Another process makes it just now."""


def _remove_environment(folder: Path) -> None:
    """Remove one, or what is left of one; what is being made just now stays. A half removed one is never used."""

    def leave(_: str) -> None:
        raise _InUse

    home = folder.with_name(folder.name.removeprefix(".").removesuffix(".partial"))
    with suppress(_InUse), alone_at(home, leave):
        if folder == home:
            shutil.rmtree(partial_path(home), ignore_errors=True)
            os.replace(home, partial_path(home))
        shutil.rmtree(partial_path(home))


def _thing(name: str, kind: Kind, files: Iterable[Path], ending: str | None = None) -> Iterator[Kept]:
    """One entry of the files that are there; none where there are none.

    ending: what tells it from others of its name; its kind where nothing else does.
    """
    size, used, there = 0, 0.0, []
    for file in files:
        with suppress(OSError):
            for status in _statuses(file):
                size, used = size + (0 if S_ISLNK(status.st_mode) else status.st_size), max(used, status.st_atime)
            there.append(file)
    if there:
        yield Kept(f"{name}.{ending or kind}", name, kind, size, used, tuple(there))


def _statuses(path: Path) -> Iterator[os.stat_result]:
    """Of a file or link; of all that is in a folder.

    Raises OSError where the path is not there.
    """
    status = path.lstat()
    if not S_ISDIR(status.st_mode):
        yield status
        return
    for folder, _, files in os.walk(path):
        for file in files:
            with suppress(OSError):  # gone meanwhile
                yield Path(folder, file).lstat()


def _downloads() -> Iterator[Kept]:
    for note in _files(notes_folder()):
        if note.suffix == ".txt" and note.stem.startswith("models--"):
            yield from _thing(_repo_name(note), "download", _of_download(note))


def _repo_name(note: Path) -> str:
    return note.stem.removeprefix("models--").replace("--", "/")


def _of_download(note: Path) -> list[Path]:
    """The files that a note names, and what an interrupted download left of them, as far as they are of its repo."""
    found = []
    for path in fetched(note):
        parts = path.parts[path.parts.index(note.stem) + 1 :] if note.stem in path.parts else ()
        if ".." not in parts and len(parts) > 1 and parts[0] in ("blobs", "snapshots"):
            found += [path, path.with_name(f"{path.name}.incomplete")] if parts[0] == "blobs" else [path]
    return found


def _tidy_repo(name: str) -> None:
    """Remove the note of a download, links that lead nowhere now, and the repo's folders where they are empty."""
    note = notes_folder() / f"models--{name.replace('/', '--')}.txt"
    repos = {Path(*path.parts[: path.parts.index(note.stem) + 1]) for path in _of_download(note)}
    for repo in repos:
        snapshots = repo / "snapshots"
        for link in snapshots.rglob("*"):
            if link.is_symlink() and not link.exists():
                link.unlink()
        for place in (snapshots, repo / "blobs"):
            _remove_empty(place)
        if not snapshots.exists() and not (repo / "blobs").exists():  # what a name stands for, of nothing
            for reference in _files(repo / "refs", deep=True):
                reference.unlink()
            _remove_empty(repo)
    note.unlink(missing_ok=True)


def _remove_empty(folder: Path) -> None:
    """Remove a folder and those in it, as far as they are empty."""
    inner = [path for path in folder.rglob("*") if path.is_dir() and not path.is_symlink()]
    for path in (*sorted(inner, reverse=True), folder):
        with suppress(OSError):
            path.rmdir()


def _joined() -> Iterator[Kept]:
    for entry in CATALOGUE.values():
        file = cached_file(entry)
        leftover = re.compile(rf"\.{re.escape(file.name)}\.[0-9a-f]{{8}}")
        broken = [other for other in _files(file.parent) if leftover.fullmatch(other.name)]
        yield from _thing(entry.name, "catalogue", [file, file.with_suffix(".verified"), *broken])


def _conversions() -> Iterator[Kept]:
    for file in _files(conversions_folder()):
        whole = file.name.removeprefix(".").removesuffix(".partial") if file.name.startswith(".") else file.name
        made, earlier = CONVERSION.fullmatch(whole), _EARLIER_CONVERSION.fullmatch(whole)
        if not (made or earlier) or file.name not in (whole, partial_path(file.with_name(whole)).name):
            continue
        yield from _thing(
            made["name"] if made else whole[:16], "conversion", [file], made["content"][:8] if made else whole[16:24]
        )


def _drafts() -> Iterator[Kept]:
    """See engines/llama_cpp/draft.py."""
    files = [file for file in _files(cache_folder() / "drafts") if _DRAFT.fullmatch(file.name)]
    yield from _thing(_DRAFTS, "draft", files)


def _texts() -> Iterator[Kept]:
    files = [file for file in _files(cache_folder() / "self-written") if _TEXT.fullmatch(file.name)]
    yield from _thing(_TEXTS, "text", files)


def _answers() -> Iterator[Kept]:
    files = [file for file in _files(answers_folder()) if _ANSWERS.fullmatch(file.name)]
    yield from _thing(_ANSWERED, "answers", files)


def _rates() -> Iterator[Kept]:
    files = [file for file in _files(rates_folder()) if _RATES.fullmatch(file.name)]
    yield from _thing(_MEASURED, "rates", files)


def _environments() -> Iterator[Kept]:
    """See engines/frameworks/environment.py."""
    names = {folder.name.removeprefix(".").removesuffix(".partial") for folder in environments_folder().glob("*/")}
    for name in sorted(names):
        if known := _ENVIRONMENT.fullmatch(name):
            home = environments_folder() / name
            yield from _thing(
                f"{known['runtime']} environment", "environment", [home, partial_path(home)], known["versions"]
            )


def _files(folder: Path, deep: bool = False) -> list[Path]:
    """The plain files in a folder, none where it is not there."""
    try:
        return sorted(path for path in (folder.rglob("*") if deep else folder.iterdir()) if path.is_file())
    except OSError:
        return []
