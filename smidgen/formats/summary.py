"""What is in a GGUF file, as plain facts: read from the header alone, torch-free.

Source of the keys and tensor names: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
"""

import math
import os
from collections import defaultdict
from dataclasses import dataclass, field
from typing import Any

from smidgen.errors import printable
from smidgen.formats.catalogue import companions_folder, entry_of, licence_files, locate
from smidgen.formats.gguf_reader import GGUFFile, TensorInfo
from smidgen.formats.notices import stated_licence

_TOKENIZERS = {"llama": "SentencePiece-like", "gpt2": "byte-level BPE", "bert": "WordPiece", "t5": "unigram"}


@dataclass
class Share:
    """Parameters and bytes of some of the tensors."""

    parameters: int = 0
    bytes: int = 0
    tensors: int = 0

    def add(self, tensor: TensorInfo) -> None:
        """Count one more tensor in."""
        self.parameters += math.prod(tensor.shape)
        self.bytes += tensor.nbytes
        self.tensors += 1


@dataclass
class Summary:
    """What a file says of itself. Facts that it does not state are None.

    bits_per_weight: counts the whole file, header included.  heads, kv_heads: of the first layer.
    parts, types: shares by role of the tensor and by how its weights are stored.
    tied_head: the embedding is the output head too.
    """

    path: str
    bytes: int
    gguf_version: int
    architecture: str
    name: str | None
    licence: str | None
    licence_files: list[str]
    parameters: int
    bits_per_weight: float | None
    context_length: int | None
    layers: int | None
    hidden: int | None
    heads: int | None
    kv_heads: int | None
    vocabulary: int | None
    tied_head: bool
    tokenizer: str | None
    adds_bos: bool | None
    chat_template: bool
    parts: dict[str, Share] = field(default_factory=dict)
    types: dict[str, Share] = field(default_factory=dict)


def summarise(model: str | os.PathLike[str]) -> Summary:
    """Read the header of a model (catalogue name, .gguf file, or folder that `cut` wrote).

    Raises SmidgenError if there is no such model, BadFile or Unsupported if it cannot be read.
    """
    path = locate(model)
    with GGUFFile.open(path) as file:
        return _describe(file, model)


def _describe(file: GGUFFile, model: str | os.PathLike[str]) -> Summary:
    metadata = file.metadata
    architecture = str(metadata.get("general.architecture", "unknown"))
    parts, types = _shares(file)
    parameters = sum(share.parameters for share in parts.values())
    tokens = metadata.get("tokenizer.ggml.tokens")
    adds_bos = metadata.get("tokenizer.ggml.add_bos_token")
    return Summary(
        path=str(file.path),
        bytes=file.size,
        gguf_version=file.version,
        architecture=printable(architecture),
        name=_text(metadata.get("general.name")),
        licence=_licence(file, model),
        licence_files=[str(path) for path in licence_files(model)],
        parameters=parameters,
        bits_per_weight=8 * file.size / parameters if parameters else None,
        context_length=_number(metadata.get(f"{architecture}.context_length")),
        layers=_number(metadata.get(f"{architecture}.block_count")),
        hidden=_number(metadata.get(f"{architecture}.embedding_length")),
        heads=_number(metadata.get(f"{architecture}.attention.head_count")),
        kv_heads=_number(metadata.get(f"{architecture}.attention.head_count_kv")),
        vocabulary=len(tokens) if isinstance(tokens, list) else None,
        tied_head="output.weight" not in file.tensors,
        tokenizer=_tokenizer(file),
        adds_bos=adds_bos if isinstance(adds_bos, bool) else None,
        chat_template=bool(metadata.get("tokenizer.chat_template")),
        parts=parts,
        types=types,
    )


def _shares(file: GGUFFile) -> tuple[dict[str, Share], dict[str, Share]]:
    """Shares by part and by type, the largest first."""
    parts: defaultdict[str, Share] = defaultdict(Share)
    types: defaultdict[str, Share] = defaultdict(Share)
    for tensor in file.tensors.values():
        parts[part_of(tensor.name)].add(tensor)
        types[tensor.kind.name].add(tensor)
    return _largest_first(parts), _largest_first(types)


def part_of(tensor_name: str) -> str:
    """The role of a tensor, from its GGUF name."""
    inner = tensor_name.removeprefix("blk.").partition(".")[2] if tensor_name.startswith("blk.") else tensor_name
    if "norm" in inner:
        return "norms"
    if inner.startswith("attn_"):
        return "attention"
    if inner.startswith("ffn_"):
        return "feed-forward"
    return {"token_embd.weight": "embedding", "output.weight": "head"}.get(inner, "other")


def _largest_first(shares: dict[str, Share]) -> dict[str, Share]:
    return dict(sorted(shares.items(), key=lambda item: -item[1].bytes))


def _licence(file: GGUFFile, model: str | os.PathLike[str]) -> str | None:
    entry = entry_of(model)
    return entry.licence if entry is not None else str(stated_licence(file.metadata, companions_folder(model))) or None


def _tokenizer(file: GGUFFile) -> str | None:
    kind = _text(file.metadata.get("tokenizer.ggml.model"))
    before = _text(file.metadata.get("tokenizer.ggml.pre"))
    if kind is None:
        return None
    return _TOKENIZERS.get(kind, kind) + (f", {before}" if before and before != "default" else "")


def _text(value: Any) -> str | None:
    """A text of the file, safe to show on a terminal."""
    return printable(value) if isinstance(value, str) and value else None


def _number(value: Any) -> int | None:
    """A number; of a list with one for each layer, the first."""
    if hasattr(value, "__len__") and not isinstance(value, str):
        value = value[0] if len(value) else None
    return int(value) if isinstance(value, (int, float)) or hasattr(value, "item") else None
