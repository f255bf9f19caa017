"""The folder for onnxruntime-genai: what is refused before anything is written, what is said, what lies in it."""

import json
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from smidgen import atomic
from smidgen.errors import BadFile, SmidgenError, Unsupported
from smidgen.exporting.export import export
from smidgen.exporting.onnx.attention import refuse_attention
from smidgen.exporting.onnx.folder import write_onnx
from smidgen.exporting.onnx.graph import Graph
from smidgen.exporting.onnx.names import GENAI_CONFIG, MODEL, NUMBERS
from smidgen.formats.opening import open_checkpoint
from smidgen.numerics import block_types as types
from tests.exporting.graph_models import decoder_of, write_quantized
from tests.exporting.onnx.sessions import Running
from tests.family_models import CONTEXT, save_folder
from tests.gguf_forms import of_types, plain
from tests.tiny_models import LLAMA_CONFIG, write_gemma3, write_llama


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return write_llama(tmp_path / "tiny.gguf")


def test_what_lies_in_it(tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    save_folder("gemma2", tmp_path / "model")
    (tmp_path / "model/chat_template.jinja").write_text("{{ bos_token }}{{ messages[0]['content'] }}")
    (tmp_path / "model/LICENSE").write_text("the terms")
    export(tmp_path / "model", "onnx", tmp_path / "out")
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert {MODEL, NUMBERS, GENAI_CONFIG, "tokenizer.json", "chat_template.jinja", "LICENSE", "README.md"} <= names
    assert not [name for name in names if name.startswith(".")]
    settings = json.loads((tmp_path / "out" / GENAI_CONFIG).read_text())
    assert settings["search"]["max_length"] == settings["model"]["context_length"] == CONTEXT
    assert settings["model"]["eos_token_id"] == [257]
    assert (settings["model"]["bos_token_id"], settings["model"]["pad_token_id"]) == (256, 258)
    readme = (tmp_path / "out/README.md").read_text()
    assert "apply_chat_template" in readme and "bos_token_id" not in readme  # the template writes it


def test_a_base_model_is_given_its_bos(tmp_path: Path) -> None:
    export(write_gemma3(tmp_path / "gemma.gguf"), "onnx", tmp_path / "out")
    assert (
        "append_tokens([tokenizer.bos_token_id, *tokenizer.encode(prompt)])" in (tmp_path / "out/README.md").read_text()
    )
    assert "smidgen" in (tmp_path / "out/NOTICE").read_text() and NUMBERS in (tmp_path / "out/NOTICE").read_text()


def test_mixtures_of_experts_are_refused(tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    save_folder("mixtral", tmp_path / "model")
    with pytest.raises(Unsupported, match="no mixtures of experts .* --to hf"):
        export(tmp_path / "model", "onnx", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_heads_of_odd_widths_are_refused() -> None:
    with pytest.raises(Unsupported, match="divisible by 8; those of layer 3 are 12 wide"):
        refuse_attention(replace(LLAMA_CONFIG.layers[0], head_dim=12), 3)


@torch.no_grad()
def test_other_types_are_decoded_and_that_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """To 16 bits, or as exactly as asked; the graph computes with what is written."""
    model = tmp_path / "model.gguf"
    model.write_bytes(of_types(plain(), {"ffn_up.weight": types.Q4_K, "ffn_down.weight": types.Q6_K}).as_bytes())
    for dtype, shown in ((None, "float16"), ("float32", "float32")):
        export(model, "onnx", tmp_path / shown, dtype)
        said = capsys.readouterr().err
        assert f"4 matrices (2 Q4_K, 2 Q6_K) as {shown}: " in said
        assert "instead of 181.2 kB" in said and "holds Q4_0, Q4_1, Q5_0, Q5_1 and Q8_0" in said
    with open_checkpoint(model) as checkpoint:
        wanted = decoder_of(checkpoint)
        ids = torch.arange(20)[None] + 100
        off = {
            shown: (Running(tmp_path / shown, checkpoint.config)(ids) - wanted(ids)[:, -1]).abs().max()
            for shown in ("float16", "float32")
        }
    assert off["float32"] < 5e-5 < off["float16"] < 1e-2


def test_five_bits_become_eight_and_that_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    export(write_quantized("qwen3", tmp_path, {"ffn_up.weight": types.Q5_0}), "onnx", tmp_path / "out")
    assert "4 matrices (4 Q5_0) in more bits than they need" in capsys.readouterr().err


def test_nothing_is_said_where_all_is_kept(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    export(write_quantized("qwen3", tmp_path, {"ffn_up.weight": types.Q4_0}), "onnx", tmp_path / "out")
    assert "matrices" not in capsys.readouterr().err


def test_values_that_16_bits_cannot_hold(tmp_path: Path) -> None:
    parts = of_types(plain(), {"ffn_up.weight": types.Q4_K})
    place = next(offset for name, _, _, offset in parts.tensors if name == "blk.1.ffn_up.weight")
    data = bytearray(parts.data)
    data[place : place + 16] = b"\xff\x7b" + data[place + 2 : place + 4] + b"\x3f" * 12  # the largest scale
    (tmp_path / "model.gguf").write_bytes(replace(parts, data=bytes(data)).as_bytes())
    with pytest.raises(Unsupported, match=r"blocks\.1\.feed_forward\.up\.weight .* float16 cannot hold.*--dtype"):
        export(tmp_path / "model.gguf", "onnx", tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("kind", [types.Q4_0, types.Q4_1, types.Q8_0], ids=lambda kind: kind.name)
def test_scales_that_are_no_numbers(kind: types.BlockType, tmp_path: Path) -> None:
    """In the last two bytes before the codes: the scale, or the shift of Q4_1."""
    parts = of_types(plain(), {"ffn_up.weight": kind})
    place = next(offset for name, _, _, offset in parts.tensors if name == "blk.1.ffn_up.weight")
    place += kind.block_bytes + (2 if kind == types.Q4_1 else 0)
    data = parts.data[:place] + b"\x00\x7e" + parts.data[place + 2 :]
    (tmp_path / "model.gguf").write_bytes(replace(parts, data=data).as_bytes())
    with pytest.raises(BadFile, match=r"blocks\.1\.feed_forward\.up\.weight holds scales that are not finite"):
        export(tmp_path / "model.gguf", "onnx", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_full_disk_is_noticed_before_the_weights(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def write(*_: object) -> None:
        raise AssertionError("weights are written")

    usage = atomic.shutil.disk_usage(tmp_path)
    monkeypatch.setattr(atomic.shutil, "disk_usage", lambda _: usage._replace(free=100_000))
    monkeypatch.setattr(Graph, "write_numbers", write)
    with pytest.raises(SmidgenError, match="needs .* bytes, but its disk has 100000 free"):
        export(model, "onnx", tmp_path / "new/out")
    assert not (tmp_path / "new").exists()


def test_a_folder_in_use_stays_as_it_is(model: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out/mine").write_text("notes")
    with pytest.raises(SmidgenError, match="out is not empty"):
        export(model, "onnx", tmp_path / "out")
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["mine"]


def test_an_interruption_leaves_nothing(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("smidgen.exporting.onnx.folder.write_whole", interrupt)
    with pytest.raises(KeyboardInterrupt):
        export(model, "onnx", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_without_the_library(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnx_ir", None)
    with pytest.raises(SmidgenError, match=r"needs the package onnx-ir: pip install 'smidgen\[export\]'"):
        export(model, "onnx", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_wrong_words(model: Path, tmp_path: Path) -> None:
    with open_checkpoint(model) as checkpoint, pytest.raises(SmidgenError, match="'int4' is no dtype"):
        write_onnx(checkpoint, tmp_path / "out", "int4")
    with pytest.raises(SmidgenError, match="'int4' are no activations"):
        export(model, "onnx", tmp_path / "out", activations="int4")  # pyright: ignore[reportArgumentType]
    with pytest.raises(SmidgenError, match="activations are for onnx and litert"):
        export(model, "hf", tmp_path / "out", activations="int8")
    with pytest.raises(SmidgenError, match="onnx has no activations of int16; choose from float32, int8"):
        export(model, "onnx", tmp_path / "out", activations="int16")
    assert not (tmp_path / "out").exists()
