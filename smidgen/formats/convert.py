"""Any model as one GGUF file, weights unchanged: what llama.cpp runs, and what `export --to gguf` writes."""

import hashlib
import os
import re
import time
from collections.abc import Iterator
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from smidgen.atomic import Busy
from smidgen.errors import SmidgenError, printable
from smidgen.formats.hf.folder import is_hf_folder
from smidgen.formats.hub.catalogue import ModelName, origin_of
from smidgen.formats.hub.home import cache_folder, mark_used
from smidgen.formats.hub.origin import Origin
from smidgen.progress import say, track
from smidgen.version import __version__

if TYPE_CHECKING:
    import numpy as np

    from smidgen.formats.checkpoint import Checkpoint

#: Metadata key with the version of smidgen that wrote a file without changing its weights.
WRITTEN_BY = "smidgen.version"
_CONVERTING = ("formats", "model", "numerics")  # the rooms whose code decides what a conversion is
_WAIT = 0.2  # seconds between two looks at a conversion by another process


def gguf_of(model: ModelName) -> Path:
    """The GGUF file of a model, for engines that read nothing else.

    A folder in Hugging Face layout is converted into the cache (as large as its weights): once, and again when one of
    its files or the code that converts has changed; what was made of the same folder before is removed then.
    """
    origin = origin_of(model)
    if not is_hf_folder(origin.path):
        return origin.path
    target = _place(origin)
    if not target.is_file():
        _convert(origin.path, target)
        _remove_outdated(target)
    mark_used(target)
    return target


def conversions_folder() -> Path:
    """Where conversions are kept: `NAME.FOLDER.CONTENT.gguf`, the last two as hashes."""
    return cache_folder() / "converted"


#: The name of a conversion: what the folder is called, which folder it is, and what it holds.
CONVERSION = re.compile(r"(?P<name>.{1,48})\.(?P<folder>[0-9a-f]{16})\.(?P<content>[0-9a-f]{32})\.gguf")


def _place(origin: Origin) -> Path:
    """Where the conversion of a folder as it is now belongs."""
    whole = origin.path.resolve()
    name = re.sub(r"[^A-Za-z0-9_-]+", "-", origin.repository or whole.name)[:48] or "model"
    which = hashlib.sha256(os.fsencode(whole)).hexdigest()[:16]
    content = hashlib.sha256("\n".join(_marks(whole)).encode("utf-8", "surrogateescape")).hexdigest()[:32]
    return conversions_folder() / f"{name}.{which}.{content}.gguf"


def _marks(folder: Path) -> Iterator[str]:
    """What changes with the converter or with any file of a folder, named chat templates in a folder of their own too.

    By names, sizes and times: hashing gigabytes at every start would be slow. The time of the last change of any kind
    counts too, since copying a file over another may keep the other two.
    """
    yield converter_version()
    for place in (folder, folder / "additional_chat_templates"):
        for file in sorted(place.iterdir()) if place.is_dir() else ():
            if file.is_file():
                status = file.stat()
                yield f"{file.relative_to(folder)} {status.st_size} {status.st_mtime_ns} {status.st_ctime_ns}"


@cache
def converter_version() -> str:
    """Changes with the code that converts: the version, and a hash over all sources that have a part in it.

    A number that somebody has to raise would be forgotten once, and that would be a wrong answer without a word. It is
    more than what strictly decides, so some changes convert anew for nothing; releases are rare, and that is cheap.
    """
    digest = hashlib.sha256(__version__.encode())
    package = Path(__file__).parent.parent
    for room in _CONVERTING:
        for source in sorted((package / room).rglob("*.py")):
            digest.update(f"\n{source.relative_to(package)}\n".encode())
            digest.update(source.read_bytes())
    return digest.hexdigest()


def _convert(folder: Path, target: Path) -> None:
    """Write the conversion of a folder; if another process does so just now, wait for it."""
    from smidgen.formats.opening import open_checkpoint

    try:
        target.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        reason = f"{printable(target.parent)} cannot be made: {error.strerror}."
        raise SmidgenError(f"{reason} Set SMIDGEN_HOME to another folder.") from error
    told = False
    with open_checkpoint(folder) as checkpoint:
        while not target.is_file():
            try:
                write_as_gguf(checkpoint, target)
            except Busy:
                if not told:
                    say(f"Another process converts {printable(folder.name)} just now: waiting for it.")
                told = True
                time.sleep(_WAIT)


def _remove_outdated(target: Path) -> None:
    """Remove what was made of the same folder when it, or the converter, was another. Who has it open keeps it."""
    made = CONVERSION.fullmatch(target.name)
    for other in target.parent.iterdir():
        found = CONVERSION.fullmatch(other.name)
        if made and found and found["folder"] == made["folder"] and other.name != target.name:
            with suppress(OSError):
                other.unlink()


def write_as_gguf(checkpoint: "Checkpoint", path: Path) -> None:
    """Write a model as a GGUF file with the types that it has. Atomic, one tensor in memory at a time.

    Raises BadFile, naming the tensor, for numbers that are not finite.
    """
    from smidgen.formats.claims import as_ours
    from smidgen.formats.gguf.writer import STRING_TYPES, TensorPlan, write_gguf

    view = checkpoint.file
    tensors = [TensorPlan(tensor.name, tensor.shape, tensor.kind) for tensor in view.tensors.values()]
    metadata, types = as_ours(view.metadata, view.metadata_types, tensors)
    metadata[WRITTEN_BY], types[WRITTEN_BY] = __version__, STRING_TYPES
    with track("Writing GGUF", sum(tensor.nbytes for tensor in tensors), in_bytes=True) as task:

        def packed(name: str) -> "np.ndarray":
            checkpoint.release()
            for member in checkpoint.gguf_members(name):
                for _ in checkpoint.pieces(member):  # raises where numbers are not finite: no engine says it
                    pass
            found = view.packed(name)
            task.advance(found.nbytes)
            return found

        write_gguf(path, metadata, types, tensors, packed)
