"""Moves files of a hub repo into huggingface_hub's cache: verified, resumable, and never outside it.

huggingface_hub itself gives the list of files, the session (proxies, certificates), the token and the cache's place.
The bytes are moved here, because its own downloads (2.4) start again from zero when their process ended, and trust the
server with the names of files. The layout written is the library's, so every other program finds the files:

    models--org--name/blobs/HASH                         the bytes; HASH is the git or LFS hash of the file
    models--org--name/blobs/HASH.incomplete              the bytes so far
    models--org--name/snapshots/COMMIT/config.json       links to ../../blobs/HASH
    models--org--name/refs/main                          the commit that the name stood for

(https://huggingface.co/docs/huggingface_hub/guides/manage-cache). Weights are hashed before they get their name.
"""

import hashlib
import os
import re
import shutil
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO
from urllib.parse import quote

import httpx2
from huggingface_hub import HfApi, constants, get_hf_file_metadata
from huggingface_hub.errors import HfHubHTTPError, HFValidationError
from huggingface_hub.file_download import repo_folder_name
from huggingface_hub.hf_api import RepoSibling
from huggingface_hub.utils import WeakFileLock, build_hf_headers, get_session, hf_raise_for_status

from smidgen.errors import BadFile, SmidgenError, printable
from smidgen.formats.hub.home import note_fetched
from smidgen.progress import Task, track

NO_NETWORK = (httpx2.TransportError,)
PAUSES = (1.0, 2.0, 4.0, 8.0, 16.0)  # seconds before each new attempt; any progress starts them again
_TRY_AGAIN = {408, 429, 500, 502, 503, 504}
_COMMIT = re.compile(r"[0-9A-Za-z]{7,64}")
_BLOB = re.compile(r"[0-9A-Za-z][\w-]{0,127}", re.ASCII)  # an ETag that is safe as a file name
_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class RemoteFile:
    """A file in a repo, as far as it is known.

    blob: what its bytes are called in the cache: a hash.  sha256: of its bytes, known of large files (Git LFS).
    """

    name: str
    size: int | None = None
    blob: str | None = None
    sha256: str | None = None


@dataclass(frozen=True)
class Repo:
    """A repo at one commit. files: by their path in it."""

    name: str
    commit: str
    files: dict[str, RemoteFile]

    @property
    def folder(self) -> Path:
        """Where the cache keeps all of this repo."""
        return _repo_folder(self.name)

    @property
    def snapshot(self) -> Path:
        """Where the cache shows the files of this commit."""
        return self.folder / "snapshots" / self.commit


def endpoint() -> str:
    """The hub's address."""
    return constants.ENDPOINT


def is_offline() -> bool:
    """Whether HF_HUB_OFFLINE forbids to ask anybody."""
    return constants.is_offline_mode()


def cache_folder() -> Path:
    """The hub's cache."""
    return Path(constants.HF_HUB_CACHE)


def cached_snapshot(name: str, revision: str) -> Path | None:
    """The cached files of a repo at a revision, as far as they are there; None where nothing is."""
    folder = _repo_folder(name)
    commit = revision
    with suppress(OSError, ValueError):
        commit = (folder / "refs" / revision).read_text().strip()
    snapshot = folder / "snapshots" / commit
    return snapshot if _COMMIT.fullmatch(commit) and snapshot.is_dir() else None


def list_repo(name: str, revision: str) -> Repo:
    """One request: the commit of a revision and the files in it. Remembers the commit for offline use.

    Raises huggingface_hub's errors, httpx2.TransportError without a network, BadFile where the answer makes no sense.
    """
    constants.HF_HUB_DISABLE_TELEMETRY = True  # another part of this process may have loaded the library before
    api = HfApi(endpoint=endpoint(), library_name="smidgen")
    try:
        info = api.model_info(name, revision=revision, files_metadata=True, timeout=constants.HF_HUB_ETAG_TIMEOUT)
        commit, siblings = info.sha or "", info.siblings or []
        files = {file.name: file for file in map(_remote_file, siblings)}
    except (HfHubHTTPError, HFValidationError):
        raise
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise _no_hub() from error
    if not _COMMIT.fullmatch(commit):
        raise _no_hub()
    repo = Repo(name, commit, files)
    if revision != commit:
        with suppress(OSError):  # only for offline use
            reference = repo.folder / "refs" / revision
            reference.parent.mkdir(parents=True, exist_ok=True)
            reference.write_text(commit)
    return repo


