"""One engine of several, on whichever machine of a Ray cluster: what Ray Serve runs for `replicas.py`.

A replica checks its model file before llama.cpp sees it: it must be the very file that was checked where the front is.
What it answers to a request is a sequence: `Began`, pieces of the body, and `Broke` where the engine ended in between.
"""

import hashlib
import socket
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import anyio

from smidgen.engines.llama_cpp.server import LlamaServer
from smidgen.errors import SmidgenError, printable
from smidgen.formats.gguf.contents import parts_of, refuse_damaged
from smidgen.formats.gguf.reader import GGUFFile
from smidgen.serving.upstream import LocalUpstream


@dataclass(frozen=True)
class Began:
    """The engine's answer begins."""

    status: int
    headers: dict[str, str]


@dataclass(frozen=True)
class Broke:
    """There is no whole answer. why: for a person."""

    why: str


@dataclass(frozen=True)
class KnownFile:
    """A file as it is where the front runs; the other machines have it under the same name."""

    path: Path
    bytes: int
    sha256: str

    @classmethod
    def of(cls, path: Path) -> "KnownFile":
        """Reads it once."""
        path = path.absolute()
        return cls(path, path.stat().st_size, _sha256(path))

    def refuse_other(self) -> None:
        """Raises SmidgenError where this machine has no such file, or another one under its name."""
        here, name = printable(socket.gethostname()), printable(self.path)
        try:
            size = self.path.stat().st_size
            same = size == self.bytes and _sha256(self.path) == self.sha256
        except OSError as error:
            raise SmidgenError(f"{here} cannot read {name} ({error.strerror}); copy the model there.") from error
        if not same:
            found = f"{size} bytes instead of {self.bytes}" if size != self.bytes else "other content"
            raise SmidgenError(f"on {here}, {name} is another file ({found}); copy the model there again.")


@dataclass(frozen=True)
class Engine:
    """How every replica starts its llama.cpp. settings: of `LlamaServer`.  files: all that it will read."""

    path: Path
    settings: dict[str, Any]
    files: tuple[KnownFile, ...]

    @classmethod
    def checked(cls, path: Path, **settings: Any) -> "Engine":
        """As `LlamaServer` is made. The caller has checked the files; they are read once here, for their hashes."""
        read = [path, *(settings[name] for name in ("draft", "lora") if settings[name] is not None)]
        settings |= {name: settings[name].absolute() for name in ("draft", "lora") if settings[name] is not None}
        return cls(path.absolute(), settings, tuple(KnownFile.of(part) for file in read for part in parts_of(file)))

    def start(self) -> LlamaServer:
        """Raises SmidgenError, also where this machine has other files than the one with the front."""
        refuse_other_files(self.files)
        for path in filter(None, (self.path, self.settings["draft"])):
            with GGUFFile.open(path) as file:
                refuse_damaged(file)
        return LlamaServer(self.path, **self.settings)


class Replica:
    """One engine and the requests to it; Ray makes it, and makes it again where it has ended."""

    def __init__(self, engine: Engine) -> None:
        self._server = engine.start()
        self._upstream = LocalUpstream(self._server, engine.settings["parallel"])

    async def exchange(
        self, method: str, path: str, body: dict[str, Any] | None
    ) -> AsyncIterator[Began | bytes | Broke]:
        """See `Upstream.exchange`. Cancelling the call closes the connection to the engine, which frees its slot."""
        try:
            async with self._upstream.exchange(method, path, body) as answer:
                yield Began(answer.status, dict(answer.headers))
                async for piece in answer.pieces():
                    yield piece
        except SmidgenError as error:  # as data: Ray would write an exception into its logs
            yield Broke(str(error))

    async def check_health(self) -> None:
        """Ray asks now and then. An engine that has ended is started again; where that fails, so is this replica."""
        await anyio.to_thread.run_sync(self._start_again)

    def _start_again(self) -> None:
        with self._server.lend():
            pass

    def __del__(self) -> None:  # how Ray Serve tells a replica that it is no longer needed
        if hasattr(self, "_upstream"):
            self._upstream.close()


def refuse_other_files(files: Sequence[KnownFile]) -> None:
    """Raises SmidgenError for the first that is not here as it is where the front runs."""
    for file in files:
        file.refuse_other()


def why_not_here(files: Sequence[KnownFile]) -> str | None:
    """Why this machine cannot have a replica; None where it can."""
    try:
        refuse_other_files(files)
    except SmidgenError as error:
        return str(error)
    return None


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
