"""OpenELM written out from its paper (https://arxiv.org/abs/2404.14619): an oracle, since transformers has no class.

Tensor names are those of Apple's repositories. Slow and plain on purpose: a loop over positions and heads.
"""

import json
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional

EPSILON, BASE = 1e-6, 10_000.0


@dataclass(frozen=True)
class OpenELMSettings:
    """heads, kv_heads, widths: one for each layer."""

    vocabulary: int
    hidden: int
    head: int
    heads: tuple[int, ...]
    kv_heads: tuple[int, ...]
    widths: tuple[int, ...]
    context: int


class OpenELM(nn.Module):
    """Head tied to the embedding."""

    def __init__(self, settings: OpenELMSettings) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.settings = settings
        self.names: dict[str, str] = {}
        self._add("transformer.token_embeddings.weight", settings.vocabulary, settings.hidden)
        for i, (heads, kv, width) in enumerate(zip(settings.heads, settings.kv_heads, settings.widths, strict=True)):
            prefix = f"transformer.layers.{i}"
            self._add(f"{prefix}.attn_norm.weight", settings.hidden)
            self._add(f"{prefix}.attn.qkv_proj.weight", (heads + 2 * kv) * settings.head, settings.hidden)
            self._add(f"{prefix}.attn.q_norm.weight", settings.head)
            self._add(f"{prefix}.attn.k_norm.weight", settings.head)
            self._add(f"{prefix}.attn.out_proj.weight", settings.hidden, heads * settings.head)
            self._add(f"{prefix}.ffn_norm.weight", settings.hidden)
            self._add(f"{prefix}.ffn.proj_1.weight", 2 * width, settings.hidden)
            self._add(f"{prefix}.ffn.proj_2.weight", settings.hidden, width)
        self._add("transformer.norm.weight", settings.hidden)

    def _add(self, name: str, *shape: int) -> None:
        # Modules cannot have dots in their parameters' names.
        self.names[name] = name.replace(".", "__")
        self.register_parameter(self.names[name], nn.Parameter(torch.ones(shape)))

    def weight(self, name: str) -> Tensor:
        """A parameter by the name it has in files."""
        return self.get_parameter(self.names[name])

    def save_pretrained(self, folder: Path) -> None:
        """config.json and model.safetensors."""
        one = self.settings
        config = {
            "model_type": "openelm",
            "architectures": ["OpenELMForCausalLM"],
            "num_transformer_layers": len(one.heads),
            "model_dim": one.hidden,
            "vocab_size": one.vocabulary,
            "head_dim": one.head,
            "num_query_heads": list(one.heads),
            "num_kv_heads": list(one.kv_heads),
            "num_gqa_groups": 2,
            "ffn_multipliers": [width / one.hidden + 0.01 for width in one.widths],
            "ffn_dim_divisor": 32,
            "ffn_with_glu": True,
            "normalize_qk_projections": True,
            "normalization_layer_name": "rms_norm",
            "activation_fn_name": "swish",
            "max_context_length": one.context,
            "rope_max_length": 2 * one.context,
            "rope_freq_constant": BASE,
            "share_input_output_layers": True,
            "initializer_range": 0.02,
            "use_cache": True,
        }
        (folder / "config.json").write_text(json.dumps(config))
        save_file({name: self.weight(name).detach() for name in self.names}, folder / "model.safetensors")

    def forward(self, input_ids: Tensor) -> Tensor:
        """Logits [batch, position, vocabulary]."""
        return torch.stack([self._text(ids) for ids in input_ids])

    def _text(self, ids: Tensor) -> Tensor:
        embedding = self.weight("transformer.token_embeddings.weight")
        x = embedding[ids]
        for index in range(len(self.settings.heads)):
            x = self._layer(index, x)
        return self._norm(x, "transformer.norm.weight") @ embedding.T

    def _norm(self, x: Tensor, name: str) -> Tensor:
        return x / (x.square().mean(-1, keepdim=True) + EPSILON).sqrt() * self.weight(name)

    def _layer(self, index: int, x: Tensor) -> Tensor:
        one, prefix = self.settings, f"transformer.layers.{index}"
        heads, kv, size = one.heads[index], one.kv_heads[index], one.head
        stacked = self._norm(x, f"{prefix}.attn_norm.weight") @ self.weight(f"{prefix}.attn.qkv_proj.weight").T
        split = stacked.view(len(x), heads + 2 * kv, size)
        queries = self._turn(self._norm(split[:, :heads], f"{prefix}.attn.q_norm.weight"))
        keys = self._turn(self._norm(split[:, heads : heads + kv], f"{prefix}.attn.k_norm.weight"))
        values, mixed = split[:, heads + kv :], torch.zeros(len(x), heads, size)
        for head in range(heads):
            group = head // (heads // kv)
            for position in range(len(x)):
                scores = keys[: position + 1, group] @ queries[position, head] / size**0.5
                mixed[position, head] = scores.softmax(0) @ values[: position + 1, group]
        x = x + mixed.flatten(1) @ self.weight(f"{prefix}.attn.out_proj.weight").T
        both = self._norm(x, f"{prefix}.ffn_norm.weight") @ self.weight(f"{prefix}.ffn.proj_1.weight").T
        gate, up = both.chunk(2, dim=-1)
        return x + (functional.silu(gate) * up) @ self.weight(f"{prefix}.ffn.proj_2.weight").T

    def _turn(self, x: Tensor) -> Tensor:
        """Feature j and feature j + size/2 turn together."""
        half, turned = self.settings.head // 2, x.clone()
        for pair in range(half):
            angles = torch.arange(len(x)) * BASE ** (-2 * pair / self.settings.head)
            cosine, sine = angles.cos()[:, None], angles.sin()[:, None]
            turned[..., pair] = x[..., pair] * cosine - x[..., pair + half] * sine
            turned[..., pair + half] = x[..., pair + half] * cosine + x[..., pair] * sine
        return turned
