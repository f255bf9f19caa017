"""onnxruntime-genai itself runs what is exported. It is asked in a process of its own, since CI does not need it.

SMIDGEN_ONNX_PYTHON: a Python that has onnxruntime-genai.
"""

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest
import torch

from smidgen.exporting.export import export
from smidgen.formats.opening import open_checkpoint
from smidgen.model.decoder import Cache
from smidgen.model.tokenizer import Tokenizer
from smidgen.numerics import block_types as types
from tests.exporting.graph_models import MIXED, decoder_of, write_quantized
from tests.family_models import FAMILY_MODELS, VOCABULARY, save_folder
from tests.tiny_models import write_gemma3

PYTHON = os.environ.get("SMIDGEN_ONNX_PYTHON")
pytestmark = pytest.mark.skipif(PYTHON is None, reason="SMIDGEN_ONNX_PYTHON names no Python with onnxruntime-genai")

_TEXTS = ["Once upon a time", "  two spaces\nand a line", "naïve café, 東京", "on the ant hat"]
_PROMPT = 12
_BOUND = 5e-5


def asked(folder: Path, ids: list[int], texts: list[str]) -> dict[str, Any]:
    assert PYTHON is not None
    question = {"folder": str(folder), "ids": ids, "prompt": _PROMPT, "texts": texts}
    script = Path(__file__).with_name("ask_genai.py")
    clean = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(
        [PYTHON, str(script)], input=json.dumps(question), capture_output=True, text=True, timeout=300, env=clean
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@torch.no_grad()
def assert_it_runs(model: Path, folder: Path, bound: float = _BOUND) -> None:
    """A prompt, then tokens one at a time beyond the window: the same logits. Texts become the same tokens."""
    export(model, "onnx", folder)
    with open_checkpoint(model) as checkpoint:
        ours, tokenizer = decoder_of(checkpoint), Tokenizer.from_gguf(checkpoint.tokenizer_metadata)
    ids = torch.randint(0, min(256, VOCABULARY), (1, 40), generator=torch.Generator().manual_seed(2))
    answer = asked(folder, ids[0].tolist(), _TEXTS)
    cache = Cache(ours.config, 1, ids.shape[1])
    wanted = [ours(part, cache)[0, -1] for part in ids.split([_PROMPT] + [1] * (ids.shape[1] - _PROMPT), dim=1)]
    found = torch.tensor(answer["logits"])
    assert found.shape == torch.stack(wanted).shape
    assert (found - torch.stack(wanted)).abs().max() < bound
    assert answer["encoded"] == [tokenizer.encode(text, parse_special=True) for text in _TEXTS]
    assert len(answer["readme"]) == 1


@pytest.mark.parametrize("family", [family for family in FAMILY_MODELS if family != "mixtral"])
def test_families(family: str, tmp_path: Path) -> None:
    """Among them OpenELM, whose layers differ in the heads that the cache is made for."""
    (tmp_path / "model").mkdir()
    save_folder(family, tmp_path / "model")
    assert_it_runs(tmp_path / "model", tmp_path / "out")


def test_quantized(tmp_path: Path) -> None:
    model = write_quantized("gemma2", tmp_path, MIXED | {"token_embd.weight": types.Q8_0})
    assert_it_runs(model, tmp_path / "out")


def test_sentencepiece(tmp_path: Path) -> None:
    assert_it_runs(write_gemma3(tmp_path / "gemma.gguf"), tmp_path / "out")
