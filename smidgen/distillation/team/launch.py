"""Runs one function in several processes of this machine that train together, and again where one of them dies.

They meet through a file and, on a CPU, talk over the loopback interface alone: nothing listens to the network. For
processes on several hosts there are torchrun and `distillation.team.cluster`.
"""

import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from multiprocessing import get_context, parent_process
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, TypeVar, cast

from smidgen.errors import SmidgenError
from smidgen.progress import is_quiet, say, set_quiet
from smidgen.stopping import Stopped

T = TypeVar("T")
_SECONDS_TO_LEAVE = 3


def launch(work: Callable[[bool], T], workers: int, *, resume: bool = False, restarts: int = 3) -> T:
    """Call `work(resume)` in each of `workers` processes; returns what that of rank 0 returns.

    work: a function of a module (or a `partial` of one), which joins the others with `team.joined` and keeps
    checkpoints. Where a process dies (killed, out of memory), all are started again with `work(True)`, at most
    `restarts` times. Raises the SmidgenError that `work` raises, and one when processes keep dying.
    """
    attempt = 0
    while True:
        with TemporaryDirectory() as folder:
            done, result = _attempt(work, workers, resume or attempt > 0, Path(folder) / "meeting")
        if done:
            return result
        if attempt == restarts:
            raise SmidgenError(
                f"a training process died {restarts + 1} times, the last {result}. Most likely memory ran out: go on "
                "with --resume and fewer --workers, or fewer rows at once."
            )
        say(f"A training process died {result}; all start again from the last checkpoint.")
        attempt += 1


def _attempt(work: Callable[[bool], Any], workers: int, resume: bool, meeting: Path) -> tuple[bool, Any]:
    """Whether all came to their end, with the result of rank 0, or else with what one died of."""
    context = get_context("spawn")
    team: dict[Any, SpawnProcess] = {}
    try:
        for rank in range(workers):
            mine, theirs = context.Pipe(duplex=False)
            process = context.Process(target=_member, args=(work, rank, workers, resume, is_quiet(), meeting, theirs))
            process.start()
            theirs.close()
            team[mine] = process
        return _listen(team)
    except KeyboardInterrupt as interrupt:
        saved = _saved(team)
        if saved is None:
            raise
        raise Stopped(getattr(interrupt, "number", signal.SIGINT), saved.said, saved.kept) from interrupt
    finally:
        _end(list(team.values()))


def _listen(team: dict[Any, SpawnProcess]) -> tuple[bool, Any]:
    """Wait for a word from every process; one that says nothing has died."""
    result, waiting = None, dict(team)
    while waiting:
        for ready in cast(list[Connection], wait(list(waiting))):
            process = waiting.pop(ready)
            try:
                rank, value, error = ready.recv()
            except EOFError:
                process.join()
                rank, value, error = -1, None, RuntimeError("a training process left without a word")
            if isinstance(error, (SmidgenError, Stopped)):
                raise error
            if error is not None:  # its own fault, or that another one, which it waited for, is dead
                if cause := _killed(list(team.values())):
                    return False, cause
                raise error
            result = value if rank == 0 else result
    return True, result


def _saved(team: dict[Any, SpawnProcess]) -> Stopped | None:
    """What rank 0 says when all are asked to end: where it was, after the step in hand. A second Ctrl-C waits no more.

    None where that was not in the middle of a training.
    """
    for process in team.values():
        with suppress(ProcessLookupError):
            process.terminate()
    waiting, said = dict(team), None
    while waiting:
        for ready in cast(list[Connection], wait(list(waiting))):
            del waiting[ready]
            with suppress(EOFError, OSError):
                rank, _, stop = ready.recv()
                said = stop if rank == 0 and isinstance(stop, Stopped) else said
    return said


def _killed(processes: list[SpawnProcess]) -> str | None:
    """By which signal one of the processes died; the others may notice before we do."""
    for _ in range(10 * _SECONDS_TO_LEAVE):
        for process in processes:
            if process.exitcode is not None and process.exitcode < 0:
                return f"of signal {signal.Signals(-process.exitcode).name}"
        time.sleep(0.1)
    return None


def _end(processes: list[SpawnProcess]) -> None:
    """A process that waits for one that is dead does not leave by itself."""
    for process in processes:
        with suppress(ProcessLookupError):
            process.terminate()
    for process in processes:
        process.join(_SECONDS_TO_LEAVE)
        if process.is_alive():
            process.kill()
            process.join()


def _leave_with_parent() -> None:
    """Nobody would stop a process whose parent was killed, and it would go on to write what others write too."""
    parent = parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


def _member(
    work: Callable[[bool], Any], rank: int, workers: int, resume: bool, quiet: bool, meeting: Path, tell: Connection
) -> None:
    """One of the processes."""
    import torch
    import torch.distributed as dist
    from torch.distributed import FileStore  # pyright: ignore[reportPrivateImportUsage]

    from smidgen.distillation.team.parallel import PATIENCE, backend

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the one that started us, and ends us
    set_quiet(quiet)
    threading.Thread(target=_leave_with_parent, daemon=True).start()
    os.environ |= {"LOCAL_RANK": str(rank), "LOCAL_WORLD_SIZE": str(workers)}
    on_cpu = not torch.cuda.is_available()
    if on_cpu:
        torch.set_num_threads(max(1, torch.get_num_threads() // workers))
        if sys.platform == "linux":
            os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    store = FileStore(str(meeting), workers)
    dist.init_process_group(backend(), store=store, rank=rank, world_size=workers, timeout=PATIENCE)
    try:
        tell.send((rank, work(resume), None))
    except (SmidgenError, Stopped) as error:
        tell.send((rank, None, error))
    except Exception:
        tell.send((rank, None, RuntimeError(traceback.format_exc())))
    finally:
        dist.destroy_process_group()
