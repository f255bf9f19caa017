"""`smidgen chat` and `smidgen run` as a person meets them: in a terminal, with keys, pastes and Ctrl-C."""

import fcntl
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from smidgen.cli.terminal.keyboard import refuse_other_history
from smidgen.errors import SmidgenError
from tests import tiny_models
from tests.cli.terminal.session import ALT_ENTER, CTRL_C, CTRL_D, PASTE, PROMPT, in_a_terminal

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="Windows has no pseudo-terminals of this kind")
CODE = "def f(x):\n    return x + 1\n\nprint(f(1))"
READY = "Ctrl-D leaves."
ASKED = "\x1b[?2004l"  # what prompt_toolkit writes last


def words(*given: str) -> list[str]:
    return [sys.executable, "-m", "smidgen", *given]


@pytest.fixture
def tiny(tmp_path: Path) -> Path:
    """A model with a chat template, which answers nonsense at once."""
    template = "{% for message in messages %}{{ message.content }}{% endfor %}"
    tiny_models.write_gemma3(tmp_path / "tiny.gguf", {"tokenizer.chat_template": template})
    return tmp_path


def questions(saved: Path) -> list[str]:
    return [turn["content"] for turn in json.loads(saved.read_text("utf-8"))["messages"] if turn["role"] == "user"]


def test_messages_of_several_lines(tiny: Path, cli_environment: dict[str, str]) -> None:
    asked = words("chat", "tiny.gguf", "-n", "3", "--threads", "1", "--temperature", "0", "--history", "typed.txt")
    with in_a_terminal(asked, tiny, cli_environment) as session:
        session.wait_for("\x1b[?2004h")
        session.type(PASTE.format("typed\r\nwhile it loads") + "\r")
        session.wait_for(READY)
        session.type(PASTE.format(CODE) + " # why?\r")
        session.type("one \\\rtwo\r")
        session.type(f"three{ALT_ENTER}four\r")
        session.type('"""five\r\rsix"""\r')
        session.type(PASTE.format('"""A docstring."""\n') + "\r")
        session.type("/stats\r")
        session.wait_for("tokens used")
        session.type(f"taken back{CTRL_C}/etc/hosts is wrong\r")
        session.type("/save talk.json\r")
        session.wait_for("The conversation is in talk.json.")
        session.wait_for("\x1b[?2004h")  # the prompt reads again: before that nobody would see a Ctrl-C
        session.type(f"{CTRL_C}")
        session.wait_for("once more leaves")
        session.type(f"{CTRL_C}")
        code, _ = session.end()
        assert code == 0 and session.echoes()
    assert questions(tiny / "talk.json") == [
        "typed\nwhile it loads", f"{CODE} # why?", "one \ntwo", "three\nfour", "five\n\nsix", '"""A docstring."""\n',
        "/etc/hosts is wrong",
    ]  # fmt: skip
    assert "+print(f(1)) # why?" in (tiny / "typed.txt").read_text()
    assert (tiny / "typed.txt").stat().st_mode & 0o777 == 0o600


def test_ctrl_c_stops_the_answer_and_not_the_program(tmp_path: Path, cli_environment: dict[str, str]) -> None:
    asked = words("chat", "smollm2-135m-instruct", "--threads", "1", "--temperature", "0")
    with in_a_terminal(asked, tmp_path, cli_environment) as session:
        session.wait_for(READY)
        session.type("Write a very long story about a fox.\r")
        session.wait_for(ASKED)
        session.wait_for("fox")  # in the answer
        session.type(CTRL_C)
        session.wait_for(PROMPT)
        session.type("/save talk.json\r")
        session.wait_for("The conversation is in talk.json.")
        session.type(CTRL_D)
        assert session.end()[0] == 0
    said = json.loads((tmp_path / "talk.json").read_text("utf-8"))["messages"]
    assert [turn["role"] for turn in said] == ["user", "assistant"] and "fox" in said[1]["content"]


def test_long_lines_and_long_answers_arrive_whole_beside_a_pipe(tiny: Path, cli_environment: dict[str, str]) -> None:
    """With stdout in a pipe (`| tee`) questions are asked on the other way to the terminal."""
    long = "x" * 7093
    asked = words("chat", "tiny.gguf", "-n", "2", "--threads", "1", "--temperature", "0", "--ctx-size", "4096")
    with (tiny / "out.txt").open("wb") as out, in_a_terminal(asked, tiny, cli_environment, out.fileno()) as session:
        session.wait_for(READY)
        session.type(f"{long[:3000]}\r")
        session.type(f"{long}\r")
        session.wait_for(" tokens: no room in a context of 4096")
        session.type("/save talk.json\r")
        session.wait_for("The conversation is in talk.json.")
        session.type(CTRL_D)
        assert session.end()[0] == 0
    assert questions(tiny / "talk.json") == [long[:3000]]
    assert b"\x1b[" not in (tiny / "out.txt").read_bytes()


