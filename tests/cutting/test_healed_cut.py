"""`smidgen cut --heal` on tiny models: the file fits, is never worse on what was watched, resumes and repeats."""

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from smidgen.cutting.plan import smallest_size
from smidgen.formats.opening import open_checkpoint
from tests.cutting.test_cut import TEXT
from tests.measuring.test_report import whole_page
from tests.tiny_models import write_gemma3, write_llama


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SMIDGEN_HOME", str(tmp_path / "home"))
    (tmp_path / "text.txt").write_text(TEXT * 2)
    return tmp_path


def command(*arguments: object, measured: bool = False) -> list[str]:
    common = ["--text", "text.txt", "--tokens", "1024", "--threads", "1", *(["--no-measure"] if not measured else [])]
    return [sys.executable, "-m", "smidgen", "cut", *map(str, arguments), *common]


def run(folder: Path, *arguments: object, measured: bool = False) -> subprocess.CompletedProcess[str]:
    words = command(*arguments, measured=measured)
    return subprocess.run(words, cwd=folder, capture_output=True, text=True, timeout=300)


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def fit_of(model: Path) -> int:
    with open_checkpoint(model) as checkpoint:
        return int(smallest_size(checkpoint) * 1.1) + 1000


@pytest.mark.parametrize("write", [write_gemma3, write_llama])
def test_a_healed_file_fits_and_says_what_it_gained(write, folder: Path) -> None:
    model = write(folder / "tiny.gguf")
    fit = fit_of(model)
    done = run(folder, model, "--fit", fit, "--heal", "20000", "-o", "out", "--json")
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    healing = result["steps"][-1]
    assert healing["step"] == "heal" and healing["watched_kl_after"] < healing["watched_kl_before"]
    assert result["bytes"] == (folder / "out/model.gguf").stat().st_size <= fit
    with open_checkpoint(folder / "out/model.gguf") as checkpoint:
        chosen = {tensor["name"]: tensor["kind"] for tensor in result["tensors"]}
        assert {name: checkpoint.file.tensors[name].kind.name for name in chosen} == chosen
    assert not (folder / "out/work").exists()


def test_the_smallest_file_that_is_possible_can_be_healed(folder: Path) -> None:
    model = write_llama(folder / "tiny.gguf")
    with open_checkpoint(model) as checkpoint:
        fit = smallest_size(checkpoint) + 96  # what the entry in the history takes
    done = run(folder, model, "--fit", fit, "--heal", "3000", "-o", "out")
    assert done.returncode == 0, done.stderr
    assert (folder / "out/model.gguf").stat().st_size <= fit


def test_killed_while_healing_and_resumed_is_the_same_file(folder: Path) -> None:
    model = write_llama(folder / "tiny.gguf")
    arguments = (model, "--fit", fit_of(model), "--heal", "60000")
    assert run(folder, *arguments, "-o", "whole").returncode == 0
    process = subprocess.Popen(command(*arguments, "-o", "killed"), cwd=folder, stderr=subprocess.DEVNULL)
    checkpoint = folder / "killed/work/heal/checkpoint.safetensors"
    while not checkpoint.exists() and process.poll() is None:
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert run(folder, *arguments, "-o", "killed", "--resume").returncode == 0
    assert sha256(folder / "killed/model.gguf") == sha256(folder / "whole/model.gguf")
    assert run(folder, model, "--recipe", "whole/recipe.toml", "-o", "again").returncode == 2  # --text says it too


def test_what_was_pruned_is_healed_before_and_after_quantization(folder: Path) -> None:
    model = write_llama(folder / "tiny.gguf")
    arguments = (model, "--layers", "2", "--fit", fit_of(model), "--heal", "40000", "-o", "out", "--json")
    done = run(folder, *arguments, measured=True)
    assert done.returncode == 0, done.stderr
    steps = json.loads(done.stdout)["steps"]
    assert [step["step"] for step in steps] == ["depth", "heal", "quantize", "heal"]
    healing = whole_page(folder / "out").sections["healing"]
    assert "Healing 1 of 2" in healing and "Healing 2 of 2" in healing
    for step in (steps[1], steps[3]):
        assert f"{min(kl for _, kl in step['watched']):.4f}" in healing


def test_a_trimmed_vocabulary_is_healed_in_its_own_spelling(folder: Path) -> None:
    model = write_gemma3(folder / "tiny.gguf")
    done = run(folder, model, "--vocab", "288", "--heal", "20000", "-o", "out", "--json")
    assert done.returncode == 0, done.stderr
    steps = json.loads(done.stdout)["steps"]
    assert [step["step"] for step in steps] == ["vocabulary", "heal"]
    assert steps[1]["watched_kl"][1] <= steps[1]["watched_kl"][0]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--heal", "soon"], "--heal is 'soon'; say tokens (50000) or a time (90s, 15min, 2h)"),
        (["--heal", "0"], "it must be more than nothing"),
        (["--heal", "1000", "--steps", "heal"], "Nothing to do"),
    ],
)
def test_bad_input_is_one_line(options: list[str], message: str, folder: Path) -> None:
    model = write_llama(folder / "tiny.gguf")
    fit = [] if "--steps" in options else ["--fit", str(fit_of(model))]
    done = run(folder, model, *fit, *options, "-o", "out")
    assert done.returncode == 2 and message in done.stderr and "Traceback" not in done.stderr
