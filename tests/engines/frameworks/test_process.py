"""A framework's process, pretended by a program of our own: what it answers, and what is said where it does not."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from smidgen.engines.frameworks.engine import FrameworkEngine
from smidgen.engines.frameworks.known import FRAMEWORKS
from smidgen.engines.frameworks.process import FrameworkProcess
from smidgen.errors import BadFile, SmidgenError
from smidgen.formats.exported import describe_exported
from tests.engines.frameworks.frameworks import as_mlx, pretend
from tests.family_models import save_folder
from tests.tiny_models import LLAMA_CONFIG, random_decoder, write_llama


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Its logits are those of a tiny Llama."""
    pretend(monkeypatch)
    write_llama(tmp_path / "tiny.gguf")
    (tmp_path / "original.txt").write_text(str(tmp_path / "tiny.gguf"))
    return tmp_path


def started(folder: Path) -> FrameworkProcess:
    return FrameworkProcess(FRAMEWORKS["mlx"], Path(sys.executable), folder, threads=1)


@torch.no_grad()
def test_logits_come_in_pieces_as_from_one_text(folder: Path) -> None:
    decoder, ids = random_decoder(LLAMA_CONFIG), [3, 250, 7, 7, 19, 4]
    wanted = decoder(torch.tensor([ids]))[0].numpy()
    with started(folder) as process:
        assert process.vocabulary == LLAMA_CONFIG.vocabulary
        assert process.runtime == {"numpy": np.__version__, "no-such-package": "unknown"}
        first, rest = process.read(ids[:2], 2, afresh=True), process.read(ids[2:], 3, afresh=False)
        np.testing.assert_allclose(np.concatenate([first, rest]), wanted[[0, 1, 3, 4, 5]], rtol=1e-4, atol=1e-4)
        np.testing.assert_allclose(process.read(ids, 1, afresh=True), wanted[-1:], rtol=1e-4, atol=1e-4)
    process.close()


@pytest.mark.parametrize(
    ("wish", "kind", "said"),
    [
        ("refuse", SmidgenError, "mlx-lm cannot run .*: ValueError: weights of 3 bits and more$"),
        ("end", SmidgenError, "mlx-lm ended while it ran .*9.*: Killed by a bug"),
        ("nonsense", BadFile, "something else than logits"),
    ],
)
def test_what_is_said_where_it_does_not_answer(
    folder: Path, wish: str, kind: type[SmidgenError], said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PRETEND", wish)
    with pytest.raises(kind, match=said), started(folder) as process:
        process.read([1], 1, afresh=True)


def test_a_python_without_the_framework_is_told_of(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Path(folder / "lacking.py").write_text("import no_such_framework\n")
    monkeypatch.setattr(type(FRAMEWORKS["mlx"]), "script", folder / "lacking.py")
    with pytest.raises(SmidgenError, match="No module named 'no_such_framework'.*SMIDGEN_MLX_PYTHON"):
        started(folder)


def test_a_folder_that_says_another_vocabulary_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pretend(monkeypatch)
    monkeypatch.setenv("PRETEND", "narrow")
    monkeypatch.setenv("SMIDGEN_MLX_PYTHON", sys.executable)
    save_folder("qwen3", tmp_path)
    original = tmp_path / "original.gguf"
    write_llama(original)
    exported = describe_exported(as_mlx(tmp_path, original))
    with pytest.raises(BadFile, match=r"tokens, but gives \d+ logits"):
        FrameworkEngine.open(exported)


@pytest.mark.skipif(sys.platform == "win32", reason="programs that begin with #!")
@pytest.mark.parametrize(
    ("program", "said"),
    [
        ("no program", "cannot be started .Exec format error.; set SMIDGEN_MLX_PYTHON to a Python that has mlx-lm"),
        ("#!/no/such/program\n", "cannot be started .No such file or directory.; set SMIDGEN_MLX_PYTHON"),
        ("#!/bin/sh\n", "it gave no reason; set SMIDGEN_MLX_PYTHON"),
        ("#!/bin/sh\nyes\n", "something else than logits; set SMIDGEN_MLX_PYTHON"),
    ],
)
def test_a_python_that_is_none_is_told_of(
    folder: Path, program: str, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With its path, where a person has named it."""
    python = folder / "python"
    python.write_text(program)
    python.chmod(0o755)
    with pytest.raises(SmidgenError, match=said):
        FrameworkProcess(FRAMEWORKS["mlx"], python, folder)
    monkeypatch.setenv("SMIDGEN_MLX_PYTHON", str(python))
    with pytest.raises(SmidgenError, match=rf"set SMIDGEN_MLX_PYTHON .now {python}. to a Python"):
        FrameworkProcess(FRAMEWORKS["mlx"], python, folder)


@pytest.mark.skipif(sys.platform == "win32", reason="signals")
def test_it_ends_with_the_one_that_started_it(folder: Path) -> None:
    """Also where that is killed, and no pipe of it is closed by hand."""
    code = (
        "import sys, time; from pathlib import Path; from tests.engines.frameworks.test_process import started\n"
        "from tests.engines.frameworks.frameworks import PretendedFramework\n"
        "from smidgen.engines.frameworks.known import FRAMEWORKS\n"
        "FRAMEWORKS['mlx'] = PretendedFramework('mlx', 'mlx-lm', ('numpy',), 1)\n"
        "process = started(Path(sys.argv[1])); print(process._process.pid, flush=True); time.sleep(60)"
    )
    path = os.pathsep.join([str(Path(__file__).parents[3]), os.environ.get("PYTHONPATH", "")])
    parent = subprocess.Popen(
        [sys.executable, "-c", code, str(folder)],
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": path},
    )
    assert parent.stdout is not None
    child = int(parent.stdout.readline())
    parent.kill()
    parent.wait()
    for _ in range(100):
        try:
            os.kill(child, 0)
        except ProcessLookupError:
            return
        time.sleep(0.1)
    os.kill(child, signal.SIGKILL)
    raise AssertionError("it is still there")
