"""`smidgen distill` as a person types it."""

import json
from pathlib import Path

from tests.cli.conftest import SmidgenCommand
from tests.cutting.test_cut import TEXT
from tests.tiny_models import write_gemma3


def test_a_fresh_student_from_the_command_line(run_smidgen: SmidgenCommand, tmp_path: Path) -> None:
    teacher = write_gemma3(tmp_path / "teacher.gguf")
    (tmp_path / "text.txt").write_text(TEXT[:2000])
    words = [
        "distill", str(teacher), "new", "--layers", "2", "--width", "32", "--ffn", "48", "--steps", "3", "--batch", "2",
        "--context", "32", "--text", "text.txt", "-o", "out", "--threads", "1", "--match-hidden", "0.1",
        "--match-layers", "0:1,1:4",
    ]  # fmt: skip
    done = run_smidgen(*words, "--json", "--quiet")
    assert (done.returncode, done.stderr) == (0, "")
    result = json.loads(done.stdout)
    assert result["steps"] == 3 and result["path"] == "out/model.gguf"
    lines = (tmp_path / "out" / "metrics.jsonl").read_text().splitlines()
    assert len(lines) == 3 and "hidden" in json.loads(lines[0])
    assert "2 layers" in run_smidgen("inspect", "out").stdout


def test_what_is_refused_before_torch_is_loaded(run_smidgen: SmidgenCommand, tmp_path: Path) -> None:
    teacher = str(write_gemma3(tmp_path / "teacher.gguf"))
    words = ["distill", teacher, teacher, "--steps", "3", "-o", "out"]
    for more, message in (
        (["--layers", "2"], "--layers is for a fresh student"),
        (["--text", "none.txt"], "no such file"),
        (["--loss", "l2"], "'l2' is not one of"),
        (["--match-layers", "0-1"], "takes pairs of numbers"),
        (["--match-layers", "0:1,0:2"], "layer 0 of the student twice"),
    ):
        done = run_smidgen(*words, *more)
        assert (done.returncode, done.stdout) == (2, "")
        assert message in done.stderr and len(done.stderr.splitlines()) == 1


def test_a_folder_named_new_is_a_doubt(run_smidgen: SmidgenCommand, tmp_path: Path) -> None:
    teacher = str(write_gemma3(tmp_path / "teacher.gguf"))
    (tmp_path / "new").mkdir()
    done = run_smidgen("distill", teacher, "new", "--steps", "3", "-o", "out")
    assert done.returncode == 2 and "say ./new, or --init slices" in done.stderr
