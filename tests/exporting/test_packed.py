"""Packing itself, and what `cut` leaves: trimmed, pruned and quantized models in both formats that pack."""

from pathlib import Path

import numpy as np
import pytest
import torch

from smidgen.exporting.codes import Codes
from smidgen.exporting.export import Format, export
from smidgen.exporting.packed import unsigned, words
from tests.cutting.commands import run
from tests.exporting.longhand import codes_by_hand, mlx_weights, vllm_weights, weights_of_the_folder
from tests.exporting.quantized_models import differ, our_logits, python_with, their_logits, write_quantized
from tests.exporting.test_mlx import EXPRESSIBLE
from tests.tiny_models import write_llama

#: Format → its weights by hand, the program that runs it, and what that needs.
_FORMATS = {
    "mlx": (mlx_weights, "run_mlx.py", ("mlx_lm", "SMIDGEN_MLX_PYTHON", "")),
    "vllm": (vllm_weights, "run_transformers.py", ("compressed_tensors", "SMIDGEN_TRANSFORMERS_PYTHON", "0.20")),
}


@pytest.mark.parametrize("bits", [4, 5, 8])
def test_words(bits: int) -> None:
    """Every code, at every place of a word."""
    codes = (torch.arange(2 * 96).view(2, 96) * 7 % 2**bits).to(torch.uint8)
    found = words(codes, bits)
    assert found.dtype == torch.int32 and found.shape == (2, 96 * bits // 32)
    assert torch.equal(torch.from_numpy(codes_by_hand(found.numpy().view(np.uint32), bits)).flatten(1), codes.float())


def test_codes_are_counted_from_zero() -> None:
    scale = torch.ones(1, 1, dtype=torch.float16)
    around, above = torch.arange(-8, 8, dtype=torch.int8)[None], torch.arange(16, dtype=torch.int8)[None]
    assert unsigned(Codes(around, scale, None), 4).tolist() == [list(range(16))]
    assert unsigned(Codes(around, scale, None), 8).tolist() == [list(range(120, 136))]
    assert unsigned(Codes(above, scale, scale), 8).tolist() == [list(range(16))]
    every = torch.arange(-128, 128, dtype=torch.int16).to(torch.int8)[None]
    assert unsigned(Codes(every, scale, None), 8).tolist() == [list(range(256))]


@pytest.fixture(scope="module")
def cut_models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A Llama with fewer tokens, layers and channels, and a Gemma 3 with fewer tokens, quantized by `cut`."""
    folder = tmp_path_factory.mktemp("cut")
    gemma = write_quantized("gemma3", folder, changes=EXPRESSIBLE["gemma3"])
    common = ["--types", "Q4_0,Q8_0", "--text", folder / "text.txt", "--tokens", "600", "--no-measure", "-q"]
    (folder / "text.txt").write_text("the rain in the north is near the sea and the hare is in the tree " * 60)
    wanted = {
        "llama": [write_llama(folder / "llama.gguf"), "--vocab", "280", "--layers", "2", "--ffn", "64", "--fit=80KB"],
        "gemma": [folder / gemma.name.replace(".gguf", "-dense.gguf"), "--vocab", "300", "--fit", "120KB"],
    }  # fmt: skip
    for name, options in wanted.items():
        done = run(["cut", *options, *common, "-o", folder / name])
        assert done.code == 0, done.err
    return {name: folder / name / "model.gguf" for name in wanted}


@pytest.mark.parametrize("to", _FORMATS)
def test_cut_models(to: Format, cut_models: dict[str, Path], tmp_path: Path) -> None:
    """Vocabulary-trimmed and pruned ones: the weights are those of `model.gguf`."""
    for name, model in cut_models.items():
        export(model, to, tmp_path / name, "float32")
        found, wanted = _FORMATS[to][0](tmp_path / name), weights_of_the_folder(model)
        assert all(torch.equal(found[tensor], wanted[tensor]) for tensor in wanted)


@pytest.mark.parametrize("to", _FORMATS)
def test_frameworks_run_cut_models(to: Format, cut_models: dict[str, Path], tmp_path: Path) -> None:
    _, program, needs = _FORMATS[to]
    python = python_with(*needs)
    folders = [export(model, to, tmp_path / name, "float32") for name, model in cut_models.items()]
    for model, logits in zip(cut_models.values(), their_logits(python, program, folders), strict=True):
        assert differ(our_logits(model), logits) < 1e-6
