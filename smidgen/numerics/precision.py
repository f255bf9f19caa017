"""Which number format large matrix products are quick in on this machine."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

import torch

_CPU = torch.device("cpu")
#: Processors that multiply bfloat16, as torch names them: on Arm, and on x86 where AVX-512 is there and may be used.
_ON_ARM, _WITH_AVX512 = ("bf16",), ("avx512_bf16", "amx_bf16")


@cache
def fast_product_dtype() -> torch.dtype:
    """bfloat16 where the processor multiplies it (several times the speed, 0.4% rounding), float32 elsewhere."""
    found = torch.cpu.get_capabilities()
    # The processor may have AVX-512 while torch is told to do without (ATEN_CPU_CAPABILITY).
    names = (*_ON_ARM, *_WITH_AVX512) if torch.backends.cpu.get_cpu_capability() == "AVX512" else _ON_ARM
    return torch.bfloat16 if any(found.get(name) for name in names) else torch.float32


def is_quick(device: torch.device) -> bool:
    """Whether products in bfloat16 are quick there: on every accelerator, and on some processors."""
    return device.type != "cpu" or fast_product_dtype() is torch.bfloat16


@contextmanager
def quick_products() -> Iterator[None]:
    """While the context is open, large float32 products may round their factors to bfloat16; sums stay float32.

    Twice the speed where the processor multiplies bfloat16, at a relative error of about 3e-4 over a thousand terms,
    and nothing where it does not. On CUDA it is TF32. The setting is one for the whole process, so no other thread
    should be computing.
    """
    on_cpu: Any = torch.backends.mkldnn.matmul  # pyright: ignore[reportAttributeAccessIssue]
    on_cuda: Any = torch.backends.cuda.matmul
    before = on_cpu.fp32_precision, on_cuda.fp32_precision
    if fast_product_dtype() is torch.bfloat16:
        on_cpu.fp32_precision = "bf16"
    on_cuda.fp32_precision = "tf32"
    try:
        yield
    finally:
        on_cpu.fp32_precision, on_cuda.fp32_precision = before


def quick_layers(device: torch.device = _CPU) -> torch.autocast:
    """A context in which layers compute in bfloat16 where that is quick: calibration and training can do with that.

    What is added up along the residual stream stays float32, and so do norms.
    """
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=is_quick(device))
