"""The folder `DIR/work` of unfinished work: what `--resume` needs, each file whole or absent.

Everything is bound to a fingerprint of what the work depends on, so that a resumed cut can only be the same cut, and a
resumed training the same training. Each step has a folder of its own in it (`step`), and keeps there what it has
finished: tensors, or plain data.
"""

import json
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self

from safetensors import SafetensorError, safe_open
from torch import Tensor

from smidgen.atomic import replacing
from smidgen.errors import BadFile, SmidgenError, printable
from smidgen.formats.hf.safetensors_writer import Stored, write_safetensors

_FINGERPRINT = "fingerprint"
_FIGURES = {".json", ".jsonl"}  # files of a few numbers; what takes long to make is tensors


class Workspace:
    """Files of one unfinished work, or of one of its steps. Make it with `open`, `start` or `resume`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @classmethod
    def open(cls, folder: Path, fingerprint: Mapping[str, Any], *, resume: bool) -> Self:
        """`resume` or `start`, in a folder inside of the one that a person has named for the result.

        Raises SmidgenError also where that cannot be written, and where unfinished work would be removed by a `start`.
        """
        if not resume and cls(folder).holds_work():
            raise SmidgenError(
                f"{printable(folder)} holds unfinished work. Go on with it with --resume, or remove that folder to "
                "begin anew."
            )
        try:
            return (cls.resume if resume else cls.start)(folder, fingerprint)
        except OSError as error:
            reason = f"{printable(folder.parent)} cannot be written: {error.strerror}."
            raise SmidgenError(f"{reason} Choose another folder with -o.") from error

    @classmethod
    def start(cls, folder: Path, fingerprint: Mapping[str, Any]) -> Self:
        """A fresh workspace; what an earlier cut left there is removed."""
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True, exist_ok=True)  # another process of a team may make it in between
        workspace = cls(folder)
        workspace.save_json(_FINGERPRINT, fingerprint)
        return workspace

    @classmethod
    def resume(cls, folder: Path, fingerprint: Mapping[str, Any]) -> Self:
        """The workspace of the same cut; a fresh one where there is none.

        Raises SmidgenError where it belongs to a cut with other settings, naming one that differs.
        """
        workspace = cls(folder)
        found = workspace.load_json(_FINGERPRINT)
        if found is None:
            return cls.start(folder, fingerprint)
        asked = json.loads(json.dumps(fingerprint))
        for key in sorted(found.keys() | asked.keys()):
            if found.get(key) != asked.get(key):
                raise SmidgenError(
                    f"{printable(folder)} was begun with {key} {found.get(key)!r}, now it is {asked.get(key)!r}. "
                    "Resume with the same settings, or remove that folder to begin anew."
                )
        return workspace

    def begun_with(self, key: str) -> Any | None:
        """One thing of the fingerprint of the work that is here; None where there is none, or it has no such thing."""
        return (self.load_json(_FINGERPRINT) or {}).get(key)

    def holds_work(self) -> bool:
        """Whether something is finished here that took long, and would be lost with the folder."""
        files = (path for path in self.folder.rglob("*") if path.is_file() and not path.name.startswith("."))
        return any(path.suffix not in _FIGURES for path in files)

    def step(self, name: str) -> "Workspace":
        """The folder of one step, made if it is not there."""
        folder = self.folder / name
        folder.mkdir(exist_ok=True)
        return Workspace(folder)

    def finish(self) -> None:
        """Remove the folder: the cut, or the step, is done."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def has(self, part: str) -> bool:
        """Whether a part with tensors is finished."""
        return self._path(part).exists()

    def save_tensors(self, part: str, tensors: Mapping[str, Tensor], notes: Mapping[str, str] | None = None) -> None:
        """Keep named tensors, and notes about them."""
        widest_first = sorted(tensors, key=lambda name: -tensors[name].dtype.itemsize)  # so that all lie aligned
        write_safetensors(self._path(part), [Stored.of(name, tensors[name]) for name in widest_first], notes or {})

    def load_tensors(self, part: str) -> dict[str, Tensor]:
        """What `save_tensors` kept."""
        with self._opened(part) as file:
            return {name: file.get_tensor(name) for name in file.keys()}

    def load_tensor(self, part: str, name: str) -> Tensor:
        """One of the tensors that `save_tensors` kept."""
        with self._opened(part) as file:
            return file.get_tensor(name)

    def notes(self, part: str) -> dict[str, str]:
        """The notes that `save_tensors` kept."""
        with self._opened(part) as file:
            return file.metadata() or {}

    def save_states(self, next_block: int, states: Mapping[str, Tensor]) -> None:
        """Keep what enters block `next_block`. Written after that block's predecessor is."""
        self.save_tensors("states", states, {"next_block": str(next_block)})

    def load_states(self) -> tuple[int, dict[str, Tensor]]:
        """The block to go on with, and what enters it; 0 and nothing at the beginning."""
        if not self.has("states"):
            return 0, {}
        return int(self.notes("states")["next_block"]), self.load_tensors("states")

    def save_json(self, part: str, value: Any) -> None:
        """Keep plain data."""
        with replacing(self.folder / f"{part}.json", 0) as file:
            file.write(json.dumps(value, indent=1).encode())

    def load_json(self, part: str) -> Any | None:
        """What `save_json` kept, or None."""
        path = self.folder / f"{part}.json"
        return json.loads(path.read_text()) if path.exists() else None

    def _path(self, part: str) -> Path:
        return self.folder / f"{part}.safetensors"

    @contextmanager
    def _opened(self, part: str) -> Iterator[Any]:
        """A file of tensors. Raises BadFile where something else has written to it."""
        try:
            with safe_open(self._path(part), "pt") as file:
                yield file
        except SafetensorError as error:
            reason = f"{printable(self._path(part))} is damaged ({error})."
            raise BadFile(f"{reason} Remove {printable(self.folder)} to begin that part anew.") from error
