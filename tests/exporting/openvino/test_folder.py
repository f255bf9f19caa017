"""The folder for OpenVINO GenAI: what is refused before anything is written, what is said, what lies in it."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from smidgen import atomic
from smidgen.errors import SmidgenError, Unsupported
from smidgen.exporting.export import export
from smidgen.exporting.openvino.folder import write_openvino
from smidgen.exporting.openvino.names import DETOKENIZER, MODEL, NUMBERS, TOKENIZER
from smidgen.formats.opening import open_checkpoint
from smidgen.numerics import block_types as types
from tests.exporting.graph_models import decoder_of, write_quantized
from tests.exporting.openvino.running import Running
from tests.family_models import save_folder
from tests.gguf_forms import of_types, plain
from tests.tiny_models import write_gemma3, write_llama


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return write_llama(tmp_path / "tiny.gguf")


def test_what_lies_in_it(tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    save_folder("gemma2", tmp_path / "model")
    (tmp_path / "model/chat_template.jinja").write_text("{{ bos_token }}{{ messages[0]['content'] }}")
    (tmp_path / "model/LICENSE").write_text("the terms")
    export(tmp_path / "model", "openvino", tmp_path / "out")
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert {MODEL, NUMBERS, TOKENIZER, DETOKENIZER, "tokenizer.json", "chat_template.jinja", "LICENSE"} <= names
    assert not [name for name in names if name.startswith(".")]
    settings = json.loads((tmp_path / "out/generation_config.json").read_text())
    assert settings["eos_token_id"] in (257, [257])
    readme = (tmp_path / "out/README.md").read_text()
    assert 'generate("Why is the sky blue?"' in readme and 'ATTENTION_BACKEND="SDPA"' in readme


def test_a_base_model(tmp_path: Path) -> None:
    """Is not asked a question. What is derived from Gemma says so."""
    export(write_gemma3(tmp_path / "gemma.gguf"), "openvino", tmp_path / "out")
    readme = (tmp_path / "out/README.md").read_text()
    assert 'generate("Once upon a time"' in readme and "ATTENTION_BACKEND" not in readme
    assert NUMBERS in (tmp_path / "out/NOTICE").read_text()
    assert json.loads((tmp_path / "out/generation_config.json").read_text()) == {"bos_token_id": 2, "eos_token_id": [1]}


def test_mixtures_of_experts_are_refused(tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    save_folder("mixtral", tmp_path / "model")
    with pytest.raises(Unsupported, match="no mixtures of experts .* --to hf"):
        export(tmp_path / "model", "openvino", tmp_path / "out")
    assert not (tmp_path / "out").exists()


@torch.no_grad()
def test_other_types_are_decoded_and_that_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """To 16 bits, or as exactly as asked; the graph computes with what is written."""
    model = tmp_path / "model.gguf"
    model.write_bytes(of_types(plain(), {"ffn_up.weight": types.Q4_K, "ffn_down.weight": types.Q6_K}).as_bytes())
    for dtype, shown in ((None, "float16"), ("float32", "float32")):
        export(model, "openvino", tmp_path / shown, dtype)
        said = capsys.readouterr().err
        assert f"4 of 16 matrices (Q4_K, Q6_K) are written as {shown}: " in said
        assert "in place of 181.2 kB" in said and "cut with --types Q4_0,Q8_0" in said
    with open_checkpoint(model) as checkpoint:
        ids = torch.arange(20)[None] + 100
        wanted = decoder_of(checkpoint)(ids)
    off = {shown: (Running(tmp_path / shown)(ids) - wanted).abs().max() for shown in ("float16", "float32")}
    assert off["float32"] < 5e-5 < off["float16"] < 1e-2


def test_nothing_is_said_where_all_is_kept(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    export(write_quantized("qwen3", tmp_path, {"ffn_up.weight": types.Q4_0}), "openvino", tmp_path / "out")
    assert "matrices" not in capsys.readouterr().err


def test_a_full_disk_is_noticed_before_the_weights(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def write(*_: object) -> None:
        raise AssertionError("weights are read")

    usage = atomic.shutil.disk_usage(tmp_path)
    monkeypatch.setattr(atomic.shutil, "disk_usage", lambda _: usage._replace(free=100_000))
    monkeypatch.setattr("smidgen.exporting.openvino.decoder.decoder_graph", write)
    with pytest.raises(SmidgenError, match="needs .* bytes, but its disk has 100000 free"):
        export(model, "openvino", tmp_path / "new/out")
    assert not (tmp_path / "new").exists()


def test_a_disk_that_fills_up_meanwhile(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As OpenVINO says it."""

    def fail(*_: object) -> None:
        raise RuntimeError("Exception from src/core/…: cannot write")

    monkeypatch.setattr("openvino.serialize", fail)
    with pytest.raises(SmidgenError, match="openvino_model.bin cannot be written; check .* its disk"):
        export(model, "openvino", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_folder_in_use_stays_as_it_is(model: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out/mine").write_text("notes")
    with pytest.raises(SmidgenError, match="out is not empty"):
        export(model, "openvino", tmp_path / "out")
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["mine"]


def test_an_interruption_leaves_nothing(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("smidgen.exporting.openvino.folder.write_whole", interrupt)
    with pytest.raises(KeyboardInterrupt):
        export(model, "openvino", tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("package", ["openvino", "openvino_tokenizers"])
def test_half_installed(package: str, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    words = rf"needs the package {package.replace('_', '-')}: pip install 'smidgen\[openvino\]'"
    with pytest.raises(SmidgenError, match=words):
        export(model, "openvino", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_tokenizer_that_cannot_be_converted(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:  # fmt: skip
    def fail(*_: object, **__: object) -> None:
        raise ValueError("Traceback of theirs\nno such step")

    monkeypatch.setattr("openvino_tokenizers.convert_tokenizer", fail)
    with pytest.raises(SmidgenError, match="cannot convert this model's tokenizer: no such step"):
        export(model, "openvino", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_wrong_words(model: Path, tmp_path: Path) -> None:
    with open_checkpoint(model) as checkpoint, pytest.raises(SmidgenError, match="'int4' is no dtype"):
        write_openvino(checkpoint, tmp_path / "out", "int4")
    assert not (tmp_path / "out").exists()


def test_nothing_is_reported_to_anyone(model: Path, tmp_path: Path) -> None:
    """openvino reports that it was imported, through a package that it does without where it is not there."""
    program = (
        "import sys; from smidgen.exporting.export import export\n"
        f"export({str(model)!r}, 'openvino', {str(tmp_path / 'out')!r})\n"
        "assert 'openvino.tools.ovc.telemetry_stub' in sys.modules\n"
        "assert not [name for name, module in sys.modules.items() if 'openvino_telemetry' in name and module]\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
