"""`smidgen export`: the same model in another format, as a person meets it."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from smidgen.errors import SmidgenError
from smidgen.exporting.export import export
from smidgen.formats.convert import gguf_of
from smidgen.formats.opening import open_checkpoint
from tests.family_models import save_folder
from tests.tiny_models import write_gemma3, write_llama


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    path = tmp_path / "tiny"
    path.mkdir()
    save_folder("qwen3", path)
    (path / "LICENSE").write_text("Do what you like.")
    (path / "README.md").write_text("---\nlicense: mit\n---\n")
    return path


def command(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "smidgen", "export", *words], capture_output=True, text=True, timeout=120
    )


def test_there_and_back(folder: Path, tmp_path: Path) -> None:
    """Folder → GGUF → folder through the command line; licences go along, weights stay."""
    one = command(str(folder), "--to", "gguf", "-o", str(tmp_path / "tiny.gguf"), "-q")
    two = command(str(tmp_path / "tiny.gguf"), "--to", "hf", "-o", str(tmp_path / "again"), "-q", "--dtype", "float32")
    assert (one.returncode, two.returncode) == (0, 0), one.stderr + two.stderr
    assert (tmp_path / "tiny.LICENSE").read_text() == "Do what you like."
    assert (tmp_path / "again" / "README.md").read_text().startswith("---\n")
    assert json.loads((tmp_path / "again" / "config.json").read_text())["torch_dtype"] == "float32"
    with open_checkpoint(folder) as before, open_checkpoint(tmp_path / "again") as after:
        assert all(torch.equal(before.tensor(name), after.tensor(name)) for name in before.names())


def test_gemma_carries_its_terms(tmp_path: Path) -> None:
    """A derivative of Gemma says that it is one, and points to terms and use policy, even if nothing came with it."""
    original = write_gemma3(tmp_path / "gemma.gguf")
    export(str(original), "hf", tmp_path / "out")
    notice = (tmp_path / "out" / "NOTICE").read_text()
    assert "Gemma Terms of Use" in notice
    assert "gemma" in (tmp_path / "out" / "README.md").read_text().lower()


def test_engines_get_one_converted_file(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SMIDGEN_HOME", str(tmp_path / "home"))
    first, second = gguf_of(folder), gguf_of(folder)
    assert first == second
    assert first.parent == tmp_path / "home" / "converted"
    assert gguf_of(first) == first


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--to", "onnx", "-o", "x"], "--to onnx is not there yet"),
        (["--to", "pdf", "-o", "x"], "no format; choose hf, gguf or compressed-tensors"),
        (["--to", "gguf", "-o", "x.gguf", "--dtype", "float32"], "--dtype is for folders"),
        (["--to", "compressed-tensors", "-o", "x"], "is not 2:4 sparse"),
        (["--to", "gguf", "-o", "missing/x.gguf"], "no folder"),
        (["--to", "hf", "-o", "."], "is not empty"),
    ],
)
def test_refusals(words: list[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One line, exit code 2, nothing written."""
    model = write_llama(tmp_path / "tiny.gguf")
    monkeypatch.chdir(tmp_path)
    done = command(str(model), *words)
    assert done.returncode == 2
    assert message in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["tiny.gguf"]


def test_never_onto_itself(tmp_path: Path) -> None:
    model = write_llama(tmp_path / "tiny.gguf")
    before = model.read_bytes()
    with pytest.raises(SmidgenError, match="is the model itself"):
        export(str(model), "gguf", model)
    assert model.read_bytes() == before
