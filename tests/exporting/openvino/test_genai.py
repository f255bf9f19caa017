"""Exported folders in OpenVINO GenAI, as people run them: with paged attention, and without."""

import json
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch

from smidgen.exporting.export import export
from smidgen.exporting.openvino.folder import write_openvino
from smidgen.exporting.openvino.names import MODEL
from smidgen.formats.opening import open_checkpoint
from smidgen.model.tokenizer import Tokenizer
from smidgen.numerics import block_types as types
from tests.exporting.graph_models import MIXED, decoder_of, write_quantized
from tests.exporting.openvino.running import EXACT
from tests.family_models import VOCABULARY, WINDOW, save_folder

if find_spec("openvino_genai") is None:
    pytest.skip("openvino-genai is not installed", allow_module_level=True)

import openvino as ov  # noqa: E402
from openvino._offline_transformations import paged_attention_transformation  # noqa: E402

_PROMPTS, _PROMPT, _WRITTEN = 8, 40, 5  # how many, and tokens of each; longer than the window
_TEXTS = ["Hello there, the  weather is nice.\n\n\tIsn't it?", "Größe: 12 345 – ok", "日本 <|user|> a", " x"]


def likeliest(model: Path, ids: torch.Tensor) -> list[list[int]]:
    """What our decoder writes after each row, its likeliest token always."""
    with open_checkpoint(model) as checkpoint, torch.no_grad():
        decoder = decoder_of(checkpoint)
        for _ in range(_WRITTEN):
            ids = torch.cat((ids, decoder(ids)[:, -1:].argmax(-1)), 1)
    return ids[:, _PROMPT:].tolist()


def ask_genai(folder: Path, **question: Any) -> dict[str, Any]:
    """See ask_genai.py."""
    script, asked = Path(__file__).with_name("ask_genai.py"), {"folder": str(folder), **question}
    done = subprocess.run(
        [sys.executable, script], input=json.dumps(asked), capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.parametrize(
    ("family", "head"),
    [("gemma2", types.Q4_1), ("gemma3", types.Q4_1), ("mistral", types.Q8_0), ("qwen2", types.Q4_0)],
    ids=lambda value: value if isinstance(value, str) else value.name,
)
def test_it_writes_the_same(family: str, head: types.BlockType, tmp_path: Path) -> None:
    """Beyond the window. A head with shifts is a sum, of which GenAI must not cut one part alone."""
    kinds = MIXED | {"token_embd.weight": head, "output.weight": head}
    model = write_quantized(family, tmp_path, kinds)
    with open_checkpoint(model) as checkpoint:
        write_openvino(checkpoint, tmp_path / "out")
    ids = torch.randint(0, VOCABULARY, (_PROMPTS, _PROMPT), generator=torch.Generator().manual_seed(1))
    wanted = likeliest(model, ids)
    assert len({tuple(row) for row in wanted}) == _PROMPTS
    # Paged attention where it can do it, and the graph as it is.
    settings = [EXACT, {**EXACT, "ATTENTION_BACKEND": "SDPA"}]
    answer = ask_genai(tmp_path / "out", rows=ids.tolist(), new=_WRITTEN, settings=settings)
    assert answer["written"] == [wanted, wanted]


def test_paged_attention_learns_of_every_window(tmp_path: Path) -> None:
    """It throws masks away; what it takes for a mask without a window has none."""
    (tmp_path / "model").mkdir()
    save_folder("gemma3", tmp_path / "model")
    with open_checkpoint(tmp_path / "model") as checkpoint:
        write_openvino(checkpoint, tmp_path / "out")
        wanted = [layer.window or 0 for layer in checkpoint.config.layers]
    assert WINDOW in wanted and 0 in wanted
    model = ov.Core().read_model(tmp_path / "out" / MODEL)
    paged_attention_transformation(model)
    found = [
        operator.input_value(10) for operator in model.get_ordered_ops() if "PagedAttention" in operator.get_type_name()
    ]
    windows = ov.Model([ov.opset15.result(window) for window in found], [], "windows")
    assert [int(value) for value in ov.Core().compile_model(windows, "CPU")([]).values()] == wanted


def test_its_tokenizer_reads_and_writes_as_ours(tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    save_folder("qwen3", tmp_path / "model")
    (tmp_path / "model/chat_template.jinja").write_text("<|user|>{{ messages[0]['content'] }}<|begin|>")
    export(tmp_path / "model", "openvino", tmp_path / "out")
    theirs = ask_genai(tmp_path / "out", texts=_TEXTS)
    with open_checkpoint(tmp_path / "model") as checkpoint:
        ours = Tokenizer.from_gguf(checkpoint.tokenizer_metadata)
    assert theirs["encoded"] == [ours.encode(text, parse_special=True) for text in _TEXTS]
    assert theirs["decoded"] == _TEXTS
    assert theirs["chat"] == "<|user|>Hi<|begin|>"