@pytest.mark.parametrize("command", ["chat", "run"])
@pytest.mark.parametrize("wait", [0.6, 1.0, 1.4])
def test_ctrl_c_ends_it_while_it_loads(
    smollm_path: Path, tmp_path: Path, cli_environment: dict[str, str], command: str, wait: float
) -> None:
    endless = ["--raw", "1, 2, 3, 4, 5, 6, 7,", "-n", "5000", "--temperature", "0"]  # no answer that ends by itself
    asked = words(command, str(smollm_path), *(endless if command == "run" else []))
    with in_a_terminal(asked, tmp_path, cli_environment) as session:
        time.sleep(wait)  # somewhere between its first line and its first word
        session.type(CTRL_C)
        if command == "chat":
            session.type(CTRL_C + CTRL_D)  # where it had loaded already
        code, _ = session.end()
        assert code in ((130, -signal.SIGINT) if command == "run" else (130, -signal.SIGINT, 0))
        assert session.echoes()


def test_a_signal_that_ends_it_gives_the_terminal_back(tiny: Path, cli_environment: dict[str, str]) -> None:
    with in_a_terminal(words("chat", "tiny.gguf", "--threads", "1"), tiny, cli_environment) as session:
        session.wait_for(READY)
        session.wait_for(PROMPT)
        os.kill(session.process.pid, signal.SIGTERM)
        assert session.end()[0] == 143 and session.echoes()


def test_head_takes_what_it_wants(tiny: Path, cli_environment: dict[str, str]) -> None:
    asked = words("run", "tiny.gguf", "Hi", "-n", "2000", "--threads", "1", "--temperature", "0", "--quiet")
    run = subprocess.Popen(
        asked, bufsize=0, pipesize=4096, stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=tiny, env=cli_environment
    )  # a pipe that does not take the whole answer
    assert run.stdout is not None and run.stderr is not None
    assert run.stdout.read(1)
    run.stdout.close()
    assert (run.stderr.read(), run.wait(60)) == (b"", 141)
    run.stderr.close()


@pytest.mark.parametrize("command", ["run", "chat"])
def test_a_slow_reader_gets_everything(tiny: Path, cli_environment: dict[str, str], command: str) -> None:
    """As behind `| tee` over a slow connection: the pipe is full nearly always."""
    asked = words(command, "tiny.gguf", *(["Hi"] if command == "run" else []), "-n", "2000", "--threads", "1")
    asked += ["--temperature", "0", "--quiet"]
    whole = subprocess.run(asked, input=b"Hi\n", capture_output=True, cwd=tiny, env=cli_environment, timeout=60).stdout
    read, write = os.pipe()
    if hasattr(fcntl, "F_SETPIPE_SZ"):
        fcntl.fcntl(write, fcntl.F_SETPIPE_SZ, 4096)
    process = subprocess.Popen(asked, stdin=subprocess.PIPE, stdout=write, cwd=tiny, env=cli_environment)
    os.close(write)
    assert process.stdin is not None
    with process.stdin as stdin, os.fdopen(read, "rb", buffering=0) as pipe:
        stdin.write(b"Hi\n")
        stdin.close()
        pieces: list[bytes] = []
        while not pieces or pieces[-1]:
            pieces.append(pipe.read(64))
            time.sleep(0.002)
    assert (process.wait(60), b"".join(pieces)) == (0, whole)
    assert len(whole) > 5000


@pytest.mark.parametrize(("closed", "said"), [("<&-", b"no prompt"), (">&-", b"stdout is closed")])
def test_closed_pipes_are_one_line(tiny: Path, cli_environment: dict[str, str], closed: str, said: bytes) -> None:
    prompt = "" if "<" in closed else "Hi"
    command = f"{sys.executable} -m smidgen run tiny.gguf {prompt} {closed}"
    done = subprocess.run(command, shell=True, stderr=subprocess.PIPE, cwd=tiny, env=cli_environment, timeout=60)
    assert done.returncode == 2 and said in done.stderr and done.stderr.count(b"\n") == 1


@pytest.mark.parametrize("encoding", ["cp1252", "ascii"])
def test_letters_that_a_console_does_not_have_are_replaced(
    tiny: Path, cli_environment: dict[str, str], encoding: str
) -> None:
    asked = words("run", "tiny.gguf", "Hi", "-n", "40", "--threads", "1", "--quiet", "--seed", "1")
    here = cli_environment | {"PYTHONIOENCODING": encoding}
    done = subprocess.run(asked, capture_output=True, cwd=tiny, env=here, timeout=60)
    assert (done.returncode, done.stderr) == (0, b"") and b"?" in done.stdout


def test_another_file_is_no_history(tiny: Path, cli_environment: dict[str, str]) -> None:
    (tiny / "letter.txt").write_text("Dear Anna,\n")
    with in_a_terminal(words("chat", "tiny.gguf", "--history", "letter.txt"), tiny, cli_environment) as session:
        code, output = session.end()
        assert code == 2 and "another kind of file" in output and session.echoes()
    assert (tiny / "letter.txt").read_text() == "Dear Anna,\n"
    with pytest.raises(SmidgenError, match="is not a regular file"):
        refuse_other_history(Path("/dev/zero"))
