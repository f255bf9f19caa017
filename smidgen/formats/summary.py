"""What is in a model's files, as plain facts: read from headers and settings alone, torch-free.

Source of the keys and tensor names: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
"""

import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from smidgen.errors import Unsupported, printable
from smidgen.formats.folder_facts import folder_facts, role_of
from smidgen.formats.gguf.contents import describe, refuse_damaged
from smidgen.formats.gguf.kept import kept_of
from smidgen.formats.gguf.reader import GGUFFile, TensorInfo
from smidgen.formats.hf.contents import FolderContents, describe_folder
from smidgen.formats.hf.folder import HFFolder, is_hf_folder
from smidgen.formats.hf.safetensors_reader import StoredTensor
from smidgen.formats.hf.tokenizer.kind import NEAR, tokenizer_kind
from smidgen.formats.hf.tokenizer.settings import templates_in
from smidgen.formats.history import history
from smidgen.formats.hub.catalogue import ModelName, origin_of
from smidgen.formats.hub.origin import Origin
from smidgen.model.chat import chat_templates
from smidgen.model.config import ModelConfig
from smidgen.model.kept import KV_TYPES, KeptLayer, bytes_per_token, keeping_of
from smidgen.model.tokenizers.padding import padding_of
from smidgen.model.tokenizers.splitting import llama_cpp_splits_otherwise

_TOKENIZERS = {"llama": "SentencePiece-like", "gpt2": "byte-level BPE", "bert": "WordPiece", "t5": "unigram"}


@dataclass
class Share:
    """Parameters and bytes of some of the tensors."""

    parameters: int = 0
    bytes: int = 0
    tensors: int = 0

    def add(self, tensor: TensorInfo | StoredTensor) -> None:
        """Count one more tensor in."""
        self.parameters += math.prod(tensor.shape)
        self.bytes += tensor.nbytes
        self.tensors += 1


@dataclass
class Summary:
    """What files say of themselves. Facts that they do not state are None.

    format: "GGUF 3", or "Hugging Face layout".  files: of a GGUF that is split, how many parts.
    family: whose maps smidgen uses; None where it cannot use the model.
    cannot_cut: why cut, measure, export, distill and tune refuse it.  cannot_run: why run, chat, serve and bench do.
    quantization: how a folder's weights are packed, where another program did that.
    parameters: None where they are packed in a way that hides how many there are.
    bits_per_weight: counts the whole file, header included.  heads, kv_heads: of the first layer.
    window: positions that layers with a window see.  windowed: for each layer, whether it has it.
    experts, experts_used: of each layer's mixture, None where there is none.
    vocabulary: rows of the embedding.  padding: those of them that no text becomes; None where that is not looked for.
    parts, types: shares by role of the tensor and by how its weights are stored.
    history: what smidgen did to it, a line for each step.
    tied_head: the embedding is the output head too.  stored_twice: bytes that a file has too many where its head is the
    embedding all the same, as far as some rows tell; None where it is not, or where nobody looked.
    kept_bytes_per_token: of keys and values in all layers, by type; None where that is not known.
    chat_templates: the names of its chat templates; "default" is the one that is used where none is named.
    """

    path: str
    bytes: int
    format: str
    files: int
    architecture: str
    family: str | None
    cannot_cut: str | None
    cannot_run: str | None
    quantization: str | None
    name: str | None
    licence: str | None
    licence_files: list[str]
    parameters: int | None
    bits_per_weight: float | None
    context_length: int | None
    layers: int | None
    hidden: int | None
    heads: int | None
    kv_heads: int | None
    window: int | None
    windowed: list[bool] | None
    experts: int | None
    experts_used: int | None
    vocabulary: int | None
    padding: int | None
    tied_head: bool
    tokenizer: str | None
    adds_bos: bool | None
    chat_template: bool
    chat_templates: list[str]
    parts: dict[str, Share] = field(default_factory=dict)
    types: dict[str, Share] = field(default_factory=dict)
    history: list[str] = field(default_factory=list)
    stored_twice: int | None = None
    kept_bytes_per_token: dict[str, int] | None = None


def summarise(model: ModelName) -> Summary:
    """Read the headers of a model (as `catalogue.locate` takes it).

    What smidgen cannot use is described all the same, with the reason. Raises SmidgenError if there is no such model,
    BadFile if it is damaged, Unsupported if it is in no format whose headers smidgen reads.
    """
    origin = origin_of(model)
    if is_hf_folder(origin.path):
        with HFFolder.open(origin.path) as folder:
            try:
                contents = describe_folder(folder)
            except Unsupported as error:
                return _of_unsupported_folder(folder, _reason(error, folder.path), origin)
            return _of_folder(folder, contents, origin)
    with GGUFFile.open(origin.path) as file:
        return _of_file(file, origin)