def _no_hub() -> BadFile:
    return BadFile(f"{endpoint()} does not answer like a Hugging Face hub; check HF_ENDPOINT and the network's proxy")


def _remote_file(sibling: RepoSibling) -> RemoteFile:
    """A file of the listing. Mirrors may leave out sizes and hashes; what is no hash is left out here."""
    lfs = sibling.lfs
    sha256 = lfs.sha256 if lfs is not None and _SHA256.fullmatch(str(lfs.sha256)) else None
    git = sibling.blob_id if lfs is None and _BLOB.fullmatch(str(sibling.blob_id or "")) else None
    size = sibling.size if isinstance(sibling.size, int) and sibling.size >= 0 else None
    return RemoteFile(str(sibling.rfilename), size, sha256 or git, sha256)


def _completed(repo: Repo, file: RemoteFile) -> RemoteFile:
    """With what the listing did not say, asked for by one more request."""
    if file.size is not None and file.blob is not None:
        return file
    found = get_hf_file_metadata(_url(repo, file), timeout=constants.HF_HUB_ETAG_TIMEOUT, library_name="smidgen")
    if found.size is None or not found.etag:
        raise _no_hub()
    sha256 = found.etag if _SHA256.fullmatch(found.etag) else None
    named = found.etag if _BLOB.fullmatch(found.etag) else hashlib.sha256(found.etag.encode()).hexdigest()
    return RemoteFile(file.name, found.size, named, sha256)


def fetch(repo: Repo, files: Sequence[RemoteFile], label: str | None = None) -> None:
    """Fetch files in this order, each whole and verified before it shows in the snapshot; those there are left alone.
    With a label, progress is shown.

    Raises SmidgenError where the disk is too small, before anything is fetched, or the connection breaks for good.
    """
    with _writing(repo):
        missing = [_completed(repo, file) for file in files if not _is_there(repo, file)]
        if not missing:
            return
        for folder in (repo.folder / "blobs", _locks(repo)):
            folder.mkdir(parents=True, exist_ok=True)
        absent = [file for file in missing if _size(_blob(repo, file)) != file.size]
        shown = [repo.snapshot / file.name for file in missing]
        note_fetched(repo.folder, [*(_blob(repo, file) for file in absent), *shown])
        left = sum(max(0, (file.size or 0) - max(0, _size(_partial(repo, file)))) for file in absent)
        _refuse_full_disk(repo, left)
        with track(label, left, in_bytes=True) if label else nullcontext(Task("", left)) as task:
            for file in missing:
                with WeakFileLock(_locks(repo) / f"{file.blob}.lock"):  # another process may fetch it just now
                    if _size(_blob(repo, file)) != file.size:
                        _fetch_blob(repo, file, task)
                    _show(repo, file)


def _fetch_blob(repo: Repo, file: RemoteFile, task: Task) -> None:
    """Complete and verify `blobs/HASH`. A killed download may have left damage, so a wrong hash has a second try."""
    partial = _partial(repo, file)
    for _ in range(2):
        with partial.open("ab") as out:
            _complete(repo, file, out, task)
            out.flush()
            os.fsync(out.fileno())
        if file.sha256 in (None, _sha256(partial)):
            os.replace(partial, _blob(repo, file))
            return
        task.advance(-partial.stat().st_size)
        partial.unlink()
    raise BadFile(
        f"{repo.name}: {printable(file.name)} arrived with another hash than the repo lists ({file.sha256}); try "
        f"again later, or without the proxy or mirror in between"
    )


