"""A model where LM Studio looks for it: `MODELS/PUBLISHER/MODEL/FILE.gguf`.

LM Studio keeps the folders of the Hugging Face hub, and finds no file that lies elsewhere in its models folder
(https://lmstudio.ai/docs/app/basics/import-model). A file that is there already as GGUF is not written again: the same
bytes get a second name, where both are on one disk, so that it takes no space twice.
"""

import os
import re
import shutil
from pathlib import Path

from smidgen.atomic import partial_path, replacing
from smidgen.formats.checkpoint import Checkpoint
from smidgen.formats.convert import write_as_gguf
from smidgen.formats.gguf.reader import GGUFFile
from smidgen.formats.hub.origin import Origin

_PUBLISHER = "smidgen"  # of what has no repository
_NOT_IN_A_NAME = re.compile(r"[^\w.-]+")


def place(models: Path, origin: Origin) -> Path:
    """Where a model belongs: under its repository's name, or its own."""
    publisher, _, name = (origin.repository or f"{_PUBLISHER}/{origin.name}").partition("/")
    name = _NOT_IN_A_NAME.sub("-", name).strip("-.") or "model"
    return models / publisher / name / f"{name}.gguf"


def write_or_link(checkpoint: Checkpoint, target: Path) -> None:
    """Make `target` the model as a GGUF file, at once: by another name for the same bytes, a copy, or by writing it."""
    file = checkpoint.file
    if not isinstance(file, GGUFFile) or len(file.paths) > 1:
        write_as_gguf(checkpoint, target)
    elif not _link(file.path, target):
        with file.path.open("rb") as source, replacing(target, file.size) as copy:
            shutil.copyfileobj(source, copy, 2**20)


def _link(source: Path, target: Path) -> bool:
    """Whether a second name could be made: not on another disk, nor where the system has none."""
    partial = partial_path(target)
    try:
        partial.unlink(missing_ok=True)
        os.link(source.resolve(), partial)
        os.replace(partial, target)
    except OSError:
        return False
    return True
