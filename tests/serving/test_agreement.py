"""Where llama.cpp reads a text otherwise than the model's own files say, a person is told before serving begins."""

from pathlib import Path
from typing import Any

import pytest

from smidgen.engines.llama_cpp.engine import read_facts
from smidgen.engines.llama_cpp.server import LlamaServer
from smidgen.serving.agreement import disagreements
from tests import tiny_models

TEMPLATE = "{{ bos_token }}{% for m in messages %}[{{ m.role }}]{{ m.content | trim }}\n{% endfor %}[assistant]"


def found(path: Path) -> list[str]:
    with LlamaServer(path, ctx_size=256, threads=1) as server:
        return list(disagreements(server, read_facts(path)))


def test_real_models_are_read_alike(gemma_path: Path, smollm_path: Path) -> None:
    assert found(gemma_path) == []
    assert found(smollm_path) == []


def test_a_template_is_rendered_alike(tmp_path: Path) -> None:
    assert found(tiny_models.write_gemma3(tmp_path / "chat.gguf", {"tokenizer.chat_template": TEMPLATE})) == []


@pytest.mark.parametrize(
    ("others", "said"),
    [
        ({"tokenizer.smidgen.space_prefix": "first", "tokenizer.ggml.add_space_prefix": True}, "encodes some texts"),
        ({"tokenizer.smidgen.normalizer": "nfc"}, "encodes some texts"),
        # A filter that llama.cpp's templates lack.
        (
            {"tokenizer.chat_template": TEMPLATE.replace("| trim", "| trim | title")},
            "renders this model's chat template",
        ),
    ],
    ids=["a space before the first word", "composed letters", "a filter of another kind"],
)
def test_what_is_read_otherwise_is_said(tmp_path: Path, others: dict[str, Any], said: str) -> None:
    lines = found(tiny_models.write_gemma3(tmp_path / "other.gguf", others))
    assert any(said in line for line in lines), lines
    assert all(line.isprintable() for line in lines)
