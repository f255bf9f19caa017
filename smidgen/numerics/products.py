"""Large float32 matrix products, by whichever of torch's two libraries is quick at them on this processor.

On x86 torch multiplies float32 with MKL, which gives AMD's processors the instructions of ten years ago: half the width
of their registers (AVX2 where they have AVX-512). oneDNN, which torch carries for its other number formats, uses the
whole width. Measured on an EPYC of 2024: 95 against 210 · 10⁹ operations a second and core. Both are products and sums
in float32, and differ as two orders of summation do: by some 10⁻⁶ of the sizes that are added up.
"""

from functools import cache

import torch
from torch import Tensor
from torch.nn import functional

from smidgen.shapes import Float

_LEAST_ROWS = 16  # fewer are quicker with MKL: oneDNN puts the weights into another order first
_LEAST_WORK = 2**24  # multiplications; below that, what a call costs counts


def product(
    x: Float[Tensor, "... inputs"],
    weight: Float[Tensor, "outputs inputs"],
    bias: Float[Tensor, " outputs"] | None = None,
) -> Float[Tensor, "... outputs"]:
    """x · weightᵀ + bias, as `functional.linear`. Quicker only where no gradient is wanted and all are float32."""
    factors = (x, weight) if bias is None else (x, weight, bias)
    if not (_is_large(x, weight) and _is_plain(*factors) and onednn_is_quicker()):
        return functional.linear(x, weight, bias)
    return _by_onednn(x, weight, bias)


@cache
def onednn_is_quicker() -> bool:
    """Whether this is one of the processors in question, and this torch has oneDNN at hand."""
    capabilities = torch.cpu.get_capabilities()
    in_question = "AMD" in str(capabilities.get("cpu_name", "")) and bool(capabilities.get("avx512_f"))
    return in_question and torch.backends.mkldnn.is_available() and _gives_the_same()


def _is_large(x: Tensor, weight: Tensor) -> bool:
    rows = x.numel() // max(1, x.shape[-1])
    return rows >= _LEAST_ROWS and rows * weight.numel() >= _LEAST_WORK


def _is_plain(*factors: Tensor) -> bool:
    """Float32 on the CPU, to be multiplied as that, and nothing to be remembered for a backward pass."""
    return (
        not (torch.is_grad_enabled() and any(one.requires_grad for one in factors))
        and not torch.is_autocast_enabled("cpu")
        and all(one.dtype is torch.float32 and one.device.type == "cpu" for one in factors)
    )


def _by_onednn(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """What torch.compile turns a linear layer into. Knows no gradients."""
    return torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")


def _gives_the_same() -> bool:
    """Whether that function, which torch does not promise to keep, is there and still does what is asked of it."""
    x, weight = torch.arange(6.0).view(2, 3), torch.arange(12.0).view(4, 3)
    try:
        return torch.equal(_by_onednn(x, weight, torch.ones(4)), functional.linear(x, weight, torch.ones(4)))
    except (AttributeError, RuntimeError, TypeError):
        return False
