"""A model in Hugging Face layout: a folder with config.json, weights in safetensors (one file, or shards and an index
that says which tensor is in which), and the tokenizer's files.

The layout is what transformers' `save_pretrained` writes and `from_pretrained` reads:
https://huggingface.co/docs/transformers/main_classes/model#transformers.PreTrainedModel.save_pretrained

A folder may come from strangers, so nothing in it is believed: every name must stay inside it (links may point to the
blobs of the hub's own cache, from which it may be made), the index and the shards must agree tensor by tensor, and
weights in pickles are never opened. Torch-free, and numpy is loaded only when weights are opened.
"""

import hashlib
import os
import re
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from smidgen.closing import Closing
from smidgen.errors import BadFile, Unsupported, printable
from smidgen.formats.hf.json_text import read_json

if TYPE_CHECKING:
    import numpy as np

    from smidgen.formats.hf.safetensors_reader import SafetensorsFile, StoredTensor

__all__ = ["HFFolder", "is_hf_folder", "member", "read_json"]

CONFIG, GENERATION_CONFIG = "config.json", "generation_config.json"
SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"
# What decides how text becomes tokens, in the order of the hash.
TOKENIZER_FILES = (
    "tokenizer.json", "tokenizer.model", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json",
    "vocab.json", "merges.txt", "chat_template.jinja", "chat_template.json",
)  # fmt: skip

# Limits. The largest models have some hundred shards and some hundred thousand tensors (mixtures of experts).
CONFIG_BYTES = 2**20
INDEX_BYTES = 32 * 2**20
MAX_SHARDS = 512
MAX_TENSORS = 2**18

_PICKLE = re.compile(r".*\.(bin|pt|pth|ckpt|pkl|pickle)", re.IGNORECASE)
_SHARD = re.compile(r"model-\d+-of-\d+\.safetensors")
_COMPLETE = "download or copy the whole model again"


def is_hf_folder(path: str | os.PathLike[str]) -> bool:
    """Whether this is a folder with config.json and weights in safetensors. Opens no file."""
    folder = Path(path)
    if not (folder / CONFIG).is_file():
        return False
    return (folder / INDEX).is_file() or any(folder.glob("*.safetensors"))


def member(folder: Path, name: str) -> Path | None:
    """The file of this name in a model's folder, or None where it does not exist.

    Raises BadFile for a name or a link that leaves the folder; links into the blobs of the hub's cache may.
    """
    shown = f"{printable(folder)}: {printable(name)}"
    if not name or name in (".", "..") or not name.isprintable() or set(name) & {"/", "\\", ":"}:
        raise BadFile(f"{shown} is not a plain file name; get the model from a source that you trust")
    path = folder / name
    try:
        home, target = folder.resolve(), path.resolve()
        if not target.exists():
            if path.is_symlink():
                raise BadFile(f"{shown} is a link to a file that does not exist; {_COMPLETE}")
            return None
    except (OSError, RuntimeError, ValueError) as error:
        raise BadFile(f"{shown} cannot be found ({printable(error)}); check the path and its permissions") from error
    if target.parent != home and not _is_hub_blob(target, home):
        raise BadFile(f"{shown} is a link out of the model's folder; copy the file itself into the folder")
    if not target.is_file():
        raise BadFile(f"{shown} is not a regular file; {_COMPLETE}")
    return path


def _is_hub_blob(target: Path, snapshot: Path) -> bool:
    """Whether a link in CACHE/models--org--name/snapshots/COMMIT leads to where the hub's cache keeps the bytes: that
    model's blobs/HASH, or CACHE/blobs/HA/HASH, which models share."""
    if snapshot.parent.name != "snapshots":
        return False
    model = snapshot.parent.parent
    return target.parent == model / "blobs" or target.parent.parent == model.parent / "blobs"


