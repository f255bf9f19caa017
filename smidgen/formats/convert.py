"""Any model as one GGUF file, weights unchanged: what llama.cpp runs, and what `export --to gguf` writes."""

import hashlib
import os
from pathlib import Path
from typing import TYPE_CHECKING

from smidgen.errors import SmidgenError
from smidgen.formats.hf.folder import is_hf_folder
from smidgen.formats.hub.catalogue import cache_folder, locate
from smidgen.progress import track

if TYPE_CHECKING:
    import numpy as np

    from smidgen.formats.checkpoint import Checkpoint


def gguf_of(model: str | os.PathLike[str]) -> Path:
    """The GGUF file of a model, for engines that read nothing else.

    A folder in Hugging Face layout is converted into the cache (as large as its weights), again only when it changed.
    """
    path = locate(model)
    if not is_hf_folder(path):
        return path
    target = cache_folder() / "converted" / f"{_fingerprint(path)}.gguf"
    if not target.is_file():
        from smidgen.formats.opening import open_checkpoint

        with open_checkpoint(path) as checkpoint:
            try:
                target.parent.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise SmidgenError(
                    f"{target.parent} cannot be made: {error.strerror}. Set SMIDGEN_HOME to another folder."
                ) from error
            write_as_gguf(checkpoint, target)
    return target


def _fingerprint(folder: Path) -> str:
    """Changes with any file of a folder, by names, sizes and times: hashing gigabytes at every start would be slow."""
    lines = [str(folder.resolve())]
    for file in sorted(folder.iterdir()):
        if file.is_file():
            status = file.stat()
            lines.append(f"{file.name} {status.st_size} {status.st_mtime_ns}")
    return hashlib.sha256("\n".join(lines).encode("utf-8", "surrogateescape")).hexdigest()


def write_as_gguf(checkpoint: "Checkpoint", path: Path) -> None:
    """Write a model as a GGUF file with the types that it has. Atomic, one tensor in memory at a time."""
    from smidgen.formats.gguf.writer import TensorPlan, write_gguf

    view = checkpoint.file
    tensors = [TensorPlan(tensor.name, tensor.shape, tensor.kind) for tensor in view.tensors.values()]
    with track("Writing GGUF", len(tensors)) as task:

        def packed(name: str) -> "np.ndarray":
            checkpoint.release()
            task.advance()
            return view.packed(name)

        write_gguf(path, view.metadata, view.metadata_types, tensors, packed)
