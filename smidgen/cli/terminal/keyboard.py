"""What a person types at a terminal, as messages; a pasted text is one of them, whatever its lines.

Terminals announce a paste where a program asks for that (bracketed paste), which prompt_toolkit does while it asks. In
between, while a model loads or answers, `keys_wait` keeps what is typed and pasted for the next question.

Keys: Enter sends. A line that ends in a backslash goes on, so does Alt-Enter, and a message that begins with three
quotes goes on to the next three. Ctrl-C clears what is typed; on nothing it is a KeyboardInterrupt, Ctrl-D an EOFError.
"""

import atexit
import os
import signal
import stat
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TextIO

from prompt_toolkit import PromptSession
from prompt_toolkit.history import FileHistory, InMemoryHistory
from prompt_toolkit.key_binding import KeyBindings, KeyPressEvent
from prompt_toolkit.keys import Keys
from prompt_toolkit.output import Output, create_output
from prompt_toolkit.output.vt100 import Vt100_Output

from smidgen.cli.terminal.piped import BLOCK, inside_block
from smidgen.errors import SmidgenError, printable

try:
    import termios
except ImportError:  # Windows, where keys wait unseen by themselves
    termios = None


class TypedMessages:
    """Asks at the terminal. history: a file that keeps what was typed; None keeps it in memory only."""

    def __init__(self, history: Path | None = None) -> None:
        if history is not None:
            refuse_other_history(history)
        self._pasted = ""
        self._terminal = _terminal()
        self._session: PromptSession[str] = PromptSession(
            "> ", multiline=True, prompt_continuation="… ", key_bindings=self._keys(), output=_output(self._terminal),
            reserve_space_for_menu=0, history=InMemoryHistory() if history is None else FileHistory(str(history)),
        )  # fmt: skip

    def ask(self) -> str:
        """One message. Raises KeyboardInterrupt for Ctrl-C on an empty line, EOFError for Ctrl-D there."""
        self._pasted = ""
        with _noted_ctrl_c() as came:
            try:
                text = self._session.prompt(pre_run=lambda: self._interrupt() if came() else None)
            finally:  # prompt_toolkit wants no pastes any more
                _announce(self._terminal, True)
        return text if self._pasted else inside_block(text)

    def _interrupt(self) -> None:
        if not self._session.app.is_done:  # of two in one moment the second comes too late
            self._session.app.exit(exception=KeyboardInterrupt)

    def _keys(self) -> KeyBindings:
        keys = KeyBindings()

        @keys.add("enter")
        def _(event: KeyPressEvent) -> None:
            buffer = event.current_buffer
            text = buffer.text
            if not self._pasted and text.startswith(BLOCK) and not _ends_block(text):
                buffer.insert_text("\n")
            elif buffer.document.text_before_cursor.endswith("\\") and not (
                self._pasted and text.endswith(self._pasted)
            ):
                buffer.delete_before_cursor()
                buffer.insert_text("\n")
            else:
                buffer.validate_and_handle()

        @keys.add("escape", "enter")
        def _(event: KeyPressEvent) -> None:
            event.current_buffer.insert_text("\n")

        @keys.add("c-c")
        def _(event: KeyPressEvent) -> None:
            if event.current_buffer.text:
                event.current_buffer.reset()
            else:
                self._interrupt()

        @keys.add(Keys.BracketedPaste)
        def _(event: KeyPressEvent) -> None:
            text = event.data.replace("\r\n", "\n").replace("\r", "\n")
            self._pasted = text or self._pasted
            event.current_buffer.insert_text(text)

        return keys


@contextmanager
def _noted_ctrl_c() -> Iterator[Callable[[], bool]]:
    """Whether Ctrl-C came while prompt_toolkit sets up what it asks with, which no exception may interrupt."""
    noted: list[int] = []
    before = signal.signal(signal.SIGINT, lambda number, _: noted.append(number))
    try:
        yield lambda: bool(noted)
    finally:
        signal.signal(signal.SIGINT, before)


def _ends_block(text: str) -> bool:
    return len(text) >= 2 * len(BLOCK) and text.rstrip().endswith(BLOCK)


def refuse_other_history(path: Path) -> None:
    """Make the file, readable by its owner alone, if it is new. Raises SmidgenError for one with other content."""
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o600)
        with os.fdopen(descriptor, "rb") as file:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                raise SmidgenError(f"--history: {printable(path)} is not a regular file; choose a new name.")
            file.seek(0)
            begin = file.read(4).lstrip(b"\n")
    except OSError as error:
        raise SmidgenError(f"--history: {printable(path)} cannot be written: {error.strerror}.") from error
    if begin and not begin.startswith(b"#"):  # each entry has its time, as a comment, before it
        raise SmidgenError(f"--history: {printable(path)} is another kind of file; choose a new name.")


@contextmanager
def keys_wait() -> Iterator[None]:
    """Show nothing of what is typed meanwhile, and keep it for who reads next. Ctrl-C is a KeyboardInterrupt still."""
    if termios is None or sys.stdin is None or not sys.stdin.isatty():
        yield
        return
    keyboard = sys.stdin.fileno()
    before = termios.tcgetattr(keyboard)
    waiting = termios.tcgetattr(keyboard)
    waiting[0] &= ~termios.ICRNL  # or a pasted line end of two characters would be two line ends
    waiting[3] &= ~(termios.ECHO | termios.ICANON)  # by lines a terminal would drop what is longer than 4095 bytes
    terminal = _terminal()
    give_back = partial(termios.tcsetattr, keyboard, termios.TCSANOW, before)
    atexit.register(give_back)  # should a second Ctrl-C come before the first one has done its work below
    try:
        termios.tcsetattr(keyboard, termios.TCSANOW, waiting)
        _announce(terminal, True)
        yield
    finally:
        give_back()
        atexit.unregister(give_back)
        _announce(terminal, False)


def _announce(terminal: TextIO, pastes: bool) -> None:
    """Have the terminal tell a paste from typing, or not. Windows' consoles do not; prompt_toolkit guesses there."""
    if termios is not None:
        terminal.write("\x1b[?2004h" if pastes else "\x1b[?2004l")
        terminal.flush()


def _terminal() -> TextIO:
    """Where questions are asked: stdout, or where that is a pipe (`| tee`) another way to the terminal."""
    for stream in (sys.stdout, sys.stderr):
        if stream is not None and stream.isatty():
            return stream
    try:
        return open(os.ctermid(), "w")
    except (OSError, AttributeError) as error:
        raise SmidgenError("there is no terminal to ask on; pipe the messages in.") from error


def _output(terminal: TextIO) -> Output:
    output = create_output(terminal)
    if isinstance(output, Vt100_Output):
        output.enable_cpr = False  # where the cursor is, asked late, would be answered in what is typed
    return output
