"""`smidgen cut --heal` on tiny models: the file fits, is never worse on what was watched, resumes and repeats."""

import json
import shutil
import signal
from pathlib import Path

import pytest

from smidgen.alone import alone_in
from smidgen.cutting.plan import smallest_size
from smidgen.formats.opening import open_checkpoint
from tests.cutting import commands
from tests.cutting.commands import Done, kill_once_there, sha256
from tests.cutting.test_cut import TEXT
from tests.interrupted import asked_to_end
from tests.measuring.test_report import whole_page
from tests.tiny_models import write_gemma3, write_llama


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SMIDGEN_HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "text.txt").write_text(TEXT * 2)
    return tmp_path


def words(*arguments: object, measured: bool = False) -> list[object]:
    common = ["--text", "text.txt", "--tokens", "1024", "--threads", "1", *(["--no-measure"] if not measured else [])]
    return ["cut", *arguments, *common]


def run(*arguments: object, measured: bool = False) -> Done:
    return commands.run(words(*arguments, measured=measured))


def fit_of(model: Path) -> int:
    with open_checkpoint(model) as checkpoint:
        return int(smallest_size(checkpoint) * 1.1) + 1000


@pytest.mark.parametrize("write", [write_gemma3, write_llama])
def test_a_healed_file_fits_and_says_what_it_gained(write, folder: Path) -> None:
    model = write(folder / "tiny.gguf")
    fit = fit_of(model)
    done = run(model, "--fit", fit, "--heal", "20000", "-o", "out", "--json")
    assert done.code == 0, done.err
    result = json.loads(done.out)
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
    done = run(model, "--fit", fit, "--heal", "3000", "-o", "out")
    assert done.code == 0, done.err
    assert (folder / "out/model.gguf").stat().st_size <= fit


def test_killed_while_healing_and_resumed_is_the_same_file(folder: Path) -> None:
    model = write_llama(folder / "tiny.gguf")
    arguments = (model, "--fit", fit_of(model), "--heal", "60000")
    assert run(*arguments, "-o", "whole").code == 0
    killed = words(*arguments, "-o", "killed")
    kill_once_there(folder, killed, folder / "killed/work/heal/training/checkpoint.safetensors")
    assert run(*arguments, "-o", "killed", "--resume").code == 0
    assert sha256(folder / "killed/model.gguf") == sha256(folder / "whole/model.gguf")
    assert run(model, "--recipe", "whole/recipe.toml", "-o", "again").code == 2  # --text says it too


def test_what_was_pruned_is_healed_before_and_after_quantization(folder: Path) -> None:
    model = write_llama(folder / "tiny.gguf")
    arguments = (model, "--layers", "2", "--fit", fit_of(model), "--heal", "40000", "-o", "out", "--json")
    done = run(*arguments, measured=True)
    assert done.code == 0, done.err
    steps = json.loads(done.out)["steps"]
    assert [step["step"] for step in steps] == ["depth", "heal", "quantize", "heal"]
    healing = whole_page(folder / "out").sections["healing"]
    assert "Healing 1 of 2" in healing and "Healing 2 of 2" in healing
    for step in (steps[1], steps[3]):
        assert f"{min(kl for _, kl in step['watched']):.4f}" in healing


def test_a_trimmed_vocabulary_is_healed_in_its_own_spelling(folder: Path) -> None:
    model = write_gemma3(folder / "tiny.gguf")
    done = run(model, "--vocab", "288", "--heal", "20000", "-o", "out", "--json")
    assert done.code == 0, done.err
    steps = json.loads(done.out)["steps"]
    assert [step["step"] for step in steps] == ["vocabulary", "heal"]
    assert steps[1]["watched_kl"][1] <= steps[1]["watched_kl"][0]


def test_healing_for_a_time_goes_on_after_a_kill_with_the_steps_that_were_planned(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """How many fit into the time is measured anew in every process, and never the same twice."""
    model = write_llama(folder / "tiny.gguf")
    arguments = (model, "--fit", fit_of(model), "--heal", "15min")
    monkeypatch.setattr("smidgen.distillation.heal.HealBudget.steps", lambda *_: 4)
    with asked_to_end(signal.SIGTERM, step=2):
        stopped = run(*arguments, "-o", "out")
    assert stopped.code == 143 and "Stopped after step 2 of" in stopped.err and "Traceback" not in stopped.err
    assert stopped.err.splitlines()[-1].startswith("Go on with: smidgen cut ")
    assert json.loads((folder / "out/work/heal/plan.json").read_text())["steps"] == 4
    again = run(*arguments, "-o", "out")
    assert again.code == 2 and "holds unfinished work. Go on with it with --resume" in again.err
    monkeypatch.setattr("smidgen.distillation.heal.HealBudget.steps", lambda *_: 3)
    resumed = run(*arguments, "-o", "out", "--resume")
    assert resumed.code == 0, resumed.err
    assert "Plan: 4 steps" in resumed.err and (folder / "out/model.gguf").exists()
    assert not (folder / "out/work").exists()


def test_two_cuts_with_one_output_are_refused(folder: Path) -> None:
    model = write_llama(folder / "tiny.gguf")
    with alone_in(folder / "out"):
        done = run(model, "--fit", fit_of(model), "-o", "out")
    assert done.code == 2 and "is writing to out. Wait for it, or choose another folder with -o." in done.err


def test_a_disk_that_is_too_small_for_healing_is_seen_before_the_cut(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = write_llama(folder / "tiny.gguf")
    usage = shutil._ntuple_diskusage(10**9, 10**9, 10**5)  # type: ignore[attr-defined]
    monkeypatch.setattr("smidgen.distillation.loop.plan.shutil.disk_usage", lambda _: usage)
    done = run(model, "--fit", fit_of(model), "--heal", "3000", "-o", "out")
    assert done.code == 2 and "100.0 kB free. This work needs about" in done.err
    assert "Writing" not in done.err


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
    done = run(model, *fit, *options, "-o", "out")
    assert done.code == 2 and message in done.err and "Traceback" not in done.err