def _of_file(file: GGUFFile, origin: Origin) -> Summary:
    metadata = file.metadata
    architecture = str(metadata.get("general.architecture", "unknown"))
    parts, types = _shares((part_of(tensor.name), tensor) for tensor in file.tensors.values())
    parameters = sum(share.parameters for share in parts.values())
    tokens = metadata.get("tokenizer.ggml.tokens")
    adds_bos = metadata.get("tokenizer.ggml.add_bos_token")
    cannot_run = _why_not(refuse_damaged, file)
    cannot_cut = cannot_run or _why_not(describe, file)
    family, config = (None, None) if cannot_cut is not None else describe(file)
    return Summary(
        path=str(file.path),
        bytes=file.size,
        format=f"GGUF {file.version}",
        files=len(file.paths),
        architecture=printable(architecture),
        family=None if family is None else family.name,
        cannot_cut=cannot_cut,
        cannot_run=cannot_run,
        quantization=None,
        name=_text(metadata.get("general.name")),
        licence=_licence(file.metadata, origin),
        licence_files=[str(path) for path in origin.notices],
        parameters=parameters,
        bits_per_weight=8 * file.size / parameters if parameters else None,
        context_length=_number(metadata.get(f"{architecture}.context_length")),
        layers=_number(metadata.get(f"{architecture}.block_count")),
        hidden=_number(metadata.get(f"{architecture}.embedding_length")),
        heads=_number(metadata.get(f"{architecture}.attention.head_count")),
        kv_heads=_number(metadata.get(f"{architecture}.attention.head_count_kv")),
        **_pattern(config),
        vocabulary=len(tokens) if isinstance(tokens, list) else None,
        padding=len(padding_of(metadata)) if isinstance(tokens, list) else None,
        tied_head="output.weight" not in file.tensors,
        tokenizer=_tokenizer(file),
        adds_bos=adds_bos if isinstance(adds_bos, bool) else None,
        **_templates(chat_templates(metadata)),
        parts=parts,
        types=types,
        history=[_in_words(step) for step in history(metadata)],
        kept_bytes_per_token=None if cannot_run is not None else _kept(kept_of(file)),
    )


def _why_not(check: Callable[[GGUFFile], object], file: GGUFFile) -> str | None:
    """Why a file that is sound is not supported; None where it is. BadFile passes through."""
    try:
        check(file)
    except Unsupported as error:
        return _reason(error, file.path)
    return None


def _reason(error: Unsupported, path: Path) -> str:
    """An error without the name of the file, which stands above it."""
    return str(error).removeprefix(f"{printable(path)}: ")


def _in_words(step: Mapping[str, Any]) -> str:
    """A step of a history, safe to show on a terminal."""
    return printable(step.get("summary", step.get("step", "?")), 300)


def _of_folder(folder: HFFolder, contents: FolderContents, origin: Origin) -> Summary:
    config, first = contents.config, contents.config.layers[0]
    roles = {tensor: canonical_part(members[0]) for tensor, members in contents.layout.members.items()}
    parts, types = _shares((roles[name], folder.weights[there]) for name, there in contents.stored.items())
    parameters = sum(share.parameters for share in parts.values())
    return Summary(
        path=str(folder.path),
        bytes=folder.nbytes,
        format="Hugging Face layout",
        files=1,
        architecture=contents.written.model_type,
        family=contents.family.name,
        cannot_cut=None,
        cannot_run=None,
        quantization=None,
        name=_text(folder.config.get("_name_or_path")),
        licence=_licence({}, origin),
        licence_files=[str(path) for path in origin.notices],
        parameters=parameters,
        bits_per_weight=8 * folder.nbytes / parameters if parameters else None,
        context_length=config.context_length,
        layers=len(config.layers),
        hidden=config.hidden,
        heads=first.heads,
        kv_heads=first.kv_heads,
        **_pattern(config),
        vocabulary=config.vocabulary,
        padding=None,  # to count it takes as long as to read the whole tokenizer
        tied_head=config.tied_head,
        tokenizer=tokenizer_kind(folder.path),
        adds_bos=None,
        **_templates(templates_in(folder.path)),
        parts=parts,
        types=types,
        kept_bytes_per_token=_kept(keeping_of(config)),
    )


def _of_unsupported_folder(folder: HFFolder, reason: str, origin: Origin) -> Summary:
    """What is known without knowing what the settings mean. Nothing runs it: llama.cpp would need our conversion."""
    facts = folder_facts(folder)
    parts, types = _shares((role_of(name), tensor) for name, tensor in folder.weights.items())
    parameters = None if facts.packed else sum(share.parameters for share in parts.values())
    return Summary(
        path=str(folder.path),
        bytes=folder.nbytes,
        format="Hugging Face layout",
        files=1,
        architecture=facts.architecture,
        family=None,
        cannot_cut=reason,
        cannot_run=reason,
        quantization=facts.quantization,
        name=_text(folder.config.get("_name_or_path")),
        licence=_licence({}, origin),
        licence_files=[str(path) for path in origin.notices],
        parameters=parameters,
        bits_per_weight=8 * folder.nbytes / parameters if parameters else None,
        windowed=None,
        padding=None,
        tied_head="head" not in parts,
        tokenizer=tokenizer_kind(folder.path),
        adds_bos=None,
        **_templates(templates_in(folder.path)),
        parts=parts,
        types=types,
        **facts.numbers,
    )


