"""Folders in Hugging Face layout: good ones are read as transformers' own tools would, others end in one line."""

import json
import os
import pickle
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from smidgen.errors import BadFile, SmidgenError, Unsupported
from smidgen.formats.hf.folder import CONFIG_BYTES, HFFolder, is_hf_folder, member, read_json

WEIGHTS = {
    "model.embed_tokens.weight": torch.randn(6, 4).bfloat16(),
    "model.layers.0.mlp.up_proj.weight": torch.randn(8, 4).half(),
    "model.norm.weight": torch.randn(4),
}
FIRST, SECOND = "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"
INDEX = "model.safetensors.index.json"


def write_json(path: Path, value: object) -> None:
    path.write_text(json.dumps(value))


@pytest.fixture
def single(tmp_path: Path) -> Path:
    """A model in one file."""
    folder = tmp_path / "single"
    folder.mkdir()
    write_json(folder / "config.json", {"model_type": "toy", "layers": [1, 2]})
    save_file(WEIGHTS, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


@pytest.fixture
def sharded(single: Path) -> Path:
    """The same in two shards and an index."""
    (single / "model.safetensors").unlink()
    names = list(WEIGHTS)
    save_file({names[0]: WEIGHTS[names[0]]}, single / FIRST)
    save_file({name: WEIGHTS[name] for name in names[1:]}, single / SECOND)
    files = {names[0]: FIRST, names[1]: SECOND, names[2]: SECOND}
    write_json(single / INDEX, {"metadata": {"total_size": 128}, "weight_map": files})
    return single


def reindex(folder: Path, **changes: str) -> None:
    """Change the index's weight_map: tensor by tensor, None removes."""
    index = json.loads((folder / INDEX).read_text())
    index["weight_map"] |= changes
    write_json(folder / INDEX, index)


def refused(folder: Path, error: type[SmidgenError], fragment: str) -> None:
    with pytest.raises(SmidgenError) as caught:
        HFFolder.open(folder)
    message = str(caught.value)
    assert caught.type is error, message
    assert message.isprintable() and fragment in message, message


@pytest.mark.parametrize("layout", ["single", "sharded"])
def test_good_folders(layout: str, request: pytest.FixtureRequest) -> None:
    path: Path = request.getfixturevalue(layout)
    assert is_hf_folder(path)
    with HFFolder.open(path) as folder:
        assert folder.config == {"model_type": "toy", "layers": [1, 2]}
        assert folder.generation_config == {}
        assert set(folder.weights) == set(WEIGHTS)
        assert folder.nbytes == sum(file.stat().st_size for file in path.glob("*.safetensors"))
        for name, expected in WEIGHTS.items():
            assert folder.weights[name].shape == tuple(expected.shape)
            assert folder.packed(name).tobytes() == expected.view(torch.uint8).numpy().tobytes()
        folder.release()
        assert np.array_equal(folder.packed("model.norm.weight").view("<f4")[0], WEIGHTS["model.norm.weight"].numpy())


def test_the_hash_is_that_of_sha256sum(sharded: Path) -> None:
    write_json(sharded / "generation_config.json", {"top_k": 64})
    (sharded / "tokenizer.json").write_text("{}")
    with HFFolder.open(sharded) as folder:
        assert folder.generation_config == {"top_k": 64}
        found = folder.sha256()
    names = ["config.json", "generation_config.json", FIRST, SECOND, "tokenizer.json"]
    by_hand = subprocess.run(f"sha256sum {' '.join(names)} | sha256sum", shell=True, cwd=sharded, capture_output=True)
    assert by_hand.stdout.decode().split()[0] == found
    (sharded / "tokenizer.json").write_text("{ }")
    with HFFolder.open(sharded) as folder:
        assert folder.sha256() != found


def test_a_single_file_wins_over_an_index(single: Path) -> None:
    write_json(single / INDEX, {"weight_map": {"a": "gone.safetensors"}})
    with HFFolder.open(single) as folder:
        assert set(folder.weights) == set(WEIGHTS)


def test_the_cache_of_the_hub_may_link_to_its_blobs(sharded: Path, tmp_path: Path) -> None:
    for place in ("models--org--name/blobs", "blobs/ab"):
        cache = tmp_path / place.replace("/", "-")
        blobs, snapshot = cache / place, cache / "models--org--name" / "snapshots" / "0123"
        blobs.mkdir(parents=True)
        snapshot.mkdir(parents=True)
        for file in sharded.iterdir():
            shutil.copy(file, blobs / f"hash-of-{file.name}")
            (snapshot / file.name).symlink_to(os.path.relpath(blobs / f"hash-of-{file.name}", snapshot))
        assert is_hf_folder(snapshot)
        with HFFolder.open(snapshot) as folder:
            assert set(folder.weights) == set(WEIGHTS)
            assert len(folder.sha256()) == 64


def test_a_link_to_the_folder_itself_is_followed(single: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(single)
    with HFFolder.open(tmp_path / "link") as folder:
        assert set(folder.weights) == set(WEIGHTS)


def test_links_out_of_the_folder_are_refused(single: Path, tmp_path: Path) -> None:
    secret = tmp_path / "secret.json"
    secret.write_text('{"key": 1}')
    (single / "generation_config.json").symlink_to(secret)
    refused(single, BadFile, "link out of the model's folder")
    (single / "generation_config.json").unlink()
    (single / "generation_config.json").symlink_to(single / "gone")
    refused(single, BadFile, "does not exist")
    (single / "generation_config.json").unlink()
    (single / "generation_config.json").symlink_to("generation_config.json")
    refused(single, BadFile, "generation_config.json")


NAMES = ["", ".", "..", "../model.safetensors", "/etc/passwd", "a/b", "a\\b", "C:x", "a\nb", "a\0", "sub/../x"]


@pytest.mark.parametrize("name", NAMES)
def test_names_that_are_not_plain_are_refused(name: str, single: Path) -> None:
    with pytest.raises(BadFile, match="plain file name"):
        member(single, name)


@pytest.mark.parametrize("name", ["../outside.safetensors", "/tmp/outside.safetensors", "sub/inside.safetensors"])
def test_an_index_that_leaves_the_folder(name: str, sharded: Path, tmp_path: Path) -> None:
    save_file({"extra": torch.zeros(1)}, tmp_path / "outside.safetensors")
    reindex(sharded, extra=name)
    refused(sharded, BadFile, "plain file name")


def test_folders_that_lack_something(sharded: Path, tmp_path: Path) -> None:
    (sharded / SECOND).rename(tmp_path / "away")
    refused(sharded, BadFile, f"lacks 1 of its 2 weight files ({SECOND})")
    (tmp_path / "away").rename(sharded / SECOND)
    (sharded / "config.json").unlink()
    assert not is_hf_folder(sharded)
    refused(sharded, BadFile, "has no config.json")
    refused(tmp_path / "none", BadFile, "is not a folder")
    refused(tmp_path / "none\n", BadFile, "is not a folder")


def notes(folder: Path) -> str:
    with HFFolder.open(folder) as opened:
        for name, expected in WEIGHTS.items():
            assert opened.packed(name).tobytes() == expected.view(torch.uint8).numpy().tobytes()
        return "; ".join(opened.notes)


def test_an_index_that_says_something_else(sharded: Path) -> None:
    """The files count, and a note says what the index had of them."""
    assert notes(sharded) == ""
    good = (sharded / INDEX).read_text()
    reindex(sharded, extra=SECOND, other=SECOND)
    assert "the index names extra, which is in no file (and 1 more like it); passed over" in notes(sharded)
    (sharded / INDEX).write_text(good)
    reindex(sharded, **{"model.norm.weight": FIRST})
    assert f"the index puts model.norm.weight in {FIRST}, but it is in {SECOND}; read from there" in notes(sharded)
    (sharded / INDEX).write_text(good)
    save_file({name: WEIGHTS[name] for name in list(WEIGHTS)[1:]} | {"more": torch.zeros(2)}, sharded / SECOND)
    assert f"more is in {SECOND}, but not in the index; read" in notes(sharded)
    with HFFolder.open(sharded) as folder:
        assert set(folder.weights) == {*WEIGHTS, "more"}
    index = json.loads(good)
    write_json(sharded / INDEX, {"metadata": {"total_size": 7}, "weight_map": index["weight_map"] | {"more": SECOND}})
    assert notes(sharded) == ""


def test_of_a_tensor_in_two_shards_the_last_counts(sharded: Path) -> None:
    """As in transformers, which goes through the files in the order of their names."""
    name = "model.embed_tokens.weight"
    save_file({name: torch.zeros(6, 4)}, sharded / FIRST)
    save_file(WEIGHTS, sharded / SECOND)
    assert f"{name} is in {FIRST} and in {SECOND}; the last one is used" in notes(sharded)


def test_shards_without_an_index(sharded: Path) -> None:
    """All of them make the model; some of them do not."""
    (sharded / INDEX).unlink()
    assert f"there is no {INDEX}; the weights are read from {FIRST}, {SECOND}" in notes(sharded)
    (sharded / FIRST).rename(sharded / "away")
    refused(sharded, BadFile, f"has no {INDEX}, and 1 of 2 ({SECOND} …) is not a model")
    save_file(WEIGHTS, sharded / "model-00001-of-00003.safetensors")
    refused(sharded, BadFile, "shards of 2 models")


def test_one_shard_without_an_index(single: Path) -> None:
    (single / "model.safetensors").rename(single / "model-00001-of-00001.safetensors")
    assert "read from model-00001-of-00001.safetensors" in notes(single)


def test_files_that_are_left_aside(sharded: Path) -> None:
    stale = "model-00003-of-00003.safetensors"
    save_file({"model.norm.weight": torch.ones(4)}, sharded / stale)
    assert f"left aside, since {INDEX} does not name it: {stale}" in notes(sharded)
    save_file(WEIGHTS, sharded / "model.safetensors")
    (sharded / "pytorch_model.bin").write_bytes(pickle.dumps({"a": 1}))
    save_file({"norm.weight": torch.ones(4)}, sharded / "consolidated.safetensors")
    assert f"read from model.safetensors; left aside: {INDEX}, {FIRST} …" in notes(sharded)


INDEXES = {
    "a list": ([], "not a JSON object"),
    "without a map": ({"metadata": {}}, "no weight_map"),
    "map is a list": ({"weight_map": ["a"]}, "no weight_map"),
    "map is empty": ({"weight_map": {}}, "no weight_map"),
    "files are numbers": ({"weight_map": {"a": 1}}, "no weight_map"),
    "too many shards": ({"weight_map": {str(n): f"{n}.safetensors" for n in range(600)}}, "600 files"),
    "too many tensors": ({"weight_map": {str(n): FIRST for n in range(2**18 + 1)}}, "262145 tensors"),
}


@pytest.mark.parametrize("name", INDEXES)
def test_damaged_indexes(name: str, sharded: Path) -> None:
    value, fragment = INDEXES[name]
    write_json(sharded / INDEX, value)
    refused(sharded, BadFile, fragment)


def test_an_index_of_pickles(sharded: Path) -> None:
    reindex(sharded, **{"model.norm.weight": "pytorch_model.bin"})
    refused(sharded, Unsupported, "pytorch_model.bin, which is not safetensors")


@pytest.mark.parametrize("file", ["pytorch_model.bin", "consolidated.00.pth", "model.pt", "model-00001-of-2.BIN"])
def test_pickles_are_named_and_not_opened(file: str, single: Path) -> None:
    (single / "model.safetensors").unlink()
    (single / file).write_bytes(pickle.dumps({"a": 1}))
    assert not is_hf_folder(single)
    refused(single, Unsupported, "never opens")


def test_what_is_there_instead_is_said(single: Path) -> None:
    (single / "model.safetensors").rename(single / "consolidated.safetensors")
    refused(single, BadFile, "no model.safetensors but consolidated.safetensors")
    (single / "consolidated.safetensors").rename(single / "adapter_model.safetensors")
    refused(single, Unsupported, "adapter")
    (single / "adapter_model.safetensors").unlink()
    refused(single, BadFile, "no weights")
    (single / "model.safetensors").write_bytes(b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n")
    refused(single, BadFile, "git lfs pull")
    save_file({}, single / "model.safetensors")
    refused(single, BadFile, "hold no tensors")
    (single / "model.safetensors").unlink()
    (single / "model.safetensors").mkdir()
    refused(single, BadFile, "not a regular file")


JSON = {
    "duplicate keys": (b'{"a": 1, "a": 2}', "key a appears twice"),
    "duplicate keys inside": (b'{"a": [{"b\\n": 1, "b\\n": 2}]}', "appears twice"),
    "NaN": (b'{"a": NaN}', "NaN"),
    "Infinity": (b'{"a": [-Infinity]}', "Infinity"),
    "too large a number": (b'{"a": -1e400}', "too large"),
    "5000 digits": (b'{"a": ' + b"9" * 5000 + b"}", "not valid JSON"),
    "half a surrogate pair": (b'{"a": "\\uD83D"}', "not valid JSON"),
    "not UTF-8": (b'{"a": "\xff"}', "not valid JSON"),
    "a byte order mark": (b"\xef\xbb\xbf{}", "not valid JSON"),
    "a comment": (b"{} // yes", "not valid JSON"),
    "empty": (b"", "not valid JSON"),
    "LFS pointer": (b"version https://git-lfs.github.com/spec/v1\n", "git lfs pull"),
    "65 levels of lists": (b"[" * 65 + b"]" * 65, "nested"),
    "65 levels of objects": (b'{"a":' * 64 + b"{}" + b"}" * 64, "nested"),
    "100,000 levels": (b"[" * 100_000, "nested"),
    "too large": (b'"' + b"a" * CONFIG_BYTES + b'"', f"larger than {CONFIG_BYTES}"),
    "too many lists": (b"[" + b"[]," * (2**21) + b"0]", "objects and lists"),
}


@pytest.mark.parametrize("name", JSON)
def test_json_that_is_refused(name: str, tmp_path: Path) -> None:
    content, fragment = JSON[name]
    (tmp_path / "config.json").write_bytes(content)
    with pytest.raises(BadFile) as caught:
        read_json(tmp_path / "config.json", limit=CONFIG_BYTES if "large" in name else 2**24)
    assert fragment in str(caught.value) and str(caught.value).isprintable()


def test_json_that_is_read(tmp_path: Path) -> None:
    text = '{"a": [1, -2.5, 1e300, true, null, "ü\\ud83d\\ude00\\n"], "deep": ' + "[" * 63 + "]" * 63 + "}"
    (tmp_path / "a.json").write_text(text)
    value = read_json(tmp_path / "a.json")
    assert value["a"] == [1, -2.5, 1e300, True, None, "ü😀\n"]
    for path in (tmp_path / "none.json", tmp_path, Path("/dev/zero"), Path("a\0b")):
        with pytest.raises(BadFile):
            read_json(path)
