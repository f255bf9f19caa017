"""`smidgen export`: the same model in another format, as a person meets it."""

import json
import struct
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from smidgen.errors import BadFile, SmidgenError, Unsupported
from smidgen.exporting.export import Format, export
from smidgen.formats.convert import gguf_of
from smidgen.formats.gguf.reader import GGUFFile
from smidgen.formats.gguf.writer import TensorPlan, gguf_types, write_gguf
from smidgen.formats.hf import writer
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
    assert all(f'/{name} "Once upon a time"\n' in done.stdout for name, done in (("tiny.gguf", one), ("again", two)))
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
        (["--to", "pdf", "-o", "x"], "no format; choose hf, gguf, vllm, mlx, onnx, openvino, litert or lmstudio"),
        (["--to", "hf", "-o", "x", "--activations", "int8"], "--activations is for onnx and litert"),
        (["--to", "onnx", "-o", "."], "is not empty"),
        (["--to", "gguf", "-o", "x.gguf", "--dtype", "float32"], "--dtype is for folders"),
        (["--to", "compressed-tensors", "-o", "x"], "vLLM reads 2:4 sparse weights no more; --to vllm"),
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


def test_only_what_smidgen_wrote_is_replaced(folder: Path, tmp_path: Path) -> None:
    """A second export takes the place of the first; a file of somebody else stays, whatever it is."""
    output = tmp_path / "tiny.gguf"
    for _ in range(2):
        export(folder, "gguf", output)
    theirs = write_llama(tmp_path / "theirs.gguf").read_bytes()
    for name, content in (("notes.gguf", b"notes"), ("theirs.gguf", theirs), ("empty.gguf", b"")):
        other = tmp_path / name
        other.write_bytes(content)
        with pytest.raises(SmidgenError, match=f"{name} is there, and smidgen did not write it.*-o"):
            export(folder, "gguf", other)
        assert other.read_bytes() == content
    (tmp_path / "link.gguf").symlink_to("nowhere")
    with pytest.raises(SmidgenError, match="link.gguf is there"):
        export(folder, "gguf", tmp_path / "link.gguf")


def test_a_licence_of_another_model_is_not_replaced(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "new.LICENSE").write_text("of something else")
    with pytest.raises(SmidgenError, match="new.LICENSE is there"):
        export(folder, "gguf", tmp_path / "new.gguf")
    assert not (tmp_path / "new.gguf").exists()


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("to", ["gguf", "hf"])
def test_numbers_that_are_none_are_refused(value: float, to: Format, folder: Path, tmp_path: Path) -> None:
    """A line that names the tensor, and nothing is left; of a folder and of a GGUF file, in a matrix and in a norm."""
    for tensor in ("model.layers.1.mlp.up_proj.weight", "model.layers.2.input_layernorm.weight"):
        weights = load_file(folder / "model.safetensors")
        good, spoiled = dict(weights), weights[tensor].clone()
        spoiled.view(-1)[5] = value
        save_file(weights | {tensor: spoiled}, folder / "model.safetensors", metadata={"format": "pt"})
        with pytest.raises(BadFile, match=f"{tensor} holds values that are not finite numbers"):
            export(folder, to, tmp_path / "out")
        assert not (tmp_path / "out").exists()
        save_file(good, folder / "model.safetensors", metadata={"format": "pt"})


