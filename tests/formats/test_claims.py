"""What a file says of itself does not go into a file that is made of it."""

from pathlib import Path

import pytest

from smidgen.cutting.plan import layout
from smidgen.exporting.export import export
from smidgen.formats.claims import as_ours, is_claim
from smidgen.formats.derived import Derived, write_derived
from smidgen.formats.gguf.reader import GGUFFile
from smidgen.formats.gguf.writer import STRING_TYPES, TensorPlan, gguf_types, write_gguf
from smidgen.formats.opening import open_checkpoint
from smidgen.numerics import block_types as types
from smidgen.version import __version__
from tests.tiny_models import write_llama

CLAIMS = {
    "quantize.imatrix.file": "/home/them/imatrix.gguf", "quantize.imatrix.entries_count": 9,
    "general.quantized_by": "Unsloth", "general.repo_url": "https://huggingface.co/unsloth",
    "general.url": "https://huggingface.co/them/x", "general.uuid": "1", "general.doi": "2",
    "mradermacher.quantized_at": "2025", "mradermacher.quantize_version": "2",
}  # fmt: skip
FACTS = {
    "general.name": "Theirs", "general.license": "mit", "general.author": "They", "general.base_model.count": 1,
    "general.base_model.0.repo_url": "https://huggingface.co/org/name", "general.quantization_version": 2,
}  # fmt: skip


@pytest.fixture
def quantized(tmp_path: Path) -> Path:
    """A tiny model with the marks of a quantizer, and a file type that is not true."""
    plain, marked = write_llama(tmp_path / "plain.gguf"), tmp_path / "theirs.gguf"
    with GGUFFile.open(plain) as file:
        added = CLAIMS | FACTS | {"general.file_type": 15}
        tensors = [TensorPlan(info.name, info.shape, info.kind) for info in file.tensors.values()]
        metadata_types = {**file.metadata_types} | {key: gguf_types(value) for key, value in added.items()}
        write_gguf(marked, {**file.metadata, **added}, metadata_types, tensors, file.packed)
    return marked


def test_claims_and_facts() -> None:
    assert [key for key, value in CLAIMS.items() if not is_claim(key, value)] == []
    assert [key for key, value in FACTS.items() if is_claim(key, value)] == []
    assert is_claim("split.count", 1) and is_claim("smidgen.version", "0")
    assert not is_claim("general.quantized_by", f"smidgen {__version__}")


def test_the_file_type_is_that_of_most_bytes() -> None:
    tensors = [TensorPlan("a", (2, 256), types.F32), TensorPlan("b", (64, 256), types.Q4_K)]
    metadata, kinds = as_ours(
        {"general.file_type": 1, "a": "b"}, {"general.file_type": (4,), "a": STRING_TYPES}, tensors
    )
    assert metadata == {"a": "b", "general.file_type": 15}
    assert kinds["general.file_type"] == (4,)


@pytest.mark.parametrize("verb", ["export", "derived"])
def test_no_claim_stays_in_what_is_written(verb: str, quantized: Path, tmp_path: Path) -> None:
    output = tmp_path / "ours.gguf"
    if verb == "export":
        export(quantized, "gguf", output)
    else:
        with open_checkpoint(quantized) as checkpoint:
            write_derived(checkpoint, Derived(checkpoint.config), output, {"step": "tune"})
    with GGUFFile.open(output) as file:
        assert not CLAIMS.keys() & file.metadata.keys()
        assert {key: file.metadata[key] for key in FACTS} == FACTS
        assert file.metadata["general.file_type"] == 0  # float32, whatever the original claims


def test_no_claim_stays_in_a_cut(quantized: Path) -> None:
    with open_checkpoint(quantized) as checkpoint:
        metadata = layout(checkpoint, {}).metadata
    assert (CLAIMS.keys() & metadata.keys()) == {"general.quantized_by"}
    assert metadata["general.quantized_by"] == f"smidgen {__version__}"
    assert metadata["general.file_type"] == 0