def _complete(repo: Repo, file: RemoteFile, out: BinaryIO, task: Task) -> None:
    """Fetch the rest of a file, resuming after each break of the connection as long as something still arrives."""
    size, pauses = file.size or 0, list(PAUSES)
    if out.tell() > size:
        out.truncate(0)
    while (before := out.seek(0, os.SEEK_END)) < size:
        try:
            _receive(repo, file, out, task)
            reason = "it ended too early"
        except httpx2.TransportError as error:
            reason = printable(error, 80) or type(error).__name__
        except HfHubHTTPError as error:
            if error.response.status_code not in _TRY_AGAIN:
                raise
            reason = f"the server answered {error.response.status_code}"
        done = out.seek(0, os.SEEK_END)
        if done > before:
            pauses = list(PAUSES)
        if done < size:
            if not pauses:
                raise SmidgenError(
                    f"{repo.name}: the connection broke while {printable(file.name)} was downloaded, at {done} of "
                    f"{size} bytes ({reason}); run the same command again, it goes on from there"
                )
            time.sleep(pauses.pop(0))


def _receive(repo: Repo, file: RemoteFile, out: BinaryIO, task: Task) -> None:
    """One request for the bytes that are missing; appends them as they come."""
    done = out.tell()
    headers = build_hf_headers(library_name="smidgen") | {"Accept-Encoding": "identity"}
    if done:
        headers["Range"] = f"bytes={done}-"
    timeout = constants.HF_HUB_DOWNLOAD_TIMEOUT
    with get_session().stream("GET", _url(repo, file), headers=headers, timeout=timeout) as response:
        if response.status_code >= 400:
            response.read()  # the error's text is in it
        hf_raise_for_status(response)
        if done and not response.headers.get("Content-Range", "").startswith(f"bytes {done}-"):
            out.truncate(0)  # the server sends the whole file again
            task.advance(-done)
            done = 0
        for chunk in response.iter_bytes():  # as it arrives: what is held back would be lost with the connection
            done += len(chunk)
            if done > (file.size or 0):
                raise BadFile(
                    f"{repo.name}: {printable(file.name)} is longer than the {file.size} bytes that are listed"
                )
            out.write(chunk)
            task.advance(len(chunk))


def _url(repo: Repo, file: RemoteFile) -> str:
    return f"{endpoint()}/{repo.name}/resolve/{repo.commit}/{quote(file.name)}"


def _sha256(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _show(repo: Repo, file: RemoteFile) -> None:
    """Give a blob its name in the snapshot: by a link, or by moving it where links cannot be made (Windows)."""
    target, blob = repo.snapshot / file.name, _blob(repo, file)
    target.parent.mkdir(parents=True, exist_ok=True)
    target.unlink(missing_ok=True)  # a link to a blob that was removed
    try:
        if constants.HF_HUB_DISABLE_SYMLINKS:
            raise OSError
        target.symlink_to(os.path.relpath(blob, target.parent))
    except OSError:
        os.replace(blob, target)


def _is_there(repo: Repo, file: RemoteFile) -> bool:
    size = _size(repo.snapshot / file.name)
    return size >= 0 if file.size is None else size == file.size


def _size(path: Path) -> int:
    """Bytes of a file, -1 without one: an empty file is there, too."""
    try:
        return path.stat().st_size
    except OSError:
        return -1


def _repo_folder(name: str) -> Path:
    return cache_folder() / repo_folder_name(repo_id=name, repo_type="model")


def _blob(repo: Repo, file: RemoteFile) -> Path:
    return repo.folder / "blobs" / str(file.blob)


def _partial(repo: Repo, file: RemoteFile) -> Path:
    return repo.folder / "blobs" / f"{file.blob}.incomplete"


def _locks(repo: Repo) -> Path:
    return cache_folder() / ".locks" / repo.folder.name


def _refuse_full_disk(repo: Repo, needed: int) -> None:
    free = shutil.disk_usage(repo.folder).free
    if needed > free:
        raise SmidgenError(
            f"{repo.name} needs {needed / 1e9:.2f} GB more in {printable(cache_folder())}, which has {free / 1e9:.2f} "
            f"GB free; make room, or set HF_HOME to a folder on another disk"
        )


@contextmanager
def _writing(repo: Repo) -> Iterator[None]:
    """Turns a cache that cannot be written into one line."""
    try:
        yield
    except HfHubHTTPError:  # is an OSError too
        raise
    except OSError as error:
        raise SmidgenError(
            f"{repo.name} cannot be written to {printable(cache_folder())} ({error.strerror or error}); free some "
            f"space there, or set HF_HOME to another folder"
        ) from error
