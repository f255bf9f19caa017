"""Where the command begins, before there is a command line.

Ctrl-C ends it without a word from the first moment on, and what a caller has closed is not taken for something else.
"""

import atexit
import os
import signal
import sys

_INTERRUPTED, _TERMINATED = 130, 143


def main() -> None:
    """Entry point of the console script and of `python -m smidgen`. Leaves through SystemExit, or at once."""
    _keep_places()
    ctrl_c = signal.getsignal(signal.SIGINT)
    _end_at_ctrl_c()  # an import that is interrupted would print where it was
    from smidgen.cli.main import main as command_line

    signal.signal(signal.SIGINT, ctrl_c)
    try:
        command_line()
    except KeyboardInterrupt:  # a second one, on the way out of the first
        _leave_at_once()
    except SystemExit as end:
        if end.code in (_INTERRUPTED, _TERMINATED):
            _leave_at_once(end.code)
        raise


def _keep_places() -> None:
    """Where stdin, stdout or stderr is closed, the next file or connection would get its number, and what it writes.

    `sys.stdin` and `sys.stdout` stay None then, which commands look at; without stderr nobody hears what is said there.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)  # the lowest free number, which is this one
    if sys.stderr is None:  # `print` to None would print to stdout
        sys.stderr = open(os.devnull, "w")


def _end_at_ctrl_c() -> None:
    """By the system, whatever Python is doing. A program that a shell has put into the background goes on."""
    if signal.getsignal(signal.SIGINT) != signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.SIG_DFL)


def _leave_at_once(code: int = _INTERRUPTED) -> None:
    """Without waiting for threads that still compute, and without giving back memory piece by piece."""
    _end_at_ctrl_c()
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (OSError, ValueError, AttributeError):
            pass  # closed, or nobody reads it
    atexit._run_exitfuncs()  # processes that work for us end there
    os._exit(code)
