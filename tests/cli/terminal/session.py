"""A program in a terminal of its own, and a person who types and reads."""

import fcntl
import os
import pty
import select
import signal
import struct
import subprocess
import termios
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

PROMPT = "\x1b[0m>"  # a blank after it is written as a step of the cursor
PASTE = "\x1b[200~{}\x1b[201~"
CTRL_C, CTRL_D, ALT_ENTER = "\x03", "\x04", "\x1b\r"
_PATIENCE_S = 60  # for a machine with other work


class Session:
    """What a person sees and does."""

    def __init__(self, process: "subprocess.Popen[bytes]", keyboard: int) -> None:
        self.process = process
        self._keyboard = keyboard
        self._output = ""

    def type(self, keys: str) -> None:
        """Press keys; Enter is "\\r"."""
        os.write(self._keyboard, keys.encode())

    def wait_for(self, text: str) -> str:
        """All output up to a text, which is awaited and then taken away."""
        end = time.monotonic() + _PATIENCE_S
        while text not in self._output:
            assert time.monotonic() < end, f"{text!r} did not come; the last is {self._output[-300:]!r}"
            if not self._read():
                raise AssertionError(f"ended before {text!r}; the last is {self._output[-300:]!r}")
        before, _, self._output = self._output.partition(text)
        return before

    def end(self) -> tuple[int, str]:
        """The exit code, and all output that was not awaited."""
        end = time.monotonic() + _PATIENCE_S
        while self._read():
            assert time.monotonic() < end, f"it does not end; the last is {self._output[-300:]!r}"
        return self.process.wait(_PATIENCE_S), self._output

    def echoes(self) -> bool:
        """Whether the terminal shows what is typed, as it does before and after every program."""
        return bool(termios.tcgetattr(self._keyboard)[3] & termios.ECHO)

    def _read(self) -> bool:
        """Take what is there; False at the end."""
        if not select.select([self._keyboard], [], [], 0.2)[0]:
            return self.process.poll() is None
        try:
            data = os.read(self._keyboard, 65536)
        except OSError:  # Linux's way to say that nobody has the terminal open any more
            return False
        self._output += data.decode(errors="replace")
        return bool(data)


@contextmanager
def in_a_terminal(
    words: Sequence[str], folder: Path, environment: Mapping[str, str], stdout: int | None = None
) -> Iterator[Session]:
    """Start a program. stdout: where its output goes if not to the terminal."""
    keyboard, terminal = pty.openpty()
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 30, 80, 0, 0))
    here = {key: value for key, value in environment.items() if key not in ("COLUMNS", "LINES", "NO_COLOR")}

    def own_the_terminal() -> None:
        signal.signal(signal.SIGINT, signal.SIG_DFL)  # which a shell takes from what runs in its background
        os.setsid()
        fcntl.ioctl(0, termios.TIOCSCTTY, 0)

    process = subprocess.Popen(
        words, stdin=terminal, stdout=terminal if stdout is None else stdout, stderr=terminal, cwd=folder,
        env=here | {"TERM": "xterm-256color"}, preexec_fn=own_the_terminal,
    )  # fmt: skip
    try:
        yield Session(process, keyboard)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        os.close(terminal)
        os.close(keyboard)
