"""What a person sees when something is wrong: one line on stderr, the right exit code, no traceback."""

import errno
import subprocess
import sys
from pathlib import Path

import pytest

from smidgen.cli import main as command_line
from smidgen.errors import BadFile


def assert_one_line(done: "subprocess.CompletedProcess[str]", *words: str) -> None:
    assert done.returncode == 2, done
    assert done.stdout == ""
    assert done.stderr.startswith("smidgen: error: ")
    assert done.stderr.count("\n") == 1
    for word in words:
        assert word in done.stderr


def test_a_message_cannot_change_the_terminal(monkeypatch, capsys) -> None:
    def fail(invoked: str | None, words: list[str]) -> int:
        raise ValueError("\x1b]0;title\x07")

    monkeypatch.setattr(command_line, "_run", fail)
    with pytest.raises(SystemExit):
        command_line.main(["models"])
    assert "unexpected ValueError: ␛]0;title␇" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["inspect", "nothing-here"], "gemma-3-270m"),
        (["run", "google/gemma-2-2b-it", "Hi"], "check the network"),
        (["inspect", "."], "folder without a model"),
        (["inspect"], "MODEL"),
        (["models", "--bad"], "No such option"),
        (["run", "gemma-3-270m", "Hi", "--stop"], "See `smidgen run --help`."),
        (["run", "gemma-3-270m", "Why", "is", "it"], "(is it). A prompt or a path with blanks needs quotes."),
        (["--bad"], "See `smidgen --help`."),
        (["modles"], "No such command"),
        (["run", "gemma-3-270m", "Hi", "--max-tokens", "0"], "--max-tokens"),
        (["serve", "gemma-3-270m", "--host", "0.0.0.0"], "--api-key"),
        (["serve", "gemma-3-270m", "--host", "::"], "--api-key"),
        (["serve", "gemma-3-270m", "--host", "0.0.0.0", "--api-key", ""], "--api-key"),
        (["chat", "gemma-3-270m"], "smidgen run"),
        (["serve", "gemma-3-270m", "--draft", "smollm2-135m-instruct"], "token 0 is '<|endoftext|>' in the draft"),
        (["run", "gemma-3-270m", "Hi", "--draft", "smollm2-135m-instruct"], "and '<pad>' in the model"),
        (["run", "gemma-3-270m", "Hi", "--ctx-size", "1000000"], "32768"),
    ],
)
def test_one_line_and_exit_code_2(run_smidgen, words: list[str], expected: str) -> None:
    assert_one_line(run_smidgen(*words), expected)


def test_a_damaged_file_is_refused_before_llama_cpp_sees_it(run_smidgen, tmp_path: Path, smollm_path: Path) -> None:
    with smollm_path.open("rb") as whole:
        (tmp_path / "short.gguf").write_bytes(whole.read(5_000_000))
    for command in (["inspect"], ["run", "--max-tokens", "1"], ["chat"], ["serve"], ["bench"]):
        assert_one_line(run_smidgen(command[0], "short.gguf", *command[1:], stdin="Hi"), "short.gguf")


def test_a_prompt_that_is_not_text_is_refused(run_smidgen) -> None:
    assert_one_line(run_smidgen("run", "gemma-3-270m", stdin=b"\xff\xfe\x00"), "UTF-8")


def test_debug_shows_the_traceback(run_smidgen) -> None:
    done = run_smidgen("inspect", "nothing-here", "--debug")
    assert done.returncode != 0
    assert "Traceback" in done.stderr


@pytest.mark.parametrize(
    ("error", "code", "expected"),
    [
        (BadFile("two\nlines"), 2, "two lines"),
        (OSError(errno.ENOSPC, "No space left on device", "out.gguf"), 2, "the disk is full: out.gguf"),
        (PermissionError(errno.EACCES, "Permission denied", "out"), 2, "Permission denied: out"),
        (MemoryError(), 2, "not enough memory"),
        (KeyError("x"), 1, "unexpected KeyError: 'x'; run again with --debug"),
        (KeyboardInterrupt(), 130, ""),
    ],
)
def test_how_exceptions_end(monkeypatch, capsys, error: BaseException, code: int, expected: str) -> None:
    def fail(invoked: str | None, words: list[str]) -> int:
        raise error

    monkeypatch.setattr(command_line, "_run", fail)
    with pytest.raises(SystemExit) as exit_:
        command_line.main(["models"])
    assert exit_.value.code == code
    stderr = capsys.readouterr().err
    assert expected in stderr
    assert stderr.count("\n") == (1 if expected else 0)


def test_a_closed_pipe_is_quiet() -> None:
    script = f"{sys.executable} -m smidgen inspect gemma-3-270m --json | head -c 1"
    done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, timeout=60)
    assert done.stderr == ""


def test_help_has_an_example_for_every_command(run_smidgen) -> None:
    overview = run_smidgen("--help").stdout
    for name, (module, summary) in command_line.COMMANDS.items():
        assert name in overview and summary.split()[0] in overview
        if (Path(command_line.__file__).parent / f"{module.rpartition('.')[2]}.py").exists():
            assert f"  smidgen {name}" in run_smidgen(name, "--help").stdout
