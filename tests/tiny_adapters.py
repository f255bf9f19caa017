"""Random adapters for tiny models, strong enough that a mistake shows."""

import torch

from smidgen.distillation.students.lora import TARGETS, Adapted, LoraOptions
from smidgen.formats.adapters import Adapter
from smidgen.formats.checkpoint import Checkpoint
from smidgen.formats.parts import load_decoder
from smidgen.model.decoder import Decoder


def with_adapter(checkpoint: Checkpoint, targets: tuple[str, ...] = TARGETS, rank: int = 3) -> tuple[Decoder, Adapter]:
    """A decoder with a random adapter in it, and the adapter alone."""
    adapted = Adapted(load_decoder(checkpoint), LoraOptions(rank=rank, alpha=2.0 * rank, targets=targets))
    generator = torch.Generator().manual_seed(5)
    for name, tensor in adapted.tensors().items():
        if name.endswith("lora_b"):
            tensor.data = 0.2 * torch.randn(tensor.shape, generator=generator)
    return adapted.decoder.eval(), adapted.adapter()
