"""A process that runs llama.cpp (see child.py), seen from the one that started it."""

import json
import os
import signal
import subprocess
import sys
import threading
from collections import deque
from typing import Any, TypedDict

from smidgen.closing import Closing
from smidgen.engines.llama_cpp.child import Settings
from smidgen.engines.llama_cpp.wheel import engine_version
from smidgen.engines.machine import ProcessorTime, ResidentParts
from smidgen.errors import SmidgenError, printable

_SERVER = "smidgen.engines.llama_cpp.child"
_ITS_OWN = "LLAMA_"  # what llama.cpp's own variables begin with
_LAST_LINES = 20  # of llama.cpp's messages while it loads
_LOADING_S, _BYTES_A_SECOND = 300, 10e6  # the longest that loading may take: so long, and reading from a slow disk
_SIGNALS: dict[int, str] = {
    signal.SIGSEGV: "a segmentation fault",
    signal.SIGABRT: "it aborted",
    signal.SIGBUS: "the model's file changed or cannot be read",
    signal.SIGKILL: "it was killed, perhaps because memory ran out",
}
_ENDING_S = 5  # how long a process may take to end after its connections broke


def environment() -> dict[str, str]:
    """This process's, without what would have llama.cpp compute otherwise than it is measured and than is asked for.

    `LLAMA_ATTN_ROT_DISABLE`, for one, changes what a rounded cache of keys and values costs. All that smidgen wants of
    llama.cpp goes there as `Settings`.
    """
    kept = {name: value for name, value in os.environ.items() if not name.upper().startswith(_ITS_OWN)}
    return kept | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}


class Memory(TypedDict):
    """Bytes of the engine's process: now, its parts where the system tells them, and the most that it ever had."""

    resident_bytes: int
    resident_parts: ResidentParts | None
    peak_ram_bytes: int


class Processor(ProcessorTime):
    """Processor time that the engine's process has had.  on_gpu: whether it computes on a graphics card, too."""

    on_gpu: bool


class EngineProcess(Closing):
    """One running process and the model in it; close it, best with a `with` statement.

    module: what runs in it, llama.cpp's server or another that takes `Settings` and answers in lines of JSON.
    address: of the server, `http://127.0.0.1:port`.
    Raises SmidgenError where llama.cpp refuses the model or ends while it loads it.
    """

    def __init__(self, settings: Settings, module: str = _SERVER) -> None:
        self._name = printable(settings.name, 60)
        self._given_up: str | None = None
        self._last_lines: deque[str] = deque(maxlen=_LAST_LINES)
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-m", module],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=None if settings.verbose else subprocess.PIPE,
            text=True,
            errors="replace",
            env=environment(),
            start_new_session=True,  # Ctrl-C is for the parent to understand
        )
        self._messages = threading.Thread(target=self._read_messages, daemon=True)
        self._messages.start()
        patience = _LOADING_S + settings.bytes / _BYTES_A_SECOND
        late = threading.Timer(patience, self.give_up, [f"it was not done after {patience:.0f} s"])
        late.daemon = True
        late.start()
        try:
            answer = self.ask(settings.to_line())
        except BaseException:  # also Ctrl-C while it loads
            self.close()
            raise
        finally:
            late.cancel()
        if answer is None:
            self.close()
            raise SmidgenError(f"{engine_version()} ended while it loaded {self._name}: {self.how_it_ended()}.")
        if "refused" in answer:
            self.close()
            raise SmidgenError(
                f"{engine_version()} could not start with {self._name} and a context of {settings.ctx_size} tokens: "
                f"{self._reason()}; --debug shows its log."
            )
        self.address: str = answer.get("address", "")

    def memory(self) -> Memory | None:
        """What it takes now; None if it has ended."""
        answer = self.ask("memory")
        return None if answer is None else Memory(**answer)

    def processor(self) -> Processor | None:
        """The processor time that it has had so far; None if it has ended."""
        answer = self.ask("processor")
        return None if answer is None else Processor(**answer)

    @property
    def runs(self) -> bool:
        """Whether it is still there."""
        return self._process.poll() is None

    def ends(self) -> bool:
        """Whether it has ended, or does within moments: connections break a little earlier."""
        try:
            self._process.wait(_ENDING_S)
        except subprocess.TimeoutExpired:
            return False
        return True

    def how_it_ended(self) -> str:
        """In words, such as `a segmentation fault`. It has ended."""
        code = self._process.wait()
        if self._given_up is not None:
            return self._given_up
        if code < 0:
            return _SIGNALS.get(-code, f"signal {-code}")
        return f"exit code {code}"

    def give_up(self, reason: str) -> None:
        """End the process because of what it does. reason: for `how_it_ended`."""
        self._given_up = reason
        self.close()

    def close(self) -> None:
        """End the process at once, and with it what it is doing. Safe to call twice."""
        self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                try:
                    pipe.close()
                except BrokenPipeError:
                    pass  # something it no longer reads
        self._messages.join()

    def ask(self, line: str) -> dict[str, Any] | None:
        """The answer to one line; None where the process ends instead."""
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(line + "\n")
            self._process.stdin.flush()
        except (BrokenPipeError, ValueError):  # it has ended, or was closed from another thread
            return None
        return self.next_answer()

    def next_answer(self) -> dict[str, Any] | None:
        """What it answers next, where one line has several answers; None where the process ends instead."""
        assert self._process.stdout is not None
        try:
            answer = self._process.stdout.readline()
        except ValueError:  # it was closed from another thread
            return None
        return json.loads(answer) if answer.endswith("\n") else None  # a line may break off with the process

    def _read_messages(self) -> None:
        """Keep the last of llama.cpp's messages, in memory only; a full pipe would stop it."""
        if self._process.stderr is None:
            return
        with self._process.stderr as messages:
            for line in messages:
                self._last_lines.append(line.strip())

    def _reason(self) -> str:
        """llama.cpp's first error, which is the cause of the others."""
        errors = [line for line in self._last_lines if line]
        return printable(errors[0], 200) if errors else "an architecture it does not know, or not enough memory"