@pytest.mark.parametrize("to", ["gguf", "hf"])
def test_they_are_refused_in_a_gguf_file_too(to: Format, tmp_path: Path) -> None:
    model = write_llama(tmp_path / "tiny.gguf")
    with GGUFFile.open(model) as file:
        place = file.tensors["blk.0.ffn_up.weight"]
        assert place.kind.name == "F32"
    data = bytearray(model.read_bytes())
    data[place.offset + 40 : place.offset + 44] = struct.pack("<f", float("nan"))
    model.write_bytes(data)
    with pytest.raises(BadFile, match=r"blk\.0\.ffn_up\.weight holds values that are not finite"):
        export(model, to, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_tokenizer_that_cannot_be_written_is_refused_before_the_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(folder: Path, metadata: Any) -> None:
        raise Unsupported("this tokenizer cannot be written")

    def write(*arguments: Any) -> None:
        raise AssertionError("weights are written")

    monkeypatch.setattr(writer, "write_tokenizer", refuse)
    monkeypatch.setattr(writer, "write_safetensors", write)
    with pytest.raises(Unsupported, match="cannot be written"):
        export(write_llama(tmp_path / "tiny.gguf"), "hf", tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("first", "message"), [("</s>", "tokens 0 and 1 .* have the same text"), (None, "no tokenizer")]
)
def test_a_gguf_file_that_llama_cpp_cannot_run_is_not_copied(first: str | None, message: str, tmp_path: Path) -> None:
    """Of a vocabulary with a doubled text, and of none at all."""
    with open_checkpoint(write_llama(tmp_path / "tiny.gguf")) as checkpoint:
        view = checkpoint.file
        tokens = view.metadata["tokenizer.ggml.tokens"]
        assert isinstance(tokens, list)
        metadata = dict(view.metadata)
        metadata["tokenizer.ggml.tokens"] = [first or tokens[0], *tokens[1:]]
        kept = {key: value for key, value in metadata.items() if first or not key.startswith("tokenizer.")}
        types = {key: view.metadata_types[key] for key in kept}
        plans = [TensorPlan(tensor.name, tensor.shape, tensor.kind) for tensor in view.tensors.values()]
        write_gguf(tmp_path / "broken.gguf", kept, types, plans, view.packed)
    with pytest.raises(BadFile, match=message):
        export(tmp_path / "broken.gguf", "gguf", tmp_path / "out.gguf")
    assert not (tmp_path / "out.gguf").exists()


def test_named_templates_without_a_default(tmp_path: Path) -> None:
    """As some GGUF files have them: written, or refused in one line, and never half of the folder."""
    with open_checkpoint(write_llama(tmp_path / "tiny.gguf")) as checkpoint:
        view = checkpoint.file
        metadata = {key: value for key, value in view.metadata.items() if key != "tokenizer.chat_template"}
        metadata |= {"tokenizer.chat_template.tool_use": "{{ messages }}"}
        types = {key: view.metadata_types.get(key, gguf_types("")) for key in metadata}
        plans = [TensorPlan(tensor.name, tensor.shape, tensor.kind) for tensor in view.tensors.values()]
        write_gguf(tmp_path / "named.gguf", metadata, types, plans, view.packed)
    export(tmp_path / "named.gguf", "hf", tmp_path / "out")
    assert transformers.AutoTokenizer.from_pretrained(tmp_path / "out").chat_template == {"tool_use": "{{ messages }}"}


@pytest.mark.parametrize("value", [2**32 - 1, None])
def test_a_padding_token_that_is_none(value: int | None, tmp_path: Path) -> None:
    """2^32 - 1, or the number of tokens: config.json of the folder has none, which transformers would stumble over."""
    with open_checkpoint(write_llama(tmp_path / "tiny.gguf")) as checkpoint:
        view = checkpoint.file
        padding = checkpoint.config.vocabulary if value is None else value
        metadata = {**view.metadata, "tokenizer.ggml.padding_token_id": padding}
        types = {**view.metadata_types, "tokenizer.ggml.padding_token_id": (4,)}
        plans = [TensorPlan(tensor.name, tensor.shape, tensor.kind) for tensor in view.tensors.values()]
        write_gguf(tmp_path / "padded.gguf", metadata, types, plans, view.packed)
    export(tmp_path / "padded.gguf", "hf", tmp_path / "out")
    assert json.loads((tmp_path / "out" / "config.json").read_text())["pad_token_id"] is None
    transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "out")


def test_lm_studio_finds_it(folder: Path, tmp_path: Path) -> None:
    """A file of its own gets a second name, a folder is converted; licences go along; a second time changes nothing."""
    model, models = write_gemma3(tmp_path / "gemma small.gguf"), tmp_path / "models"
    (tmp_path / "LICENSE").write_text("the terms")
    for _ in range(2):
        done = command(str(model), "--to", "lmstudio", "-o", str(models), "-q")
        assert done.returncode == 0 and "LM Studio shows it as smidgen/gemma-small." in done.stdout, done.stderr
    written = models / "smidgen" / "gemma-small" / "gemma-small.gguf"
    assert written.samefile(model) and written.with_name("LICENSE").read_text() == "the terms"
    for _ in range(2):
        assert export(folder, "lmstudio", models) == models / "smidgen" / "tiny" / "tiny.gguf"
    with open_checkpoint(folder) as before, open_checkpoint(models / "smidgen/tiny/tiny.gguf") as after:
        assert all(torch.equal(before.tensor(name), after.tensor(name)) for name in before.names())


def test_lm_studio_on_another_disk_gets_a_copy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_link(*_: object) -> None:
        raise OSError(18, "Invalid cross-device link")

    monkeypatch.setattr("os.link", no_link)
    model = write_llama(tmp_path / "tiny.gguf")
    for _ in range(2):
        written = export(model, "lmstudio", tmp_path / "models")
        assert not written.samefile(model) and written.read_bytes() == model.read_bytes()
    written.write_bytes(b"theirs")
    with pytest.raises(SmidgenError, match="smidgen did not write it"):
        export(model, "lmstudio", tmp_path / "models")
    assert written.read_bytes() == b"theirs"