def _kept(layers: Sequence[KeptLayer]) -> dict[str, int] | None:
    """Bytes of a token by type, of the types that the heads fit; None where a model keeps nothing."""
    widths = {width for layer in layers for width in (layer.keys, layer.values)}
    if not any(layer.heads for layer in layers):
        return None
    return {kv: bytes_per_token(layers, kv) for kv, kind in KV_TYPES.items() if all(map(kind.fits, widths))}


def _templates(found: Mapping[str, str]) -> dict[str, Any]:
    """The facts about chat templates."""
    return {"chat_template": bool(found), "chat_templates": [printable(name, 64) for name in found]}


def _pattern(config: ModelConfig | None) -> dict[str, Any]:
    """The facts about windows and experts."""
    if config is None:
        return {"window": None, "windowed": None, "experts": None, "experts_used": None}
    windowed = [layer.window is not None for layer in config.layers]
    window = next((layer.window for layer in config.layers if layer.window is not None), None)
    first = config.layers[0]
    return {
        "window": window,
        "windowed": windowed,
        "experts": first.experts or None,
        "experts_used": first.experts_used or None,
    }


def _shares(tensors: Iterable[tuple[str, TensorInfo | StoredTensor]]) -> tuple[dict[str, Share], dict[str, Share]]:
    """Shares by part and by type, the largest first."""
    parts: defaultdict[str, Share] = defaultdict(Share)
    types: defaultdict[str, Share] = defaultdict(Share)
    for part, tensor in tensors:
        parts[part].add(tensor)
        types[tensor.kind.name].add(tensor)
    return _largest_first(parts), _largest_first(types)


#: Modules whose own names would not say it → what people call them. The first is looked up, a row for each token.
_ROLES = {"layer_embedding": "layer tables", "layer_projection": "layer inputs", "layer_input": "layer inputs"}
_ROLES |= {"streams_in": "streams", "streams_out": "streams", "low_rank": "low rank", "output_scale": "scales"}
_GGUF_ROLES = {"token_embd.": "embedding", "output.": "head", "per_layer_token_embd.": "layer tables"}
_GGUF_ROLES |= {"per_layer_model_proj.": "layer inputs", "inp_gate.": "layer inputs", "proj.": "layer inputs"}
_GGUF_ROLES |= {"altup_": "streams", "laurel_": "low rank", "layer_output_scale.": "scales"}


def part_of(tensor_name: str) -> str:
    """The role of a tensor, from its GGUF name."""
    inner = tensor_name.removeprefix("blk.").partition(".")[2] if tensor_name.startswith("blk.") else tensor_name
    if "norm" in inner:
        return "norms"
    if inner.startswith("attn_"):
        return "attention"
    if inner.startswith("ffn_"):
        return "experts" if "_exps" in inner or inner.startswith("ffn_gate_inp") else "feed-forward"
    return next((role for name, role in _GGUF_ROLES.items() if inner.startswith(name)), "other")


def canonical_part(name: str) -> str:
    """The role of a parameter, from its canonical name."""
    if "norm" in name:
        return "norms"
    inner = name.split(".", 2)[2] if name.startswith("blocks.") else name
    module = inner.split(".")[0]
    return _ROLES.get(module, module.replace("_", "-"))


def _largest_first(shares: dict[str, Share]) -> dict[str, Share]:
    return dict(sorted(shares.items(), key=lambda item: -item[1].bytes))


def _licence(metadata: Mapping[str, Any], origin: Origin) -> str | None:
    return origin.licence or str(origin.stated_licence(metadata)) or None


def _tokenizer(file: GGUFFile) -> str | None:
    kind = _text(file.metadata.get("tokenizer.ggml.model"))
    before = _text(file.metadata.get("tokenizer.ggml.pre"))
    if kind is None:
        return None
    named = f", {before}" if before and before != "default" else ""
    near = f" ({NEAR})" if llama_cpp_splits_otherwise(file.metadata) else ""
    return _TOKENIZERS.get(kind, kind) + named + near


def _text(value: Any) -> str | None:
    """A text of the file, safe to show on a terminal."""
    return printable(value) if isinstance(value, str) and value else None


def _number(value: Any) -> int | None:
    """A whole number; of a list with one for each layer, the first. None for anything else."""
    if isinstance(value, np.ndarray):
        value = value[0].item() if len(value) else None
    return value if isinstance(value, int) and not isinstance(value, bool) else None
