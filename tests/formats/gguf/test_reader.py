"""What the reader gives for good files, compared with the `gguf` package's own reader and writer."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from gguf import GGMLQuantizationType, GGUFReader, GGUFValueType, GGUFWriter

from smidgen.formats.gguf.reader import GGUFFile
from smidgen.numerics.block_types import F16, F32, Q8_0, READABLE


def write_with_the_package(path: Path, alignment: int | None = None) -> dict[str, np.ndarray]:
    """A small file with every scalar type, arrays, and tensors of one to four dimensions, made by GGUFWriter."""
    writer = GGUFWriter(path, arch="toy")
    if alignment:
        writer.add_custom_alignment(alignment)
    for kind, value in SCALARS.items():
        writer.add_key_value(f"toy.{kind.name.lower()}", value, kind)
    writer.add_array("toy.words", ["", "a", "naïve", "日本語", "line\nbreak", "\0"])
    writer.add_key_value("toy.floats", [0.5, -1.5], GGUFValueType.ARRAY, GGUFValueType.FLOAT32)
    writer.add_key_value("toy.flags", [True, False, True], GGUFValueType.ARRAY, GGUFValueType.BOOL)
    writer.add_key_value("toy.bytes", [0, 255], GGUFValueType.ARRAY, GGUFValueType.UINT8)
    rng = np.random.default_rng(0)
    tensors = {
        "vector": rng.standard_normal(5).astype(np.float32),
        "matrix": rng.standard_normal((3, 7)).astype(np.float16),
        "experts": rng.standard_normal((2, 3, 4)).astype(np.float32),
        "four": rng.standard_normal((2, 1, 3, 2)).astype(np.float32),
    }
    for name, array in tensors.items():
        writer.add_tensor(name, array)
    blocks = rng.integers(0, 256, (3, 68), dtype=np.uint8)
    writer.add_tensor("blocks", blocks, raw_dtype=GGMLQuantizationType.Q8_0)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return tensors | {"blocks": blocks}


SCALARS = {
    GGUFValueType.UINT8: 255, GGUFValueType.INT8: -128, GGUFValueType.UINT16: 65535, GGUFValueType.INT16: -32768,
    GGUFValueType.UINT32: 2**32 - 1, GGUFValueType.INT32: -(2**31), GGUFValueType.UINT64: 2**64 - 1,
    GGUFValueType.INT64: -(2**63), GGUFValueType.FLOAT32: 0.5, GGUFValueType.FLOAT64: 1e300,
    GGUFValueType.BOOL: True, GGUFValueType.STRING: "Zeile\nzwei 😀",
}  # fmt: skip


def test_metadata_values_and_types(tmp_path: Path) -> None:
    write_with_the_package(tmp_path / "toy.gguf")
    with GGUFFile.open(tmp_path / "toy.gguf") as file:
        assert (file.version, file.alignment, file.size) == (3, 32, (tmp_path / "toy.gguf").stat().st_size)
        for kind, value in SCALARS.items():
            found = file.metadata[f"toy.{kind.name.lower()}"]
            assert (found, type(found)) == (value, type(value))
            assert file.metadata_types[f"toy.{kind.name.lower()}"] == (kind,)
        assert file.metadata["toy.words"] == ["", "a", "naïve", "日本語", "line\nbreak", "\0"]
        assert file.metadata_types["toy.words"] == (GGUFValueType.ARRAY, GGUFValueType.STRING)
        for key, values, dtype in (
            ("toy.floats", [0.5, -1.5], np.float32),
            ("toy.flags", [True, False, True], np.bool_),
            ("toy.bytes", [0, 255], np.uint8),
        ):
            found = file.metadata[key]
            assert isinstance(found, np.ndarray) and found.dtype == dtype and found.tolist() == values
        assert next(iter(file.metadata)) == "general.architecture"


@pytest.mark.parametrize("alignment", [None, 8, 64, 4096])
def test_tensors(tmp_path: Path, alignment: int | None) -> None:
    arrays = write_with_the_package(tmp_path / "toy.gguf", alignment)
    with GGUFFile.open(tmp_path / "toy.gguf") as file:
        assert file.alignment == (alignment or 32)
        assert list(file.tensors) == list(arrays)
        for name, array in arrays.items():
            info = file.tensors[name]
            assert info.offset % file.alignment == 0
            assert info.nbytes == array.nbytes
            row_bytes = array.shape[-1] * array.itemsize
            assert file.packed(name).shape == (array.nbytes // row_bytes, row_bytes)
            assert file.packed(name).tobytes() == array.tobytes()
        kinds = {name: (info.kind, info.shape) for name, info in file.tensors.items()}
        assert kinds == {
            "vector": (F32, (5,)), "matrix": (F16, (3, 7)), "experts": (F32, (2, 3, 4)), "four": (F32, (2, 1, 3, 2)),
            "blocks": (Q8_0, (3, 64)),
        }  # fmt: skip


def test_version_2_is_read_the_same(tmp_path: Path) -> None:
    arrays = write_with_the_package(tmp_path / "toy.gguf")
    raw = bytearray((tmp_path / "toy.gguf").read_bytes())
    raw[4] = 2
    (tmp_path / "two.gguf").write_bytes(raw)
    with GGUFFile.open(tmp_path / "two.gguf") as two, GGUFFile.open(tmp_path / "toy.gguf") as three:
        assert two.version == 2
        assert two.metadata.keys() == three.metadata.keys()
        assert two.tensors == three.tensors
        assert two.packed("matrix").tobytes() == arrays["matrix"].tobytes()


def test_packed_is_a_read_only_view_that_outlives_the_file(tmp_path: Path) -> None:
    arrays = write_with_the_package(tmp_path / "toy.gguf")
    file = GGUFFile.open(tmp_path / "toy.gguf")
    view = file.packed("blocks")
    assert view.base is not None
    with pytest.raises(ValueError, match="read-only"):
        view[0, 0] = 1
    with pytest.raises(KeyError):
        file.packed("no such tensor")
    file.close()
    assert view.tobytes() == arrays["blocks"].tobytes()
    with pytest.raises(ValueError, match="closed"):
        file.packed("blocks")


def test_a_path_may_be_text(tmp_path: Path) -> None:
    write_with_the_package(tmp_path / "toy.gguf")
    assert GGUFFile.open(str(tmp_path / "toy.gguf")).path == tmp_path / "toy.gguf"


def test_smollm_reads_as_with_the_gguf_package(smollm_path: Path) -> None:
    reference = GGUFReader(smollm_path)
    with GGUFFile.open(smollm_path) as file:
        fields = {key: field for key, field in reference.fields.items() if not key.startswith("GGUF.")}
        assert list(file.metadata) == list(fields)
        for key, field in fields.items():
            found = file.metadata[key]
            assert (found.tolist() if isinstance(found, np.ndarray) else found) == field.contents()
            assert file.metadata_types[key] == tuple(int(kind) for kind in field.types)
        assert len(file.tensors) == len(reference.tensors)
        for expected in reference.tensors:
            info = file.tensors[expected.name]
            assert info.shape == tuple(reversed(expected.shape.tolist()))
            assert (info.offset, info.nbytes) == (expected.data_offset, expected.n_bytes)
            assert info.kind.ggml_id == expected.tensor_type
            assert file.packed(expected.name).tobytes() == expected.data.tobytes()


def test_gemma_header(gemma_path: Path) -> None:
    with GGUFFile.open(gemma_path) as file:
        tokens, scores = file.metadata["tokenizer.ggml.tokens"], file.metadata["tokenizer.ggml.scores"]
        assert isinstance(tokens, list) and isinstance(scores, np.ndarray)
        assert len(tokens) == len(scores) == 262_144
        assert tokens[:4] == ["<pad>", "<eos>", "<bos>", "<unk>"]
        assert file.metadata["gemma3.embedding_length"] == 640
        assert file.tensors["token_embd.weight"].shape == (262_144, 640)
        assert file.packed("token_embd.weight").shape == (262_144, 680)
        assert {info.kind.name for info in file.tensors.values()} == {"F32", "Q5_0", "Q4_K", "Q6_K", "Q8_0"}
        assert sum(int(np.prod(info.shape)) for info in file.tensors.values()) == 268_098_176
        assert all(info.kind in READABLE for info in file.tensors.values())


def test_reading_needs_no_torch() -> None:
    code = "import sys, smidgen.formats.gguf.reader, smidgen.formats.gguf.writer; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
