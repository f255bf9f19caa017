"""`smidgen cut` as a process beside the page: its progress as it comes, and a way to end it.

A cut never runs in the page's own process: it takes all memory and processors for minutes or hours, and ends whole when
it is ended. What it prints is kept in memory only, the last lines of it.
"""

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from shutil import rmtree
from typing import Any, Literal

from smidgen.closing import Closing
from smidgen.errors import SmidgenError, printable
from smidgen.model.kept import AS_USUAL, KVType
from smidgen.sizes import parse_size

_LINES = 200  # of what it prints
_LONGEST_LINE = 2000  # characters
_LONGEST_RESULT = 256 << 20  # characters of JSON
_PATIENCE_S = 10.0  # after each way to end it
_PROGRESS = re.compile(
    r"(?P<label>.{1,200}): (?P<done>[\d.]+)(?: MB)?/(?P<total>[\d.]+)(?: MB)?, (?P<spent>\d+) s, (?P<left>\d+) s left.*"
)
_FOLDER = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_LANGUAGES = re.compile(r"[A-Za-z]{2,8}(?:[-_][A-Za-z]{2,8})?(?: *, *[A-Za-z]{2,8}(?:[-_][A-Za-z]{2,8})?)*")

State = Literal["running", "done", "cancelled", "failed"]


@dataclass(frozen=True)
class CutWish:
    """What to cut, as the page was told.

    model: what names it for the command.  fit: a size, such as 90MB.  folder: for the result.
    languages: as for --langs, or nothing.  text: to calibrate on, or nothing: then the model writes one.
    tokens: of calibration, None for the command's own choice.  card: whether to measure the result.
    resume: go on with an interrupted cut.  kv: how keys and values are kept while the card is measured.
    """

    model: str
    fit: str
    folder: Path
    languages: str = ""
    text: str = ""
    tokens: int | None = None
    card: bool = True
    resume: bool = False
    kv: KVType = AS_USUAL

    @classmethod
    def of_page(cls, model: str, fit: object, name: object, place: Path, **others: Any) -> "CutWish":
        """name: of a new folder in `place`. Raises SmidgenError for what no cut can be made of."""
        size, folder = str(fit or "").strip(), str(name or "").strip()
        if not size:
            raise SmidgenError("a size is needed, such as 90MB.")
        parse_size(size)
        if not _FOLDER.fullmatch(folder):
            raise SmidgenError("the name of the folder must be letters, digits, dots, - and _, such as gemma-small.")
        languages = str(others.pop("languages", "") or "").strip()
        if languages and not _LANGUAGES.fullmatch(languages):
            raise SmidgenError("languages are codes with commas between them, such as de,en.")
        return cls(model, size, place / folder, languages, **others)

    def words(self, text: Path | None, dry: bool) -> list[str]:
        """The command's arguments. text: where the calibration text is."""
        words = ["cut", self.model, f"--fit={self.fit}", f"--output={self.folder}", "--json"]
        words += [f"--langs={self.languages}"] if self.languages else []
        words += [f"--text={text}"] if text is not None else []
        words += [f"--tokens={self.tokens}"] if self.tokens is not None else []
        words += [] if self.card else ["--no-measure"]
        words += [f"--kv={self.kv}"] if self.card and self.kv != AS_USUAL else []
        return words + (["--dry-run"] if dry else ["--resume"] if self.resume else [])


@dataclass(frozen=True)
class Step:
    """How far it is. label: what it does.  done: a share of its time, from 0 to 1.  seconds_left: of this step."""

    label: str
    done: float
    seconds_left: int


