"""LoRA adapters on disk: in PEFT's layout, for Hugging Face's tools and vLLM, and as GGUF, for llama.cpp.

PEFT's folder holds `adapter_config.json` and `adapter_model.safetensors` with `base_model.model.MODULE.lora_A.weight`
[rank in] and `….lora_B.weight` [out rank], where MODULE is transformers' name of the layer.
https://huggingface.co/docs/peft/developer_guides/checkpoint

Some files stack several of our layers in one tensor (Phi-3's queries, keys and values). Their adapters stand side by
side: A₁ over A₂, and B as a block-diagonal matrix, so the tensor's adapter has the sum of their ranks and does the
same.

Adapters of the embedding are for lookups alone in PEFT, and for lookups and head in other tools where these are one
matrix: they are refused, as is a head's where it is the embedding.

Adapters come from strangers: names, shapes and numbers are compared with the model before anything is used, and pickled
ones are refused.
"""

import json
import math
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save
from torch import Tensor

from smidgen.atomic import replacing, write_whole
from smidgen.errors import BadFile, Unsupported, printable
from smidgen.formats.checkpoint import Checkpoint
from smidgen.formats.gguf.adapter import LARGEST_RANK, GGUFPair, check_gguf_adapter, write_gguf_adapter
from smidgen.formats.gguf.reader import GGUFFile
from smidgen.formats.hf.safetensors_reader import F64, SafetensorsFile, narrowed
from smidgen.formats.hf.writer import hf_layout
from smidgen.formats.peft_settings import peft_scaling
from smidgen.model.families import Layout
from smidgen.numerics.block_types import F32, BlockType
from smidgen.numerics.decode import decode
from smidgen.shapes import Float

WEIGHTS, CONFIG = "adapter_model.safetensors", "adapter_config.json"
_PREFIX = "base_model.model."
_A, _B = ".lora_A.weight", ".lora_B.weight"
_OF_EMBEDDINGS = ".lora_embedding_A", ".lora_embedding_B"
_BASE = ".base_layer.weight"  # PEFT keeps a head beside its adapter, as it was


@dataclass(frozen=True)
class Pair:
    """The two thin matrices of one weight, rows in the model's order."""

    a: Float[Tensor, "rank cols"]
    b: Float[Tensor, "rows rank"]

    @property
    def rank(self) -> int:
        """Rows of a, columns of b."""
        return self.a.shape[0]


@dataclass(frozen=True)
class Adapter:
    """pairs: by canonical name of the weight W, which becomes W + scale · B·A."""

    pairs: Mapping[str, Pair]
    scale: float


# -- writing ---------------------------------------------------------------------------------------------------------


def write_peft(adapter: Adapter, checkpoint: Checkpoint, folder: Path, base: str | None, dropout: float = 0.0) -> None:
    """Write `adapter_model.safetensors` and `adapter_config.json` for the model of `checkpoint` in transformers.

    base: its repository on the hub, where that is known: PEFT loads what is named there.
    dropout: that it was trained with.
    Raises Unsupported for a model that transformers has no class for.
    """
    layout = hf_layout(checkpoint)
    stacked = {tensor.removesuffix(".weight"): pair for tensor, pair in _stacked(adapter, layout).items()}
    tensors = {}
    for module, pair in stacked.items():
        tensors[f"{_PREFIX}{module}{_A}"], tensors[f"{_PREFIX}{module}{_B}"] = pair.a, pair.b
    data = save(tensors, {"format": "pt"})
    with replacing(folder / WEIGHTS, len(data)) as file:
        file.write(data)
    settings = _peft_settings(stacked, layout, adapter.scale) | {
        "base_model_name_or_path": base,
        "lora_dropout": dropout,
    }
    write_whole(folder / CONFIG, json.dumps(settings, indent=2, ensure_ascii=False) + "\n")


def _peft_settings(modules: Mapping[str, Pair], layout: Layout, scale: float) -> dict[str, Any]:
    ranks = {module: pair.rank for module, pair in modules.items()}
    usual = Counter(ranks.values()).most_common(1)[0][0]
    others = {module: rank for module, rank in ranks.items() if rank != usual}
    ends = {module.rpartition(".")[2] for module in modules}
    all_of_them = {tensor.removesuffix(".weight") for tensor in layout.shapes}
    everywhere = {module for module in all_of_them if module.rpartition(".")[2] in ends} == modules.keys()
    return {
        "peft_type": "LORA", "task_type": "CAUSAL_LM", "inference_mode": True, "bias": "none", "fan_in_fan_out": False,
        "r": usual, "lora_alpha": _tidy(scale * usual), "use_rslora": False, "modules_to_save": None,
        "target_modules": sorted(ends if everywhere else modules),
        "rank_pattern": others, "alpha_pattern": {module: _tidy(scale * rank) for module, rank in others.items()},
    }  # fmt: skip


