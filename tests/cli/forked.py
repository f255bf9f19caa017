"""Commands in processes that have loaded already: one process imports what commands import, and splits off for each.

Otherwise every command of a test would spend seconds importing torch. What differs from a command that a person starts
is only that; `test_start.py` is about the rest of the beginning.
"""

import atexit
import os
import sys
import threading
import traceback
from collections.abc import Mapping, Sequence
from importlib import import_module
from multiprocessing import get_context
from pathlib import Path
from subprocess import CompletedProcess
from tempfile import TemporaryDirectory

_FORKING = get_context("forkserver")
_FORKING.set_forkserver_preload(["tests.cli.loaded"])
_STDOUT, _STDERR = 1, 2


def run_forked(
    words: Sequence[str], folder: Path, environment: Mapping[str, str], stdin: bytes, timeout: float
) -> "CompletedProcess[bytes]":
    """`smidgen WORDS` in a folder; AssertionError where it takes longer than `timeout` seconds."""
    with TemporaryDirectory() as place:
        streams = [Path(place, name) for name in ("stdin", "stdout", "stderr")]
        streams[0].write_bytes(stdin)
        process = _FORKING.Process(target=_command, args=(list(words), folder, dict(environment), streams))
        process.start()
        process.join(timeout)
        if process.exitcode is None:
            process.kill()
            raise AssertionError(f"smidgen {' '.join(words)} takes longer than {timeout} s")
        return CompletedProcess(
            ["smidgen", *words], process.exitcode, streams[_STDOUT].read_bytes(), streams[_STDERR].read_bytes()
        )


def _command(words: list[str], folder: Path, environment: dict[str, str], streams: list[Path]) -> None:
    """In the new process, which never returns from here."""
    for number, path in enumerate(streams):
        flags = os.O_RDONLY if number == 0 else os.O_WRONLY | os.O_CREAT
        opened = os.open(path, flags)
        os.dup2(opened, number)
        os.close(opened)
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    sys.argv = ["smidgen", *words]
    sys.stdin, sys.stdout, sys.stderr = open(0), open(1, "w"), open(2, "w", buffering=1, errors="backslashreplace")
    code: object = 0
    try:
        import_module("smidgen.cli.start").main()
    except SystemExit as end:
        code = end.code
    except BaseException:
        traceback.print_exc()
        code = 1
    threading._shutdown()  # pyright: ignore[reportAttributeAccessIssue] - what an interpreter does at its end
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code if isinstance(code, int) else 0 if code is None else 1)
