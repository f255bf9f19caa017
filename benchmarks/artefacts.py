"""Files that a benchmark makes on its way, named by the hash of all that they depend on.

A second original, another text or another option gives another name, so nothing is ever taken for what it is not, and a
repeated run finds what is finished. What each file was made of goes into the result.
"""

import hashlib
import json
from functools import cache
from pathlib import Path
from typing import Any

import smidgen

_CHARACTERS = 16  # of a hash in a name
_PACKAGE = Path(smidgen.__file__).parent
_ROOMS_OF_A_CUT = ("numerics", "model", "formats", "data", "calibration", "pruning", "quantization", "distillation",
                   "training", "engines", "cutting")  # fmt: skip


def name_of(**inputs: Any) -> str:
    """A short hash of these inputs: numbers, texts, and lists of them."""
    return hashlib.sha256(json.dumps(inputs, sort_keys=True).encode()).hexdigest()[:_CHARACTERS]


def sha256(path: Path) -> str:
    """Of a file, in hexadecimal; read again only where it has changed."""
    status = path.stat()
    return _sha256(path, status.st_size, status.st_mtime_ns)


@cache
def _sha256(path: Path, size: int, changed: int) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


@cache
def code_of_a_cut() -> str:
    """A hash of all of smidgen's code that a cut's bytes may depend on."""
    files = sorted(path for room in _ROOMS_OF_A_CUT for path in (_PACKAGE / room).rglob("*.py"))
    return name_of(files=[[str(path.relative_to(_PACKAGE)), sha256(path)] for path in files])


class Shelf:
    """A folder of such files.

    used: of this run, name → inputs.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.used: dict[str, dict[str, Any]] = {}

    def path(self, kind: str, suffix: str, **inputs: Any) -> Path:
        """Where a file, or a folder, of these inputs is, or is to be made."""
        path = self.folder / f"{kind}-{name_of(**inputs)}{suffix}"
        self.used[path.name] = inputs
        return path
