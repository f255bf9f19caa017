"""Every command ends when it is told to, from its first moment on, and closed pipes are not taken for others."""

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests import tiny_models

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="Windows has no signals of this kind")
_PATIENCE_S = 60  # for a machine with other work
_ENDLESS = ["--raw", "1, 2, 3, 4, 5, 6, 7,", "-n", "5000", "--temperature", "0"]  # no answer that ends by itself
COMMANDS = {
    "run": ["run", "smollm2-135m-instruct", *_ENDLESS, "--threads", "1"],
    "serve": ["serve", "smollm2-135m-instruct", "--port", "0", "--threads", "1"],
    "bench": ["bench", "smollm2-135m-instruct", "--threads", "1"],
    "measure": ["measure", "smollm2-135m-instruct", "smollm2-135m-instruct"],
    "cut": ["cut", "smollm2-135m-instruct", "--fit", "90MB", "-o", "small"],
}


def start(words: list[str], folder: Path, environment: dict[str, str]) -> "subprocess.Popen[str]":
    def heed_ctrl_c() -> None:
        signal.signal(signal.SIGINT, signal.SIG_DFL)  # which a shell takes from what runs in its background

    return subprocess.Popen(
        [sys.executable, *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=folder,
        env=environment, preexec_fn=heed_ctrl_c,
    )  # fmt: skip


@pytest.mark.parametrize("stop", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("wait", [0.3, 1.2])
@pytest.mark.parametrize("command", COMMANDS)
def test_it_ends_while_it_loads(
    command: str, wait: float, stop: signal.Signals, tmp_path: Path, cli_environment: dict[str, str]
) -> None:
    program = "print('begun', flush=True); from smidgen.cli.start import main; main()"
    process = start(["-c", program, *COMMANDS[command]], tmp_path, cli_environment)
    assert process.stdout is not None and process.stdout.readline() == "begun\n"
    time.sleep(wait)
    process.send_signal(stop)
    _, errors = process.communicate(timeout=_PATIENCE_S)  # its engine has these pipes, too, until it ends
    served = command == "serve" and process.returncode == 0  # Ctrl-C is how a server ends
    assert served or process.returncode in (128 + stop, -stop)
    assert "Traceback" not in errors
    assert not list(tmp_path.iterdir()) or command == "cut"


def test_ctrl_c_before_there_is_a_command_line(tmp_path: Path, cli_environment: dict[str, str]) -> None:
    program = """
import os, signal, sys
class Interrupted:
    def find_spec(self, name, *others):
        if name == "smidgen.cli.main":
            os.kill(os.getpid(), signal.SIGINT)
sys.meta_path.insert(0, Interrupted())
from smidgen.cli.start import main
main()
"""
    process = start(["-c", program], tmp_path, cli_environment)
    assert process.communicate(timeout=_PATIENCE_S) == ("", "")
    assert process.returncode == -signal.SIGINT


def test_nobody_waits_for_threads_that_still_compute(tmp_path: Path, cli_environment: dict[str, str]) -> None:
    program = """
import atexit, sys, threading, types
def command_line():
    threading.Thread(target=threading.Event().wait).start()
    print("written", end="")
    sys.exit(130)
sys.modules["smidgen.cli.main"] = types.ModuleType("main")
sys.modules["smidgen.cli.main"].main = command_line
atexit.register(lambda: print("ended", file=sys.stderr, flush=True))
from smidgen.cli.start import main
main()
"""
    process = start(["-c", program], tmp_path, cli_environment)
    assert process.communicate(timeout=_PATIENCE_S) == ("written", "ended\n")
    assert process.returncode == 130


def test_what_is_said_does_not_come_among_the_answer_where_stderr_is_closed(
    tmp_path: Path, cli_environment: dict[str, str]
) -> None:
    tiny_models.write_gemma3(tmp_path / "tiny.gguf", {"tokenizer.chat_template": "{{ messages[0].content }}"})
    words = [sys.executable, "-m", "smidgen", "run", "tiny.gguf", "Hi", "-n", "4", "--threads", "1", "--seed", "1"]
    command = " ".join(words)
    quiet = subprocess.run(f"{command} --quiet", shell=True, capture_output=True, cwd=tmp_path, env=cli_environment)
    for closed in ("2>&-", "<&- 2>&-"):
        done = subprocess.run(
            f"{command} {closed}", shell=True, stdout=subprocess.PIPE, cwd=tmp_path, env=cli_environment
        )
        assert (done.returncode, done.stdout) == (0, quiet.stdout) and done.stdout.strip()


def test_closed_places_are_not_given_to_others(tmp_path: Path, cli_environment: dict[str, str]) -> None:
    program = """
import os, sys, types
def command_line():
    with open("file", "w") as file:
        os.write(1, b"for people") if sys.stdout is None else None
        sys.exit(file.fileno())
sys.modules["smidgen.cli.main"] = types.ModuleType("main")
sys.modules["smidgen.cli.main"].main = command_line
from smidgen.cli.start import main
main()
"""
    (tmp_path / "program.py").write_text(program)
    done = subprocess.run(
        f"{sys.executable} program.py <&- >&- 2>&-", shell=True, cwd=tmp_path, env=cli_environment, timeout=_PATIENCE_S
    )
    assert done.returncode > 2 and (tmp_path / "file").read_bytes() == b""
