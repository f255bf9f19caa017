"""A program that ends with the one that started it, and all that it has started itself.

    python leash.py PROGRAM [ARGUMENT…]

The end of standard input, which comes with the end of the parent however it ends, ends the whole group of processes.
This file needs nothing of smidgen, so that the program's environment can be another Python's.
"""

import os
import signal
import subprocess
import sys
import threading
import time
from contextlib import suppress

_LAST_MOMENTS_S = 10  # to remove what it shares with others, such as memory
_LOOK_EVERY_S = 0.1


def main() -> None:
    """Run the program until it ends or the parent lets go; its exit code is ours."""
    program = subprocess.Popen(sys.argv[1:], stdin=subprocess.DEVNULL, start_new_session=True)
    threading.Thread(target=_end_with_the_parent, args=(program.pid,), daemon=True).start()
    code = program.wait()
    _end(program.pid)  # what it has left behind
    os._exit(code if code >= 0 else 128 - code)


def _end_with_the_parent(group: int) -> None:
    sys.stdin.buffer.read()
    _end(group)


def _end(group: int) -> None:
    deadline = time.monotonic() + _LAST_MOMENTS_S
    with suppress(ProcessLookupError):  # as soon as all of them have ended
        os.killpg(group, signal.SIGTERM)
        while time.monotonic() < deadline:
            os.killpg(group, 0)
            time.sleep(_LOOK_EVERY_S)
        os.killpg(group, signal.SIGKILL)


if __name__ == "__main__":
    main()
