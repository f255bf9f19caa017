"""Linear layers without bias whose weights are left uninitialised, because a file is about to fill them."""

import torch
from torch import nn


def blank_linear(inputs: int, outputs: int) -> nn.Linear:
    """A linear layer, weight [outputs, inputs], on torch's default device; no time goes into random numbers."""
    return nn.Linear(inputs, outputs, bias=False, device="meta").to_empty(device=torch.get_default_device())


def blank_embedding(rows: int, width: int) -> nn.Embedding:
    """The same for an embedding, weight [rows, width]."""
    return nn.Embedding(rows, width, device="meta").to_empty(device=torch.get_default_device())
