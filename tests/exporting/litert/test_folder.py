"""The file for LiteRT-LM: what is refused before anything is written, what is said, what lies in it. Without LiteRT."""

import json
import struct
import sys
import zlib
from pathlib import Path

import pytest

from smidgen.errors import SmidgenError, Unsupported
from smidgen.exporting.export import export
from smidgen.exporting.litert.folder import write_litert
from smidgen.exporting.litert.metadata import llm_metadata
from smidgen.exporting.litert.names import MODEL
from smidgen.formats.opening import open_checkpoint
from smidgen.numerics import block_types as types
from tests.family_models import save_folder
from tests.gguf_forms import of_types, plain
from tests.tiny_models import write_gemma3, write_llama

pytest.importorskip("flatbuffers")
_SECTION = 2**14


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return write_llama(tmp_path / "tiny.gguf")


def fields(message: bytes) -> list[tuple[int, int | bytes]]:
    """Of a Protocol Buffers message, by number, read byte by byte."""
    found, place = [], 0

    def number() -> int:
        nonlocal place
        value = shift = 0
        while True:
            byte = message[place]
            place, value, shift = place + 1, value | (byte & 127) << shift, shift + 7
            if byte < 128:
                return value

    while place < len(message):
        key = number()
        value = number()
        if key & 7 == 2:
            place, value = place + value, message[place : place + value]
        found.append((key >> 3, value))
    return found


def test_what_lies_in_it(tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    save_folder("gemma2", tmp_path / "model")
    (tmp_path / "model/chat_template.jinja").write_text("{{ bos_token }}{{ messages[0]['content'] }}")
    (tmp_path / "model/LICENSE").write_text("the terms")
    export(tmp_path / "model", "litert", tmp_path / "out")
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert names >= {"LICENSE", "NOTICE", "README.md", MODEL, "tokenizer.json", "chat_template.jinja"}
    data = (tmp_path / "out" / MODEL).read_bytes()
    letters, major, minor, patch, end = struct.unpack_from("<8s3I4xQ", data)
    assert (letters, major, minor, patch) == (b"LITERTLM", 1, 7, 0) and end <= _SECTION
    size = struct.unpack_from("<Q", data, 2 * _SECTION)[0]
    text = zlib.decompressobj().decompress(data[2 * _SECTION + 8 :])
    assert len(text) == size and json.loads(text) == json.loads((tmp_path / "model/tokenizer.json").read_text())
    assert any(data[place + 4 : place + 8] == b"TFL3" for place in range(3 * _SECTION, len(data), _SECTION))
    readme = (tmp_path / "out/README.md").read_text()
    assert "create_conversation" in readme and "256 tokens" in readme


def test_what_litert_lm_must_know(tmp_path: Path) -> None:
    """A BOS, since the template writes it by its name; where generation ends; how much is read; the template."""
    (tmp_path / "model").mkdir()
    save_folder("gemma2", tmp_path / "model")
    (tmp_path / "model/chat_template.jinja").write_text("{{ bos_token }}{{ messages[0]['content'] }}")
    with open_checkpoint(tmp_path / "model") as checkpoint:
        found = dict(fields(llm_metadata(checkpoint, 300)))
    token = found[1]
    assert isinstance(token, bytes) and fields(token) == [(1, b"\x08\x80\x02")]  # 256
    assert found[5] == 300
    template = found[7]
    assert isinstance(template, bytes) and template.endswith(b"{{ bos_token }}{{ messages[0]['content'] }}")


def test_a_template_that_spells_the_bos_out_gets_no_other(tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    save_folder("gemma2", tmp_path / "model")
    with open_checkpoint(tmp_path / "model") as checkpoint:
        begin = checkpoint.tokenizer_metadata["tokenizer.ggml.tokens"][256]  # pyright: ignore
    (tmp_path / "model/chat_template.jinja").write_text(f"{begin}{{{{ messages[0]['content'] }}}}")
    with open_checkpoint(tmp_path / "model") as checkpoint:
        assert 1 not in dict(fields(llm_metadata(checkpoint, 300)))


def test_a_base_model_continues_texts(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """No longer ones than the graphs have room for, which is said."""
    export(write_gemma3(tmp_path / "gemma.gguf"), "litert", tmp_path / "out")
    assert "at most 2,048 tokens in LiteRT; the model itself reads 4,096" in capsys.readouterr().err
    assert "run_prefill" in (tmp_path / "out/README.md").read_text()
    with open_checkpoint(tmp_path / "gemma.gguf") as checkpoint:
        assert {1, 2, 5} <= dict(fields(llm_metadata(checkpoint, 300))).keys()


def test_other_types_are_decoded_and_that_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Scales that are not portable, too."""
    model = tmp_path / "model.gguf"
    model.write_bytes(of_types(plain(), {"ffn_up.weight": types.Q4_K, "ffn_down.weight": types.Q4_0}).as_bytes())
    export(model, "litert", tmp_path / "out")
    said = capsys.readouterr().err
    assert "4 matrices (2 Q4_K, 2 Q4_0) as float16: " in said and "cut with --types portable" in said


def test_mixtures_of_experts_are_refused(tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    save_folder("mixtral", tmp_path / "model")
    with pytest.raises(Unsupported, match="no mixtures of experts .* --to hf"):
        export(tmp_path / "model", "litert", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_without_the_library(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "flatbuffers", None)
    with pytest.raises(SmidgenError, match=r"needs the package flatbuffers: pip install 'smidgen\[export\]'"):
        export(model, "litert", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_an_interruption_leaves_nothing(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("smidgen.exporting.litert.model.Model.write", interrupt)
    with pytest.raises(KeyboardInterrupt):
        export(model, "litert", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_wrong_words(model: Path, tmp_path: Path) -> None:
    with open_checkpoint(model) as checkpoint, pytest.raises(SmidgenError, match="'bfloat16' is no dtype .* float16"):
        write_litert(checkpoint, tmp_path / "out", "bfloat16")
    with pytest.raises(SmidgenError, match="litert has no activations of float32; choose from int16, int8"):
        export(model, "litert", tmp_path / "out", activations="float32")
    assert not (tmp_path / "out").exists()