class CutProcess(Closing):
    """One run of the command. dry: plan only.  scratch: a private folder for the calibration text while it runs.

    result: its JSON when it is done.  error: its last line when it failed.
    """

    def __init__(self, wish: CutWish, *, dry: bool, scratch: Path) -> None:
        self.wish, self.dry = wish, dry
        self.result: dict[str, Any] | None = None
        self.error: str | None = None
        self.step: Step | None = None
        self._lines: deque[str] = deque(maxlen=_LINES)
        self._cancelled = False
        self._ended: float | None = None
        self._started = time.monotonic()
        self._text = _keep(wish.text, scratch) if wish.text.strip() else None
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-m", "smidgen", *wish.words(self._text, dry)],
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, errors="replace",
            env=os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path)), "PYTHONUNBUFFERED": "1"},
            start_new_session=True,  # Ctrl-C at the terminal ends the page, and that ends this
        )  # fmt: skip
        self._printed = ""
        self._readers = [threading.Thread(target=read, daemon=True) for read in (self._read_result, self._read_lines)]
        for reader in self._readers:
            reader.start()
        self._ending = threading.Thread(target=self._wait, daemon=True)
        self._ending.start()

    @property
    def state(self) -> State:
        """Where it is."""
        if self._ended is None:
            return "running"
        return "done" if self.result is not None else "cancelled" if self._cancelled else "failed"

    @property
    def seconds(self) -> float:
        """Since it began, or that it took."""
        return (time.monotonic() if self._ended is None else self._ended) - self._started

    def last_lines(self, number: int) -> Sequence[str]:
        """The last of what it told of its progress."""
        return list(self._lines)[-number:]

    def cancel(self) -> None:
        """Ask it to end; make it end where it does not. Comes back at once."""
        if self.state == "running" and not self._cancelled:
            self._cancelled = True
            threading.Thread(target=self._end, daemon=True).start()

    def close(self) -> None:
        """End it and wait for that."""
        if self.state == "running":
            self._cancelled = True
            self._end()
        self._ending.join()

    def _end(self) -> None:
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGKILL):
            try:
                os.killpg(self._process.pid, number)  # with what it has started itself
            except (ProcessLookupError, PermissionError):
                return
            try:
                self._process.wait(_PATIENCE_S)
                return
            except subprocess.TimeoutExpired:
                continue

    def _wait(self) -> None:
        code = self._process.wait()
        for reader in self._readers:
            reader.join()
        if self._text is not None:
            rmtree(self._text.parent, ignore_errors=True)
        if code == 0:
            self.result = _parsed(self._printed)
        if self.result is None and not self._cancelled:
            last = next(reversed(self._lines), "")
            self.error = last.removeprefix("smidgen: error: ") or f"it ended with exit code {code}"
        self._ended = time.monotonic()

    def _read_result(self) -> None:
        assert self._process.stdout is not None
        with self._process.stdout as stdout:
            self._printed = stdout.read(_LONGEST_RESULT)
            while stdout.read(1 << 20):
                pass

    def _read_lines(self) -> None:
        assert self._process.stderr is not None
        with self._process.stderr as lines:
            for line in lines:
                shown = printable(line.strip(), _LONGEST_LINE)
                if not shown:
                    continue
                self.step = _step(shown) or self.step
                if self._lines and _label(self._lines[-1]) == _label(shown) is not None:
                    self._lines.pop()  # the same step, further on
                self._lines.append(shown)


def _keep(text: str, scratch: Path) -> Path:
    """The calibration text as a file that only its owner may read. The report card will know it by its name."""
    folder = scratch / f"cut-{os.getpid()}"
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    path = folder / "pasted.txt"
    path.unlink(missing_ok=True)
    with os.fdopen(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600), "w", encoding="utf-8") as file:
        file.write(text)
    return path


def _step(line: str) -> Step | None:
    found = _PROGRESS.fullmatch(line)
    if found is None or not float(found["total"]):
        return None
    spent, left = int(found["spent"]), int(found["left"])
    counted = min(1.0, float(found["done"]) / float(found["total"]))
    return Step(found["label"], spent / (spent + left) if spent and left else counted, left)


def _label(line: str) -> str | None:
    step = _step(line)
    return None if step is None else step.label


def _parsed(printed: str) -> dict[str, Any] | None:
    try:
        result = json.loads(printed)
    except ValueError:
        return None
    return result if isinstance(result, dict) else None
