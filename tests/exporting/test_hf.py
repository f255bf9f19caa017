"""`export --to hf` of models that compute what float16 cannot hold: transformers makes numbers of them all the same."""

import json
from pathlib import Path

import pytest
import torch
import transformers
from safetensors.torch import load_file

from smidgen.exporting.export import export
from tests.exporting.quantized_models import write_quantized
from tests.family_models import save_folder

_IDS = torch.arange(3, 40)[None]


@pytest.fixture
def overflowing(tmp_path: Path) -> Path:
    """A Gemma 3 whose sums over the blocks are beyond float16, each weight well within it."""
    path = tmp_path / "gemma3"
    path.mkdir()
    save_folder("gemma3", path)
    model = transformers.AutoModelForCausalLM.from_pretrained(path)
    with torch.no_grad():
        for layer in model.model.layers:
            layer.post_feedforward_layernorm.weight.fill_(4e4)
    model.save_pretrained(path)
    return path


def predicted(folder: Path, dtype: torch.dtype | str) -> tuple[torch.dtype, torch.Tensor]:
    """The dtype that a folder is loaded in, and its logits."""
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=dtype)
    with torch.no_grad():
        return model.dtype, model(_IDS).logits.float()


def test_what_is_beyond_float16_is_computed_in_bfloat16(overflowing: Path, tmp_path: Path) -> None:
    out = export(overflowing, "hf", tmp_path / "out", "float16")
    assert predicted(out, torch.float16)[1].isnan().any()
    dtype, logits = predicted(out, "auto")
    assert dtype == torch.bfloat16 and logits.isfinite().all()


def test_it_is_said_and_the_file_keeps_float16(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for family, asked in (("gemma2", "bfloat16"), ("gemma3", "bfloat16"), ("llama3", "float16")):
        out = export(write_quantized(family, tmp_path), "hf", tmp_path / family)
        assert json.loads((out / "config.json").read_text())["torch_dtype"] == asked
        assert ("asks for bfloat16" in capsys.readouterr().err) == (asked == "bfloat16")
        weights = load_file(out / "model.safetensors")
        assert weights["model.layers.0.mlp.up_proj.weight"].dtype == torch.float16


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_other_dtypes_are_what_they_say(dtype: str, overflowing: Path, tmp_path: Path) -> None:
    out = export(overflowing, "hf", tmp_path / "out", dtype)
    assert json.loads((out / "config.json").read_text())["torch_dtype"] == dtype
    assert predicted(out, "auto")[1].isfinite().all()


def test_the_program_on_its_page_writes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = export(write_quantized("llama3", tmp_path), "hf", tmp_path / "out")
    program = (out / "README.md").read_text().split("```python\n")[1].split("```")[0]
    monkeypatch.chdir(out)
    exec(program, {})
    assert capsys.readouterr().out.startswith("Once upon a time")
