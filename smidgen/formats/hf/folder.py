"""A model in Hugging Face layout: a folder with config.json, weights in safetensors (one file, or shards and an index
that says which tensor is in which), and the tokenizer's files.

The layout is what transformers' `save_pretrained` writes and `from_pretrained` reads:
https://huggingface.co/docs/transformers/main_classes/model#transformers.PreTrainedModel.save_pretrained

A folder may come from strangers, so nothing in it is believed: every name must stay inside it (links may point to the
blobs of the hub's own cache, from which it may be made), and weights in pickles are never opened. Which tensors there
are is what the weight files say; of the index only the names of the files count, as in transformers. Where it says
something else about a tensor, or a file is left aside, a note says so. Torch-free, and numpy is loaded only when
weights are opened.
"""

import hashlib
import os
import re
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from smidgen.closing import Closing
from smidgen.errors import BadFile, Unsupported, printable
from smidgen.formats.hf.json_text import read_json
from smidgen.model.templates import MOST_TEMPLATES

if TYPE_CHECKING:
    import numpy as np

    from smidgen.formats.hf.safetensors_reader import SafetensorsFile, StoredTensor

__all__ = ["HFFolder", "is_hf_folder", "member", "read_json"]

CONFIG, GENERATION_CONFIG = "config.json", "generation_config.json"
SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"
ADAPTER = "adapter_config.json"  # which transformers applies to the weights beside it, where peft is installed
TEMPLATE_FILE = "chat_template.jinja"
# What decides how text becomes tokens, in the order of the hash.
TOKENIZER_FILES = (
    "tokenizer.json", "tokenizer.model", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json",
    "vocab.json", "merges.txt", TEMPLATE_FILE, "chat_template.json",
)  # fmt: skip
TEMPLATES = "additional_chat_templates"  # a folder in it, of further chat templates by name
TEMPLATE_ENDING = ".jinja"

# Limits. The largest models have some hundred shards and some hundred thousand tensors (mixtures of experts).
CONFIG_BYTES = 2**20
INDEX_BYTES = 32 * 2**20
MAX_SHARDS = 512
MAX_TENSORS = 2**18

_PICKLE = re.compile(r".*\.(bin|pt|pth|ckpt|pkl|pickle)", re.IGNORECASE)
_SHARD = re.compile(r"model-(\d{1,6})-of-(\d{1,6})\.safetensors")
_COMPLETE = "download or copy the whole model again"


def is_hf_folder(path: str | os.PathLike[str]) -> bool:
    """Whether this is a folder with config.json and weights in safetensors. Opens no file."""
    folder = Path(path)
    if not (folder / CONFIG).is_file():
        return False
    return (folder / INDEX).is_file() or any(folder.glob("*.safetensors"))


def member(folder: Path, name: str) -> Path | None:
    """The file of this name in a model's folder (or in its folder of chat templates), or None where it does not exist.

    Raises BadFile for a name or a link that leaves the folder; links into the blobs of the hub's cache may.
    """
    shown = f"{printable(folder)}: {printable(name)}"
    plain = name.removeprefix(f"{TEMPLATES}/")
    if not is_plain(plain):
        raise BadFile(f"{shown} is not a plain file name; get the model from a source that you trust")
    path = folder / name
    try:
        home, target = folder.resolve(), path.resolve()
        expected = home if plain == name else home / TEMPLATES
        if not target.exists():
            if path.is_symlink():
                raise BadFile(f"{shown} is a link to a file that does not exist; {_COMPLETE}")
            return None
    except (OSError, RuntimeError, ValueError) as error:
        raise BadFile(f"{shown} cannot be found ({printable(error)}); check the path and its permissions") from error
    if target.parent != expected and not _is_hub_blob(target, home):
        raise BadFile(f"{shown} is a link out of the model's folder; copy the file itself into the folder")
    if not target.is_file():
        raise BadFile(f"{shown} is not a regular file; {_COMPLETE}")
    return path