@dataclass(eq=False)
class HFFolder(Closing):
    """A model's folder whose files have been checked against each other; use `HFFolder.open` in a `with` statement.

    config, generation_config: the JSON objects of those files; the latter is empty where the file is missing.
    weights: all tensors by name, over all shards.  nbytes: of the weight files together.
    """

    path: Path
    config: dict[str, Any]
    generation_config: dict[str, Any]
    weights: "dict[str, StoredTensor]"
    nbytes: int
    _shards: "list[SafetensorsFile]" = field(repr=False)
    _shard_of: "dict[str, SafetensorsFile]" = field(repr=False)

    @classmethod
    def open(cls, folder: str | os.PathLike[str]) -> Self:
        """Map the weights and check all of the folder but their values and the tokenizer.

        Raises BadFile (missing, damaged, inconsistent) or Unsupported (pickles, types that smidgen does not read), each
        with a one-line message.
        """
        folder = Path(folder)
        if not folder.is_dir():
            raise BadFile(f"{printable(folder)} is not a folder; give one that has {CONFIG} and safetensors in it")
        config = _object(folder, CONFIG)
        if config is None:
            raise BadFile(f"{printable(folder)} has no {CONFIG}; {_COMPLETE}")
        with ExitStack() as opened:
            shards, shard_of = _open_shards(folder, opened)
            weights = {name: shard.tensors[name] for name, shard in shard_of.items()}
            generation_config = _object(folder, GENERATION_CONFIG) or {}
            opened.pop_all()
        nbytes = sum(shard.size for shard in shards)
        return cls(folder, config, generation_config, weights, nbytes, shards, shard_of)

    def packed(self, name: str) -> "np.ndarray":
        """The stored bytes of a tensor: read-only uint8 [rows, row_bytes]; see `SafetensorsFile.packed`."""
        return self._shard_of[name].packed(name)

    def release(self) -> None:
        """Give the pages of weights that were read back to the system."""
        for shard in self._shards:
            shard.release()

    def sha256(self) -> str:
        """One hash for the configuration, the weights and the tokenizer: 64 hexadecimal digits.

        The hash of the lines that `sha256sum` prints for these files, in this order, so it can be checked by hand:
        `sha256sum config.json model*.safetensors tokenizer.json … | sha256sum`.
        """
        names = [CONFIG, GENERATION_CONFIG, *(shard.path.name for shard in self._shards), *TOKENIZER_FILES]
        total = hashlib.sha256()
        for name in names:
            path = member(self.path, name)
            if path is None:
                continue
            try:
                with path.open("rb") as file:
                    digest = hashlib.file_digest(file, "sha256").hexdigest()
            except OSError as error:
                raise BadFile(f"{printable(path)} cannot be read ({printable(error)}); {_COMPLETE}") from error
            total.update(f"{digest}  {name}\n".encode())
        return total.hexdigest()

    def close(self) -> None:
        """Let go of the maps."""
        for shard in self._shards:
            shard.close()


def _object(folder: Path, name: str, limit: int = CONFIG_BYTES) -> dict[str, Any] | None:
    """The JSON object in a file of the folder, or None where there is no such file."""
    path = member(folder, name)
    if path is None:
        return None
    value = read_json(path, limit)
    if not isinstance(value, dict):
        raise BadFile(f"{printable(path)} is not a JSON object; {_COMPLETE}")
    return value


