"""Writes a model as a folder in Hugging Face layout that transformers, vLLM and others load.

config.json, safetensors (in shards with an index beyond one), the tokenizer's files and generation_config.json. Weights
are decoded and written a piece at a time, so a model need not fit in memory.
"""

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from math import prod
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from smidgen.atomic import making_folder, refuse_full_disk, replacing, write_whole
from smidgen.errors import SmidgenError, Unsupported
from smidgen.formats.checkpoint import Checkpoint
from smidgen.formats.hf.checkpoint import FolderCheckpoint
from smidgen.formats.hf.folder import CONFIG, GENERATION_CONFIG, INDEX, SINGLE, TOKENIZER_FILES, member, template_files
from smidgen.formats.hf.safetensors_writer import Stored, write_safetensors
from smidgen.formats.hf.tokenizer import write_tokenizer
from smidgen.model.families import Layout
from smidgen.model.tokenizers.vocabulary import Vocabulary
from smidgen.progress import Task, track

DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
_STORED = {"F32": "float32", "F16": "float16", "BF16": "bfloat16"}
_TOKEN_IDS = ("bos_token_id", "eos_token_id", "pad_token_id")
_SHARD_BYTES = 5 * 10**9  # as transformers' save_pretrained


#: What is stored in place of a tensor: itself, or the tensors of some format.
Packing = Callable[[Stored], list[Stored]]


@dataclass(frozen=True)
class _Shard:
    file: str
    tensors: list[Stored]


def default_dtype(checkpoint: Checkpoint) -> str:
    """The dtype most weights have already; float16 for weights that are quantized (their scales are float16)."""
    largest = max((name for name in checkpoint.names()), key=lambda name: prod(checkpoint.shape(name)))
    return _STORED.get(checkpoint.kind(largest).name, "float16")


def hf_layout(checkpoint: Checkpoint) -> Layout:
    """Where each parameter lies in the folder that `write_hf` writes."""
    return Layout(checkpoint.config, checkpoint.family.hf_map(checkpoint.config).names)


def write_hf(
    checkpoint: Checkpoint,
    folder: Path,
    dtype: str | None = None,
    packing: Packing = lambda dense: [dense],
    more_settings: Mapping[str, Any] | None = None,
) -> None:
    """Write the whole folder; it must not exist or be empty. If that fails, nothing of it is left.

    dtype: of the weights, a key of `DTYPES`; None for `default_dtype`.  packing: how weights are stored, if not
    plainly.  more_settings: what config.json says about that.
    Raises Unsupported for a model that transformers has no class for, SmidgenError where it cannot be written.
    """
    name = dtype or default_dtype(checkpoint)
    if name not in DTYPES:
        raise SmidgenError(f"{name!r} is no dtype for weights. Choose from {', '.join(DTYPES)}.")
    settings = checkpoint.family.to_hf(checkpoint.config) | token_ids(checkpoint) | {"torch_dtype": name}
    settings |= more_settings or {}
    with making_folder(folder):
        write_tokenizer_files(checkpoint, folder)  # first, since it may be refused
        if member(folder, GENERATION_CONFIG) is None:
            ids = {key: settings[key] for key in _TOKEN_IDS if settings[key] is not None}
            _write_json(folder / GENERATION_CONFIG, ids)
        _write_weights(checkpoint, folder, DTYPES[name], packing)
        _write_json(folder / CONFIG, settings)  # last: with it, the folder is a model


def token_ids(checkpoint: Checkpoint) -> dict[str, Any]:
    """The ids that config.json states; null where there is none, since the classes have defaults of their own."""
    vocabulary = Vocabulary.from_gguf(checkpoint.tokenizer_metadata)
    begin, padding = vocabulary.roles.get("bos_token"), vocabulary.roles.get("pad_token")
    return dict(zip(_TOKEN_IDS, (begin, sorted(vocabulary.end_ids) or None, padding), strict=True))


def write_tokenizer_files(checkpoint: Checkpoint, folder: Path) -> None:
    """The folder's own files where the model came from one, else new ones from the metadata."""
    if not isinstance(checkpoint, FolderCheckpoint):
        write_tokenizer(folder, checkpoint.tokenizer_metadata)
        return
    for name in (*TOKENIZER_FILES, *template_files(checkpoint.path), GENERATION_CONFIG):
        if (source := member(checkpoint.path, name)) is not None:
            data = source.read_bytes()
            (folder / name).parent.mkdir(exist_ok=True)
            with replacing(folder / name, len(data)) as file:
                file.write(data)


def _write_json(path: Path, value: Any) -> None:
    write_whole(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def _write_weights(checkpoint: Checkpoint, folder: Path, dtype: torch.dtype, packing: Packing) -> None:
    tensors = [stored for dense in _dense(checkpoint, dtype) for stored in packing(dense)]
    total = sum(stored.nbytes for stored in tensors)
    refuse_full_disk(folder / SINGLE, total)
    shards = list(_shards(tensors))
    with track("Writing weights", total, in_bytes=True) as task:
        for shard in shards:
            _write_shard(checkpoint, shard, folder, task)
    if len(shards) > 1:
        where = {stored.name: shard.file for shard in shards for stored in shard.tensors}
        _write_json(folder / INDEX, {"metadata": {"total_size": total}, "weight_map": where})


def _dense(checkpoint: Checkpoint, dtype: torch.dtype) -> Iterator[Stored]:
    """The folder's tensors, each weight stored as a number of its own."""
    layout = hf_layout(checkpoint)
    for tensor, shape in layout.shapes.items():
        yield Stored(tensor, dtype, shape, partial(_members, checkpoint, layout.members[tensor], dtype))


def _members(checkpoint: Checkpoint, names: list[str], dtype: torch.dtype) -> Iterator[Tensor]:
    """The parameters of one tensor, one after the other, as the folder holds them."""
    written = checkpoint.family.hf_map(checkpoint.config)
    for name in names:
        offset = checkpoint.family.hf_transform(name, written).offset
        for values in checkpoint.pieces(name):
            stored = (values - offset if offset else values).to(dtype)
            if not torch.isfinite(stored).all():
                raise Unsupported(
                    f"{name} has values that {dtype} cannot hold; choose another --dtype".replace("torch.", "")
                )
            yield stored


def _shards(tensors: list[Stored]) -> Iterator[_Shard]:
    """The tensors in order, cut where a file would grow beyond the limit."""
    groups: list[list[Stored]] = [[]]
    filled = 0
    for stored in tensors:
        if groups[-1] and filled + stored.nbytes > _SHARD_BYTES:
            groups.append([])
            filled = 0
        groups[-1].append(stored)
        filled += stored.nbytes
    for number, group in enumerate(groups, 1):
        file = SINGLE if len(groups) == 1 else f"model-{number:05}-of-{len(groups):05}.safetensors"
        yield _Shard(file, group)


def _write_shard(checkpoint: Checkpoint, shard: _Shard, folder: Path, task: Task) -> None:
    def written(nbytes: int) -> None:
        checkpoint.release()
        task.advance(nbytes)

    write_safetensors(folder / shard.file, shard.tensors, {"format": "pt"}, written)