def is_plain(name: str) -> bool:
    """Whether a name can be that of a file in the folder where it is used, on every system."""
    return bool(name) and name not in (".", "..") and name.isprintable() and not set(name) & {"/", "\\", ":"}


def is_template(name: str) -> bool:
    """Whether this is, in a model's folder, the path of a further chat template."""
    inside, _, plain = name.rpartition("/")
    return inside == TEMPLATES and is_plain(plain) and plain.endswith(TEMPLATE_ENDING)


def template_files(folder: Path) -> list[str]:
    """The names, for `member`, of the files with further chat templates, in order."""
    found = [f"{TEMPLATES}/{path.name}" for path in (folder / TEMPLATES).glob(f"*{TEMPLATE_ENDING}")]
    if len(found) > MOST_TEMPLATES:
        raise BadFile(
            f"{printable(folder / TEMPLATES)} has {len(found)} chat templates, more than {MOST_TEMPLATES}; {_COMPLETE}"
        )
    return sorted(found)


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
    notes: a line for each thing in which the files differ from what a saver writes, and how it was read.
    """

    path: Path
    config: dict[str, Any]
    generation_config: dict[str, Any]
    weights: "dict[str, StoredTensor]"
    nbytes: int
    notes: tuple[str, ...]
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
            files = _weight_files(folder)
            aside = (
                [f"the adapter beside the weights ({ADAPTER}) is not applied"] if (folder / ADAPTER).is_file() else []
            )
            shards = _open_shards(folder, files.names, opened)
            shard_of, notes = _places(folder, shards)
            notes += _differences(files.listed, shard_of)
            weights = {name: shard.tensors[name] for name, shard in shard_of.items()}
            generation_config = _object(folder, GENERATION_CONFIG) or {}
            opened.pop_all()
        nbytes = sum(shard.size for shard in shards)
        return cls(folder, config, generation_config, weights, nbytes, (*files.notes, *notes, *aside), shards, shard_of)

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
        names += template_files(self.path)
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


@dataclass(frozen=True)
class _WeightFiles:
    """Which files of a folder hold the weights.

    names: of the files, in order.  listed: what the index says, the file of each tensor; empty where none was read.
    notes: what was left aside.
    """

    names: list[str]
    listed: Mapping[str, str]
    notes: list[str]


def _weight_files(folder: Path) -> _WeightFiles:
    """The weight files: `model.safetensors`; else those that the index names; else shards that are all there.

    With both of the former the single file counts, as in transformers. The index's `total_size` is not compared with
    anything: many published ones are wrong, and nothing is made from it.
    """
    shards = sorted(path.name for path in folder.iterdir() if _SHARD.fullmatch(path.name))
    if member(folder, SINGLE) is not None:
        others = [name for name in (INDEX,) if (folder / name).is_file()] + shards
        notes = [f"the weights are read from {SINGLE}; left aside: {_some(others)}"] if others else []
        return _WeightFiles([SINGLE], {}, notes)
    index = _object(folder, INDEX, INDEX_BYTES)
    if index is not None:
        listed = _weight_map(folder, index)
        names = sorted(set(listed.values()))
        others = [name for name in shards if name not in names]
        notes = [f"left aside, since {INDEX} does not name it: {_some(others)}"] if others else []
        return _WeightFiles(names, listed, notes)
    if shards and _complete(folder, shards):
        return _WeightFiles(shards, {}, [f"there is no {INDEX}; the weights are read from {_some(shards)}"])
    raise explain_missing_weights(folder)


def _some(names: Sequence[str]) -> str:
    return ", ".join(map(printable, names[:2])) + (" …" if len(names) > 2 else "")


def _complete(folder: Path, shards: Sequence[str]) -> bool:
    """Whether these shards are those that their names count, 1 to N of N. Raises BadFile where some are missing."""
    matches = [match for name in shards if (match := _SHARD.fullmatch(name))]
    numbers, totals = sorted(int(match[1]) for match in matches), {int(match[2]) for match in matches}
    if len(shards) > MAX_SHARDS:
        raise BadFile(f"{printable(folder)} has {len(shards)} shards, but no real model has more than {MAX_SHARDS}")
    if len(totals) == 1 and numbers == list(range(1, totals.copy().pop() + 1)):
        return True
    found = f"{len(shards)} of {max(totals)}" if len(totals) == 1 else f"shards of {len(totals)} models"
    raise BadFile(f"{printable(folder)} has no {INDEX}, and {found} ({shards[0]} …) is not a model; {_COMPLETE}")


def _open_shards(folder: Path, names: Sequence[str], opened: ExitStack) -> "list[SafetensorsFile]":
    """These weight files, mapped."""
    from smidgen.formats.hf.safetensors_reader import SafetensorsFile

    paths = [member(folder, name) for name in names]
    missing = [name for name, path in zip(names, paths, strict=True) if path is None]
    if missing:
        some = ", ".join(map(printable, missing[:3]))
        raise BadFile(
            f"{printable(folder)} lacks {len(missing)} of its {len(names)} weight files ({some}); {_COMPLETE}"
        )
    return [opened.enter_context(SafetensorsFile.open(path)) for path in paths if path is not None]


def _places(folder: Path, shards: "Sequence[SafetensorsFile]") -> "tuple[dict[str, SafetensorsFile], list[str]]":
    """The file of each tensor, and notes. Of a tensor in several files the last one counts, as in transformers."""
    shard_of: dict[str, SafetensorsFile] = {}
    twice: dict[str, str] = {}
    for shard in shards:
        for name in shard.tensors:
            if name in shard_of:
                twice[name] = f"{printable(name)} is in {shard_of[name].path.name} and in {shard.path.name}"
            shard_of[name] = shard
        if len(shard_of) > MAX_TENSORS:
            raise BadFile(f"{printable(folder)} has more than {MAX_TENSORS} tensors, which no real model has")
    if not shard_of:
        raise BadFile(f"{printable(folder)}: the weight files hold no tensors; {_COMPLETE}")
    return shard_of, _first_of(list(twice.values()), "the last one is used")


def _weight_map(folder: Path, index: Mapping[str, Any]) -> dict[str, str]:
    """What the index says: the file of each tensor."""
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


def _differences(listed: Mapping[str, str], shard_of: "Mapping[str, SafetensorsFile]") -> list[str]:
    """Notes on an index that says something else than the files; what a model lacks is found out later."""
    if not listed:
        return []
    absent = [f"the index names {printable(name)}, which is in no file" for name in listed if name not in shard_of]
    moved = [
        f"the index puts {printable(name)} in {printable(file)}, but it is in {shard_of[name].path.name}"
        for name, file in listed.items()
        if name in shard_of and shard_of[name].path.name != file
    ]
    unnamed = [
        f"{printable(name)} is in {shard.path.name}, but not in the index"
        for name, shard in shard_of.items()
        if name not in listed
    ]
    return _first_of(absent, "passed over") + _first_of(moved, "read from there") + _first_of(unnamed, "read")


def _first_of(lines: Sequence[str], done: str) -> list[str]:
    """One note for many things of a kind: the first of them, how many more, and what was done."""
    if not lines:
        return []
    more = f" (and {len(lines) - 1} more like it)" if len(lines) > 1 else ""
    return [f"{lines[0]}{more}; {done}"]


def explain_missing_weights(folder: Path) -> BadFile | Unsupported:
    """The error for a folder without the weight files of a model: what is there instead, and what to do."""
    shown = printable(folder)
    names = sorted(path.name for path in folder.iterdir())
    others = [name for name in names if name.endswith(".safetensors")]
    pickles = [name for name in names if _PICKLE.fullmatch(name)]
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
