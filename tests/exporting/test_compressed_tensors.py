"""2:4 sparse weights in compressed-tensors' format: read back by its own package, by a longhand reader, and refused."""

import json
from pathlib import Path

import pytest
import torch
from compressed_tensors import ModelCompressor
from safetensors.torch import load_file
from torch import Tensor

from smidgen.errors import SmidgenError
from smidgen.exporting.compressed_tensors import pack_mask, stored_places, write_compressed
from smidgen.exporting.export import export
from smidgen.formats.derived import write_derived
from smidgen.formats.hf.writer import write_hf
from smidgen.formats.opening import open_checkpoint
from smidgen.formats.workspace import Workspace
from smidgen.pruning.masks import Pattern
from smidgen.pruning.sparsity import sparsify
from tests.family_models import save_folder
from tests.tiny_models import write_gemma3, write_llama


def thin(model: Path, path: Path, pattern: str = "2:4") -> Path:
    with open_checkpoint(model) as checkpoint:
        windows = torch.zeros(1, 1, dtype=torch.long)
        derived = sparsify(checkpoint, Pattern.parse(pattern), "magnitude", windows, Workspace(path.parent))
        write_derived(checkpoint, derived, path, {"step": "weights"})
    return path


@pytest.fixture(params=["gemma3", "llama", "phi3"])
def sparse(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """Phi-3's folder stacks matrices that are separate here."""
    if request.param == "phi3":
        (tmp_path / "phi3").mkdir()
        save_folder("phi3", tmp_path / "phi3")
        return thin(tmp_path / "phi3", tmp_path / "sparse.gguf")
    write = {"gemma3": write_gemma3, "llama": write_llama}[request.param]
    return thin(write(tmp_path / "dense.gguf"), tmp_path / "sparse.gguf")


def longhand(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The dense tensors again, bit by bit."""
    dense = {}
    for name, tensor in tensors.items():
        prefix, _, kind = name.rpartition(".")
        if kind == "bitmask":
            rows, columns = tensors[f"{prefix}.shape"].flatten().tolist()
            weight, values = torch.zeros(rows, columns, dtype=tensors[f"{prefix}.compressed"].dtype), 0
            for row in range(rows):
                values = iter(tensors[f"{prefix}.compressed"][row].tolist())
                for column in range(columns):
                    if int(tensor[row, column // 8]) >> column % 8 & 1:
                        weight[row, column] = next(values)
                assert next(values, None) is None
            dense[f"{prefix}.weight"] = weight
        elif kind not in ("compressed", "shape"):
            dense[name] = tensor
    return dense


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_read_back(sparse: Path, dtype: str, tmp_path: Path) -> None:
    """By the package that defines the format, and by hand, the tensors are those of a folder with dense zeros."""
    packed, dense = tmp_path / "packed", tmp_path / "dense"
    with open_checkpoint(sparse) as checkpoint:
        write_compressed(checkpoint, packed, dtype)
        write_hf(checkpoint, dense, dtype)
    expected, tensors = load_file(dense / "model.safetensors"), load_file(packed / "model.safetensors")
    config = json.loads((packed / "config.json").read_text())
    compressor = ModelCompressor.from_compression_config(config["quantization_config"])
    assert compressor is not None and compressor.sparsity_compressor is not None
    for found in (dict(compressor.sparsity_compressor.decompress(str(packed))), longhand(tensors)):
        assert found.keys() == expected.keys()
        assert all(torch.equal(found[name], expected[name]) for name in expected)
    linears = [name for name in expected if ".layers." in name and expected[name].ndim == 2]
    assert linears and not any(name in tensors for name in linears)
    theirs = compressor.sparsity_compressor.compress({name: expected[name] for name in linears})
    assert {name for name in tensors if name.endswith((".shape", ".compressed", ".bitmask"))} == theirs.keys()
    assert all(torch.equal(tensors[name], theirs[name]) for name in theirs)
    assert all(tensors[name].dtype == theirs[name].dtype for name in theirs)


def test_size(sparse: Path, tmp_path: Path) -> None:
    """Half the values and a bit for each: 9/16 of 16-bit weights."""
    with open_checkpoint(sparse) as checkpoint:
        write_compressed(checkpoint, tmp_path / "packed", "float16")
    tensors = load_file(tmp_path / "packed" / "model.safetensors")
    for name in [name.removesuffix(".shape") for name in tensors if name.endswith(".shape")]:
        rows, columns = tensors[f"{name}.shape"].flatten().tolist()
        nbytes = sum(tensors[f"{name}.{part}"].nbytes for part in ("compressed", "bitmask"))
        assert nbytes == rows * columns * 2 * 9 // 16


def test_bit_order() -> None:
    places = torch.tensor([[1, 1, 0, 0, 0, 0, 1, 1, 0, 1, 1, 0, 1, 0, 0, 1]], dtype=torch.bool)
    assert pack_mask(places).tolist() == [[0b11000011, 0b10010110]]


def test_groups_with_fewer_than_two_values() -> None:
    """Two places of each four are stored all the same, those of the values among them."""
    weight = torch.tensor([[0.0, 0, 0, 0, 0, 0, 0, -3], [1, 0, 0, 2, 0, 4, 0, 0]])
    assert stored_places(weight).int().tolist() == [[1, 1, 0, 0, 1, 0, 0, 1], [1, 0, 0, 1, 1, 1, 0, 0]]


def test_dense_models_are_refused_by_name(tmp_path: Path) -> None:
    """Nothing is written, whether no matrix is sparse or the zeros are not in groups."""
    model = write_llama(tmp_path / "dense.gguf")
    for path in (model, thin(model, tmp_path / "scattered.gguf", "50%")):
        with pytest.raises(SmidgenError, match=r"query.weight.*cut it with --steps weights --sparsity 2:4") as caught:
            export(str(path), "compressed-tensors", tmp_path / "out")
        assert "\n" not in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_mixtures_are_refused(tmp_path: Path) -> None:
    (tmp_path / "mixtral").mkdir()
    save_folder("mixtral", tmp_path / "mixtral")
    with pytest.raises(SmidgenError, match="mixtures of experts"):
        export(str(tmp_path / "mixtral"), "compressed-tensors", tmp_path / "out")
