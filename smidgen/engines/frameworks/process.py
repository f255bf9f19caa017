"""The process in which a framework runs one model (scripts/wire.py), seen from the one that started it."""

import json
import os
import subprocess
import threading
from collections import deque
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from smidgen.closing import Closing
from smidgen.engines.frameworks.known import Framework
from smidgen.engines.frameworks.scripts.wire import HEADER, MOST_TEXT
from smidgen.errors import BadFile, SmidgenError, printable

_SETTINGS = {
    "HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1", "HF_HUB_DISABLE_TELEMETRY": "1", "DO_NOT_TRACK": "1",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1", "PYTHONDONTWRITEBYTECODE": "1",
}  # fmt: skip
_OURS = ("PYTHONPATH", "PYTHONHOME")  # would lead another Python to our packages
_LAST_LINES, _MOST_SAID = 20, 300  # kept, and characters of them that are shown
_ENDING_S = 5


class FrameworkProcess(Closing):
    """One running model; close it, best with a `with` statement.

    runtime: the packages that compute it, with their versions.  vocabulary: how many logits a position has.
    context: the most tokens that it reads, where it says so.
    Raises SmidgenError where the framework is not there, refuses the model, or ends.
    """

    def __init__(self, framework: Framework, python: Path, folder: Path, threads: int | None = None) -> None:
        self._framework, self._folder = framework, folder
        self._last_lines: deque[str] = deque(maxlen=_LAST_LINES)
        self._is_here = False
        try:
            self._process = subprocess.Popen(
                [os.fspath(python), os.fspath(framework.script), os.fspath(folder.absolute())],
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=_environment(threads),
                start_new_session=True,  # Ctrl-C is for the parent to understand
            )  # fmt: skip
        except OSError as error:
            why = f"{printable(python)} cannot be started ({error.strerror})"
            raise SmidgenError(f"{why}; {self._advice()}") from error
        self._messages = threading.Thread(target=self._read_messages, daemon=True)
        self._messages.start()
        try:
            told = self._told()
            self.runtime, self.vocabulary = _runtime(told), _count(told, "vocabulary")
            self.context = _count(told, "context") if "context" in told else None
            self._is_here = True
        except BaseException:
            self.close()
            raise

    def read(self, ids: Sequence[int], wanted: int, *, afresh: bool) -> "np.ndarray":
        """Logits after the last `wanted` of these tokens, float32 [position, vocabulary].

        afresh: they begin a text; else they go on with it.
        """
        numbers = np.asarray(ids, "<u4")
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(HEADER.pack(b"read", int(afresh), len(numbers), wanted) + numbers.tobytes())
            self._process.stdin.flush()
        except OSError as error:
            raise self._ended() from error
        word, rows, columns, size = self._header()
        if word == b"fail":
            raise self._failed(size)
        if (word, rows, columns, size) != (b"give", wanted, self.vocabulary, 0):
            raise self._nonsense()
        logits = np.empty((rows, columns), "<f4")
        self._fill(logits.data.cast("B"))
        return logits

    def close(self) -> None:
        """End it. Safe to call twice."""
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None and not pipe.closed:
                try:
                    pipe.close()
                except OSError:
                    pass  # it ended before it had read all
        try:
            self._process.wait(_ENDING_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def _told(self) -> dict[str, Any]:
        """What it says of itself once the model is loaded."""
        word, _, _, size = self._header()
        if word == b"fail":
            raise self._failed(size)
        if word != b"here":
            raise self._nonsense()
        try:
            told = json.loads(self._text(size))
        except ValueError as error:
            raise self._nonsense() from error
        if not isinstance(told, dict):
            raise self._nonsense()
        return told

    def _header(self) -> tuple[bytes, int, int, int]:
        header = bytearray(HEADER.size)
        self._fill(memoryview(header))
        return HEADER.unpack(header)

    def _text(self, size: int) -> str:
        if size > MOST_TEXT:
            raise self._nonsense()
        text = bytearray(size)
        self._fill(memoryview(text))
        return text.decode("utf-8", "replace")

    def _fill(self, room: memoryview) -> None:
        assert self._process.stdout is not None
        place = 0
        while place < len(room):
            count = self._process.stdout.readinto(room[place:])  # pyright: ignore[reportAttributeAccessIssue]
            if not count:
                raise self._ended()
            place += count

    def _failed(self, size: int) -> SmidgenError:
        said = self._text(size).strip() or "it gave no reason"
        if len(said) > _MOST_SAID:  # the reason may stand at either end
            said = f"{said[: _MOST_SAID // 2]} … {said[-_MOST_SAID // 2 :]}"
        return SmidgenError(
            f"{self._framework.name} cannot run {printable(self._folder)}: {printable(said, _MOST_SAID + 10)}"
        )

    def _nonsense(self) -> SmidgenError:
        advice = "" if self._is_here else f"; {self._advice()}"
        return BadFile(
            f"The program that runs {self._framework.name} answered with something else than logits{advice}."
        )

    def _advice(self) -> str:
        named = os.environ.get(self._framework.variable)
        now = f" (now {printable(named)})" if named else ""
        return f"set {self._framework.variable}{now} to a Python that has {self._framework.name}, or to nothing"

    def _ended(self) -> SmidgenError:
        try:
            code: int | None = self._process.wait(_ENDING_S)
        except subprocess.TimeoutExpired:
            code = None
        self._messages.join(_ENDING_S)
        lines = [line for line in self._last_lines if line]
        last = printable(lines[-1], _MOST_SAID) if lines else "it gave no reason"
        if not self._is_here and (not lines or "No module named" in last):
            last += f"; {self._advice()}"
        return SmidgenError(f"{self._framework.name} ended while it ran {printable(self._folder)} ({code}): {last}")

    def _read_messages(self) -> None:
        """Keep the last of its messages; a full pipe would stop it."""
        assert self._process.stderr is not None
        with self._process.stderr as messages:
            for line in messages:
                self._last_lines.append(line.decode("utf-8", "replace").strip())


def _environment(threads: int | None) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if name not in _OURS}
    return kept | _SETTINGS | ({} if threads is None else {"OMP_NUM_THREADS": str(threads)})


def _runtime(told: dict[str, Any]) -> dict[str, str]:
    found = told.get("runtime")
    if not isinstance(found, dict):
        return {}
    return {printable(name, 40): printable(version, 40) for name, version in list(found.items())[:8]}


def _count(told: dict[str, Any], name: str) -> int:
    found = told.get(name)
    if not isinstance(found, int) or not 0 < found <= 2**22:
        raise BadFile(f"The program that runs the model says {printable(found, 40)} for {name}; export it anew.")
    return found