def _tidy(number: float) -> float | int:
    """Whole where it is whole: PEFT's own files have alpha as an integer."""
    return round(number) if math.isclose(number, round(number), rel_tol=1e-9) else number


def write_gguf_lora(adapter: Adapter, checkpoint: Checkpoint, path: Path, name: str) -> None:
    """Write the same as a GGUF file for the GGUF file of the model."""
    layout = checkpoint.family.gguf_layout(checkpoint.config)
    stacked = _stacked(adapter, layout, lambda weight: checkpoint.family.gguf_transform(weight, checkpoint.config))
    largest = max(pair.rank for pair in stacked.values())
    pairs = {}
    for tensor, pair in stacked.items():
        # llama.cpp divides by the rank of each tensor, with one alpha for all.
        pairs[tensor] = GGUFPair(pair.a.numpy(), pair.b.numpy() * np.float32(pair.rank / largest))
    write_gguf_adapter(path, checkpoint.family.gguf.architecture, name, adapter.scale * largest, pairs)


def _stacked(adapter: Adapter, layout: Layout, move: Callable[[str], Any] | None = None) -> dict[str, Pair]:
    """Pairs by tensor of a file. move: how a weight's rows stand in the file; None: as in the model."""
    found: dict[str, Pair] = {}
    for tensor, members in layout.members.items():
        names = [name for name in members if name in adapter.pairs]
        if not names:
            continue
        a = torch.cat([adapter.pairs[name].a for name in names])
        b = torch.zeros(layout.shapes[tensor][0], len(a))
        column = 0
        for name in names:
            place, part = layout.places[name], adapter.pairs[name].b
            if move is not None:
                part = torch.from_numpy(np.ascontiguousarray(move(name).rows_to_file(part.numpy())))
            b[place.start : place.start + place.rows, column : column + part.shape[1]] = part
            column += part.shape[1]
        found[tensor] = Pair(a, b)
    return found


# -- reading ---------------------------------------------------------------------------------------------------------


def read_adapter(path: Path, checkpoint: Checkpoint) -> Adapter:
    """An adapter for the model of `checkpoint`: a folder in PEFT's layout, or a GGUF file.

    Raises BadFile or Unsupported, in one line: missing, damaged or pickled files, names and shapes that do not fit the
    model, values that are not finite, and kinds of adapters that are not plain LoRA.
    """
    if path.suffix in (".bin", ".pt", ".pth"):
        raise Unsupported(f"{printable(path)} is pickled, which can run code; give a folder with {WEIGHTS}.")
    if path.is_dir() and not (path / WEIGHTS).exists():
        pickled = "a pickled adapter, which can run code, and no" if (path / "adapter_model.bin").exists() else "no"
        raise BadFile(f"{printable(path)} has {pickled} {WEIGHTS}; give a folder that PEFT or `smidgen tune` wrote.")
    adapter = _read_peft(path, checkpoint) if path.is_dir() else _read_gguf(path, checkpoint)
    for name, pair in adapter.pairs.items():
        if not (torch.isfinite(pair.a).all() and torch.isfinite(pair.b).all()):
            raise BadFile(f"{printable(path)}: the adapter of {name} has values that are not finite; tune again.")
    return adapter


def _read_gguf(path: Path, checkpoint: Checkpoint) -> Adapter:
    layout = checkpoint.family.gguf_layout(checkpoint.config)
    with GGUFFile.open(path) as file:
        alpha, tensors = check_gguf_adapter(file, checkpoint.family.gguf.architecture, layout.shapes)
        stacked: dict[str, tuple[Pair, float]] = {}
        for tensor in tensors:
            if len(layout.shapes[tensor]) != 2 or tensor == layout.places["embedding.weight"].tensor:
                raise Unsupported(f"{printable(path)}: smidgen has no adapters for {tensor}; merge it with llama.cpp.")
            a, b = (_decoded(file.packed(name), file.tensors[name].kind) for name in _halves(tensor))
            stacked[tensor] = Pair(a, b), alpha / len(a) if alpha else 1.0
    return _unstacked(stacked, layout, lambda name: checkpoint.family.gguf_transform(name, checkpoint.config).order)


def _halves(tensor: str) -> tuple[str, str]:
    return f"{tensor}.lora_a", f"{tensor}.lora_b"