def _open_shards(folder: Path, opened: ExitStack) -> "tuple[list[SafetensorsFile], dict[str, SafetensorsFile]]":
    """The weight files, in order of their names, and the file of each tensor."""
    from smidgen.formats.hf.safetensors_reader import SafetensorsFile

    listed = _weight_map(folder)
    names = sorted(set(listed.values())) if listed is not None else [SINGLE]
    paths = [member(folder, name) for name in names]
    missing = [name for name, path in zip(names, paths, strict=True) if path is None]
    if missing:
        some = ", ".join(map(printable, missing[:3]))
        raise BadFile(
            f"{printable(folder)} lacks {len(missing)} of its {len(names)} weight files ({some}); {_COMPLETE}"
        )
    shards: list[SafetensorsFile] = []
    shard_of: dict[str, SafetensorsFile] = {}
    for path in paths:
        assert path is not None
        shard = opened.enter_context(SafetensorsFile.open(path))
        shards.append(shard)
        for name in shard.tensors:
            if name in shard_of:
                first, second = shard_of[name].path.name, path.name
                raise BadFile(f"{printable(folder)}: {printable(name)} is in {first} and in {second}; {_COMPLETE}")
            shard_of[name] = shard
        if len(shard_of) > MAX_TENSORS:
            raise BadFile(f"{printable(folder)} has more than {MAX_TENSORS} tensors, which no real model has")
    if not shard_of:
        raise BadFile(f"{printable(folder)}: the weight files hold no tensors; {_COMPLETE}")
    if listed is not None:
        _compare_with_index(folder, listed, shard_of)
    return shards, shard_of


def _weight_map(folder: Path) -> dict[str, str] | None:
    """What the index says: the file of each tensor. None for a model in one file, which needs no index.

    With both, the single file counts, as in transformers. The index's `total_size` is not compared with anything: many
    published ones are wrong, and nothing is made from it.
    """
    if member(folder, SINGLE) is not None:
        return None
    index = _object(folder, INDEX, INDEX_BYTES)
    if index is None:
        raise explain_missing_weights(folder)
    shown = printable(folder / INDEX)
    listed = index.get("weight_map")
    if not isinstance(listed, dict) or not listed or not all(isinstance(file, str) for file in listed.values()):
        raise BadFile(f"{shown} has no weight_map from names of tensors to names of files; {_COMPLETE}")
    files = set(listed.values())
    if len(listed) > MAX_TENSORS or len(files) > MAX_SHARDS:
        found = f"{len(listed)} tensors in {len(files)} files"
        raise BadFile(f"{shown} lists {found}, but no real model has more than {MAX_TENSORS} in {MAX_SHARDS}")
    for file in files:
        if not file.endswith(".safetensors"):
            raise Unsupported(
                f"{shown} names {printable(file)}, which is not safetensors; get the model in safetensors"
            )
    return listed


def _compare_with_index(folder: Path, listed: Mapping[str, str], shard_of: "Mapping[str, SafetensorsFile]") -> None:
    for name, file in listed.items():
        found = shard_of.get(name)
        if found is None or found.path.name != file:
            where = "in no file" if found is None else f"in {printable(found.path.name)}"
            raise BadFile(
                f"{printable(folder)}: the index puts {printable(name)} in {printable(file)}, but it is {where}; "
                f"{_COMPLETE}"
            )
    for name, shard in shard_of.items():
        if name not in listed:
            raise BadFile(
                f"{printable(folder)}: {printable(name)} is in {printable(shard.path.name)}, but not in the index; "
                f"{_COMPLETE}"
            )


def explain_missing_weights(folder: Path) -> BadFile | Unsupported:
    """The error for a folder without the weight files of a model: what is there instead, and what to do."""
    shown = printable(folder)
    names = sorted(path.name for path in folder.iterdir())
    shards = [name for name in names if _SHARD.fullmatch(name)]
    others = [name for name in names if name.endswith(".safetensors")]
    pickles = [name for name in names if _PICKLE.fullmatch(name)]
    if shards:
        return BadFile(f"{shown} has shards ({shards[0]} …) but no {INDEX}; {_COMPLETE}")
    if any(name.startswith("adapter_model.") for name in names):
        return Unsupported(f"{shown} is an adapter, not a whole model; merge it into its base model first")
    if others:
        return BadFile(f"{shown} has no {SINGLE} but {printable(others[0])}; rename it if it is the whole model")
    if pickles:
        return Unsupported(
            f"{shown} has its weights as a Python pickle ({printable(pickles[0])}), which smidgen never opens, because "
            f"it can run code; get the model in safetensors, or convert it with transformers: save_pretrained"
        )
    return BadFile(f"{shown} has {CONFIG} but no weights ({SINGLE}); {_COMPLETE}")
