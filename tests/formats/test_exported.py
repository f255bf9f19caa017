"""Folders of other frameworks: known by what stands in them, and refused where they are damaged or run programs."""

import json
from pathlib import Path
from typing import Any

import pytest

from smidgen.errors import BadFile, SmidgenError, Unsupported
from smidgen.formats.exported import describe_exported, runtime_of
from smidgen.formats.hub.catalogue import origin_of
from smidgen.formats.opening import open_checkpoint, read_config

LLAMA = {
    "model_type": "llama", "vocab_size": 96, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2,
    "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 512, "rms_norm_eps": 1e-5,
    "rope_theta": 1e4, "tie_word_embeddings": True, "hidden_act": "silu",
}  # fmt: skip
PACKED = {"group_size": 32, "bits": 4}
GENAI = {"model": {"vocab_size": 96, "context_length": 512}}


def write(folder: Path, name: str, value: Any) -> Path:
    (folder / name).write_text(value if isinstance(value, str) else json.dumps(value))
    return folder


def packed(folder: Path, **settings: Any) -> Path:
    (folder / "model.safetensors").write_bytes(b"12345678")
    return write(folder, "config.json", LLAMA | settings)


def test_each_kind_is_known_by_its_files(tmp_path: Path) -> None:
    def new(name: str) -> Path:
        (tmp_path / name).mkdir()
        return tmp_path / name

    assert runtime_of(packed(new("mlx"), quantization=PACKED, quantization_config=PACKED)) == "mlx"
    packing = {"quant_method": "compressed-tensors"}
    assert runtime_of(packed(new("ct"), quantization_config=packing)) == "transformers"
    assert runtime_of(packed(new("gptq"), quantization_config={"quant_method": "gptq"})) is None
    assert runtime_of(packed(new("plain"))) is None
    assert runtime_of(write(new("onnx"), "genai_config.json", GENAI)) == "onnx"
    assert runtime_of(write(new("ov"), "openvino_model.xml", "<net/>")) == "openvino"
    assert runtime_of(new("empty")) is None and runtime_of(tmp_path / "nothing") is None


def test_what_is_known_of_one(tmp_path: Path) -> None:
    """README.md, the card and hidden files are about the model: a card that is written changes nothing."""
    found = describe_exported(packed(tmp_path, quantization=PACKED))
    sha256 = found.sha256()
    attention, network = 32 * 32 * 2 + 32 * 16 * 2, 3 * 32 * 64
    assert found.parameters == 96 * 32 + 2 * (attention + network + 2 * 32) + 32
    assert (found.vocabulary, found.context) == (96, 512)
    assert found.bytes == 8 + (tmp_path / "config.json").stat().st_size
    for name in ("README.md", "card.json", "card.html", ".smidgen.json"):
        write(tmp_path, name, "about it")
    again = describe_exported(tmp_path)
    assert again.bytes == found.bytes and again.sha256() == sha256
    write(tmp_path, "model.safetensors", "87654321")
    assert describe_exported(tmp_path).sha256() != sha256


def test_settings_that_tell_less(tmp_path: Path) -> None:
    (tmp_path / "onnx").mkdir()
    found = describe_exported(write(tmp_path / "onnx", "genai_config.json", GENAI))
    assert (found.vocabulary, found.context, found.parameters) == (96, 512, None)
    found = describe_exported(write(tmp_path, "openvino_model.xml", "<net/>"))
    assert (found.vocabulary, found.context, found.parameters) == (None, None, None)


@pytest.mark.parametrize(
    ("settings", "kind", "said"),
    [
        ({"model": {"context_length": 512}}, BadFile, "says None for vocab_size"),
        ({"model": {"vocab_size": True, "context_length": 512}}, BadFile, "says True for vocab_size"),
        ({"model": {"vocab_size": 10**9, "context_length": 512}}, BadFile, "not a number up to 4194304"),
        ([1], BadFile, "not a JSON object"),
        ("{", BadFile, "genai_config.json"),
        (GENAI | {"options": [{"custom_ops_library": "ops.so"}]}, Unsupported, "ops.so: programs that come with"),
        (GENAI | {"session_options": {"custom_ops_library": "ops"}}, Unsupported, "ops: programs that come with"),
        (GENAI | {"provider_options": [{"x": {"library": "o.so.1"}}]}, Unsupported, "o.so.1: programs that come with"),
        (
            GENAI | {"model": GENAI["model"] | {"decoder": {"filename": "../model.onnx"}}},
            BadFile,
            "which is no file of",
        ),
    ],
)
def test_bad_settings(tmp_path: Path, settings: Any, kind: type[SmidgenError], said: str) -> None:
    with pytest.raises(kind, match=said):
        describe_exported(write(tmp_path, "genai_config.json", settings))


def test_usual_settings_of_onnx_runtime_are_taken(tmp_path: Path) -> None:
    options = {"log_id": "genai", "intra_op_num_threads": 2, "provider_options": [{"cuda": {"enable_cuda_graph": "0"}}]}
    decoder = {"session_options": options, "filename": "model.onnx"}
    write(tmp_path, "model.onnx", "graph")
    found = describe_exported(
        write(tmp_path, "genai_config.json", {"model": GENAI["model"] | {"decoder": decoder}})
    )  # fmt: skip
    assert [file.name for file in found.files] == ["genai_config.json", "model.onnx"]


def test_a_graph_that_is_not_hashed_is_refused(tmp_path: Path) -> None:
    """Behind a link to a folder, or in a hidden one: the card's hash would not tell it from another."""
    (tmp_path / "elsewhere").mkdir()
    write(tmp_path / "elsewhere", "model.onnx", "graph")
    folder = tmp_path / "folder"
    (folder / ".hidden").mkdir(parents=True)
    write(folder / ".hidden", "model.onnx", "graph")
    (folder / "linked").symlink_to(tmp_path / "elsewhere")
    for name in (".hidden/model.onnx", "linked/model.onnx"):
        write(folder, "genai_config.json", {"model": GENAI["model"] | {"decoder": {"filename": name}}})
        with pytest.raises(BadFile, match=f"names {name}, which is no file of this folder"):
            describe_exported(folder)


def test_a_class_beside_the_weights_is_not_run(tmp_path: Path) -> None:
    with pytest.raises(Unsupported, match="model.py: programs"):
        describe_exported(packed(tmp_path, quantization=PACKED, model_file="model.py"))


def test_such_a_folder_has_a_name_and_nothing_else_opens_it(tmp_path: Path) -> None:
    folder = write(tmp_path, "genai_config.json", GENAI)
    assert origin_of(str(folder)).path == folder
    for opening in (open_checkpoint, read_config):
        with pytest.raises(Unsupported, match="written for another program .onnx.*smidgen measure"):
            opening(folder)
