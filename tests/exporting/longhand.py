"""Packed weights read slowly, code by code, and what they have to be."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor

from smidgen.formats.hf.writer import hf_layout
from smidgen.formats.opening import open_checkpoint


def codes_by_hand(words: np.ndarray, bits: int) -> np.ndarray:
    """Groups of 32 codes, float32, each taken out of the `bits` words of its group as out of one long number."""
    groups = words.reshape(len(words), -1, bits)
    codes = np.zeros((*groups.shape[:2], 32), dtype=np.float32)
    for row, group in np.ndindex(groups.shape[:2]):
        number = sum(int(word) << 32 * place for place, word in enumerate(groups[row, group]))
        codes[row, group] = [number >> bits * place & 2**bits - 1 for place in range(32)]
    return codes


def weights_of_the_folder(model: Path) -> dict[str, Tensor]:
    """What the tensors of a folder in Hugging Face layout stand for, as the model's own file decodes."""
    with open_checkpoint(model) as checkpoint:
        written = checkpoint.family.hf_map(checkpoint.config)

        def one(name: str) -> Tensor:
            return checkpoint.tensor(name) - checkpoint.family.hf_transform(name, written).offset

        layout = hf_layout(checkpoint)
        return {tensor: torch.cat([one(name) for name in names]) for tensor, names in layout.members.items()}


def mlx_weights(folder: Path) -> dict[str, Tensor]:
    """Weights of every tensor, word by word."""
    tensors = load_file(folder / "model.safetensors")
    weights = {}
    for name, tensor in tensors.items():
        base = name.removesuffix(".weight")
        if f"{base}.scales" not in tensors or not name.endswith(".weight"):
            if not name.endswith((".scales", ".biases")):
                weights[name] = tensor.float()
            continue
        scales, biases = tensors[f"{base}.scales"].float(), tensors[f"{base}.biases"].float()
        codes = torch.from_numpy(codes_by_hand(tensor.numpy(), tensor.shape[1] // scales.shape[1]))
        weights[name] = (codes * scales[:, :, None] + biases[:, :, None]).flatten(1)
    return weights


def quantization(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "config.json").read_text())["quantization_config"]


def bits_of(folder: Path) -> dict[str, int]:
    """Packed layer → bits, as config.json says."""
    groups = quantization(folder)["config_groups"].values()
    return {layer: group["weights"]["num_bits"] for group in groups for layer in group["targets"]}


def vllm_weights(folder: Path) -> dict[str, Tensor]:
    """Weights of every tensor, code by code, with the bits that config.json says."""
    tensors, bits, weights = load_file(folder / "model.safetensors"), bits_of(folder), {}
    for name, tensor in tensors.items():
        base, _, part = name.rpartition(".")
        if part == "weight_packed":
            codes = codes_by_hand(tensor.numpy().view(np.uint32), bits[base]) - 2 ** (bits[base] - 1)
            weight = (torch.from_numpy(codes) * tensors[f"{base}.weight_scale"].float()[:, :, None]).flatten(1)
            assert tensors[f"{base}.weight_shape"].tolist() == list(weight.shape)
            weights[f"{base}.weight"] = weight
        elif part not in ("weight_scale", "weight_shape"):
            weights[name] = tensor.float()
    return weights