def _decoded(packed: np.ndarray, kind: BlockType) -> Float[Tensor, "rows cols"]:
    if kind is F64:
        packed, kind = narrowed(packed), F32
    return decode(torch.from_numpy(packed.copy()), kind)


def _read_peft(folder: Path, checkpoint: Checkpoint) -> Adapter:
    layout, settings = hf_layout(checkpoint), peft_scaling(folder / CONFIG)
    embedding = layout.places["embedding.weight"].tensor.removesuffix(".weight")
    with SafetensorsFile.open(folder / WEIGHTS) as file:
        shown = printable(file.path)
        file.refuse_unread(file.tensors)
        _refuse_embeddings(file, shown, embedding, checkpoint.config.tied_head)
        kept = [name for name in file.tensors if _is_kept_base(name, file.tensors[name].shape, layout)]
        modules = dict.fromkeys(_module(name, shown) for name in file.tensors if name not in kept)
        stacked: dict[str, tuple[Pair, float]] = {}
        for module in modules:
            tensor = f"{module}.weight"
            names = f"{_PREFIX}{module}{_A}", f"{_PREFIX}{module}{_B}"
            if tensor not in layout.shapes or len(layout.shapes[tensor]) != 2:
                raise BadFile(f"{shown}: {printable(module, 80)} is no layer of the model; give one made for it.")
            if not all(name in file.tensors for name in names):
                raise BadFile(f"{shown}: {module} needs both lora_A and lora_B; copy the adapter again.")
            _refuse_shapes(shown, module, [file.tensors[name].shape for name in names], layout.shapes[tensor])
            a, b = (_decoded(file.packed(name), file.tensors[name].kind) for name in names)
            stacked[tensor] = Pair(a, b), settings.scale(module, len(a))
    return _unstacked(stacked, layout, lambda name: None)


def _refuse_embeddings(file: SafetensorsFile, shown: str, embedding: str, tied: bool) -> None:
    """Raises Unsupported for an adapter of the embedding, or of the head where that is the embedding."""
    of_embedding = any(name.endswith(_OF_EMBEDDINGS) or name == f"{_PREFIX}{embedding}{_A}" for name in file.tensors)
    of_head = tied and any(name.endswith(f"lm_head{_A}") for name in file.tensors)
    if not (of_embedding or of_head):
        return
    what = "the embedding" if of_embedding else "the output head, which is the embedding in this model"
    raise Unsupported(
        f"{shown}: is an adapter of {what}; smidgen has none there. Merge it with PEFT (merge_and_unload) and take the "
        "folder that save_pretrained writes, or train without embed_tokens and lm_head in target_modules."
    )


def _is_kept_base(name: str, shape: tuple[int, ...], layout: Layout) -> bool:
    """Whether a tensor is a matrix of the model that PEFT wrote beside its adapter."""
    tensor = name.removeprefix(_PREFIX).removesuffix(_BASE) + ".weight"
    return name.endswith(_BASE) and layout.shapes.get(tensor) == shape


def _module(name: str, shown: str) -> str:
    module = name.removeprefix(_PREFIX).removesuffix(_A).removesuffix(_B)
    if f"{_PREFIX}{module}{_A}" != name and f"{_PREFIX}{module}{_B}" != name:
        raise BadFile(f"{shown}: {printable(name, 80)} is not a tensor of a LoRA adapter of a language model.")
    return module


def _refuse_shapes(shown: str, module: str, found: list[tuple[int, ...]], wanted: tuple[int, ...]) -> None:
    (rows, columns), (a, b) = wanted, found
    if len(a) != 2 or a[0] > LARGEST_RANK or a[1] != columns or b != (rows, a[0]):
        raise BadFile(
            f"{shown}: {module} is {wanted} in the model, which {a} and {b} do not fit; give one made for it."
        )


def _unstacked(
    stacked: Mapping[str, tuple[Pair, float]], layout: Layout, order: Callable[[str], np.ndarray | None]
) -> Adapter:
    """Pairs of a file's tensors with their scales → of the model's weights, with one scale for all."""
    if not stacked:
        raise BadFile("the adapter has no tensors; copy it again.")
    scale = next((scale for _, scale in stacked.values() if scale > 0), 1.0)
    pairs = {}
    for tensor, (pair, own) in stacked.items():
        for name in layout.members[tensor]:
            place, rows = layout.places[name], order(name)
            b = pair.b[place.start : place.start + place.rows] * (own / scale)
            pairs[name] = Pair(pair.a, b if rows is None else b[torch.from_numpy(rows)])
    return Adapter(pairs, scale)
