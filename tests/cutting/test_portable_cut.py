"""`smidgen cut --types portable` on tiny models: no scale in the file that another framework could not hold."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from smidgen.cutting.plan import smallest_size
from smidgen.formats.gguf.reader import GGUFFile
from smidgen.formats.gguf.writer import TensorPlan, write_gguf
from smidgen.formats.opening import open_checkpoint
from smidgen.numerics.block_types import BY_NAME, PORTABLE
from smidgen.quantization.compensate import compensate
from tests.cutting import commands
from tests.cutting.commands import Done, kill_once_there, sha256
from tests.cutting.test_cut import TEXT
from tests.tiny_models import write_gemma3, write_llama

_WIDE = ("F32", "F16", "BF16")
_BYTES = {"Q4_0": 18, "Q8_0": 34}


@pytest.fixture
def folder(own_folder: Path) -> Path:
    (own_folder / "text.txt").write_text(TEXT * 2)
    return own_folder


def words(model: Path, *arguments: object) -> list[object]:
    common = ["--text", "text.txt", "--tokens", "1024", "--threads", "1"]
    return ["cut", model, "--types", "portable", *arguments, *common]


def run(model: Path, *arguments: object) -> Done:
    return commands.run(words(model, *arguments))


def fit_of(model: Path) -> int:
    """Room for some matrices in 8 bits."""
    with open_checkpoint(model) as checkpoint:
        return int(smallest_size(checkpoint, PORTABLE) * 1.15) + 1000


def types_of_portable_file(path: Path) -> dict[str, str]:
    """Tensor → type of a file all of whose scales are as they must be, read by longhand."""
    found: dict[str, str] = {}
    with GGUFFile.open(path) as file:
        for name, tensor in file.tensors.items():
            found[name] = tensor.kind.name
            if tensor.kind.name in _WIDE:
                continue
            blocks = np.array(file.packed(name)).reshape(-1, _BYTES[tensor.kind.name])
            scales = np.ascontiguousarray(blocks[:, :2]).view(np.float16).astype(np.float32)
            assert np.isfinite(scales).all() and (scales > 0).all(), name
            assert not (scales.view(np.uint32) & 0xFFFF).any(), f"{name}: bfloat16 would round a scale"
    return found


def as_types(model: Path, kinds: dict[str, str], path: Path, portable: bool = False) -> Path:
    """A file with all its matrices rounded to a type, by the ending of their name; "" for the others."""
    with GGUFFile.open(model) as file:
        plans, packed = [], {}
        for name, tensor in file.tensors.items():
            plans.append(TensorPlan(name, tensor.shape, tensor.kind))
            packed[name] = np.array(file.packed(name))
            if len(tensor.shape) > 1:
                kind = BY_NAME[next(kinds[ending] for ending in kinds if name.endswith(ending))]
                values = torch.from_numpy(packed[name]).view(torch.float32).view(tensor.shape)
                to = BY_NAME[f"portable {kind.name}"] if portable else kind
                packed[name] = compensate(values, to, torch.ones(tensor.shape[-1])).numpy()
                plans[-1] = TensorPlan(name, tensor.shape, kind)
        write_gguf(path, file.metadata, file.metadata_types, plans, lambda name: packed[name])
    return path


@pytest.mark.parametrize("write", [write_gemma3, write_llama])
def test_every_scale_is_one_that_all_formats_hold(write: Callable[[Path], Path], folder: Path) -> None:
    model = write(folder / "tiny.gguf")
    fit = fit_of(model)
    done = run(model, "--fit", fit, "-o", "out", "--json")
    assert done.code == 0, done.err
    kinds = types_of_portable_file(folder / "out/model.gguf")
    assert {"Q4_0", "Q8_0"} <= set(kinds.values()) <= {"Q4_0", "Q8_0", *_WIDE}
    result = json.loads(done.out)
    assert {one["name"]: one["kind"] for one in result["tensors"]}.items() <= kinds.items()
    assert result["bytes"] == (folder / "out/model.gguf").stat().st_size <= fit
    assert "portable: expected KL " in result["plan"] and " with all types" in result["plan"]
    card = json.loads((folder / "out/card.json").read_text())
    assert card["steps"][0]["parameters"]["types"] == ["portable"] and "portable" in card["steps"][0]["summary"]
    assert {one["name"]: one["kind"] for one in card["steps"][0]["tensors"]}.items() <= kinds.items()
    assert 'types = ["portable"]' in (folder / "out/recipe.toml").read_text()
    again = commands.run(["cut", model, "--recipe", "out/recipe.toml", "-o", "again", "--no-measure"])
    assert again.code == 0, again.err
    assert sha256(folder / "again/model.gguf") == sha256(folder / "out/model.gguf")


@pytest.mark.parametrize("write", [write_gemma3, write_llama])
def test_they_still_are_after_healing(write: Callable[[Path], Path], folder: Path) -> None:
    model = write(folder / "tiny.gguf")
    # Few passes over the short text: of more the last state, which is kept where little is held out, is no better.
    done = run(model, "--fit", fit_of(model), "--heal", "4000", "-o", "out", "--json", "--no-measure")
    assert done.code == 0, done.err
    healing = json.loads(done.out)["steps"][-1]
    assert healing["step"] == "heal" and healing["watched_kl_after"] < healing["watched_kl_before"]
    assert {"Q4_0", "Q8_0"} <= set(types_of_portable_file(folder / "out/model.gguf").values())


def test_killed_and_resumed_is_the_same_file(folder: Path) -> None:
    model = write_llama(folder / "tiny.gguf")
    arguments = ("--fit", fit_of(model), "--heal", "20000", "--no-measure")
    assert run(model, *arguments, "-o", "whole").code == 0
    killed = words(model, *arguments, "-o", "killed")
    kill_once_there(folder, killed, folder / "killed/work/block-0.safetensors")
    assert run(model, *arguments, "-o", "killed", "--resume").code == 0
    assert sha256(folder / "killed/model.gguf") == sha256(folder / "whole/model.gguf")
    types_of_portable_file(folder / "killed/model.gguf")


def test_with_fewer_tokens_too(folder: Path) -> None:
    model = write_gemma3(folder / "tiny.gguf")
    done = run(model, "--vocab", "288", "--fit", fit_of(model), "-o", "out", "--json", "--no-measure")
    assert done.code == 0, done.err
    assert " with all types" in json.loads(done.out)["plan"]
    types_of_portable_file(folder / "out/model.gguf")


def test_what_is_not_portable_does_not_stay_even_where_it_would_fit(folder: Path) -> None:
    model = as_types(write_llama(folder / "tiny.gguf"), {"": "Q4_0"}, folder / "others.gguf")
    done = run(model, "--fit", "1GB", "-o", "out", "--json", "--no-measure")
    assert done.code == 0, done.err
    result = json.loads(done.out)
    assert not any(one["kept"] for one in result["tensors"])
    assert {one["kind"] for one in result["tensors"]} == {"Q8_0"}
    types_of_portable_file(folder / "out/model.gguf")


def test_what_is_portable_stays_as_it_is(folder: Path) -> None:
    model = as_types(write_llama(folder / "tiny.gguf"), {"": "Q8_0"}, folder / "ours.gguf", portable=True)
    done = run(model, "--fit", "1GB", "-o", "out", "--json", "--no-measure")
    assert done.code == 0, done.err
    assert all(one["kept"] for one in json.loads(done.out)["tensors"])
    types_of_portable_file(folder / "out/model.gguf")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--types", "portable,Q4_K", "--fit", "1MB"], "Q4_K beside it would not be"),
        (["--types", "PORTABLE,q8_0", "--fit", "1MB"], "Q8_0 beside it would not be"),
        (["--types", "portable Q4_0", "--fit", "1MB"], "is not a type to quantize to"),
        (["--types", "portable", "--vocab", "288"], "--types portable goes with --fit"),
        (["--types", "portable", "--fit", "1kB"], "the smallest possible file is"),
    ],
)
def test_bad_input_is_one_line(options: list[str], message: str, folder: Path) -> None:
    model = write_gemma3(folder / "tiny.gguf")
    done = commands.run(["cut", model, *options, "-o", "out", "--text", "text.txt"])
    assert done.code == 2 and message in done.err and "Traceback" not in done.err
    assert not (folder / "out").exists()
