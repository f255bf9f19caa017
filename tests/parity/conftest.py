"""Shared by the parity tests."""

import pytest
import torch
from torch import Tensor
from torch.nn import functional


def half_table_gelu(x: Tensor, approximate: str) -> Tensor:
    """GELU as llama.cpp looks it up: half-precision input and output, exact beyond ±10."""
    rounded = GELU(x.half().float(), approximate=approximate).half().float()
    return torch.where(x >= 10, x, torch.where(x <= -10, 0.0, rounded))


GELU = functional.gelu


@pytest.fixture
def llama_cpp_gelu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(functional, "gelu", half_table_gelu)
