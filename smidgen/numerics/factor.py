"""What second-order methods take from a second moment of inputs, H = E[x xᵀ]: a factor of its inverse, and the loss.

For one row w of a linear layer, changed by Δ, the mean squared change of its output is Δ H Δᵀ. Optimal Brain Surgeon
(Hassibi & Stork 1992) settles weights one by one, in the order of the columns here: settling column i at an error
costs the error squared over [H⁻¹]ᵢᵢ, where H is restricted to the columns not yet settled, and row i of that inverse
says how these have to move to make up for it. GPTQ (arXiv:2210.17323, section 3.3) and SparseGPT (arXiv:2301.00774,
section 3.4) read all of these inverses off one triangular factor: with UᵀU = H⁻¹, [H⁻¹]ᵢᵢ = Uᵢᵢ² and its row is
Uᵢᵢ·Uᵢ,ᵢ₊₁….
"""

import math

import torch
from torch import Tensor

from smidgen.errors import SmidgenError
from smidgen.numerics.precision import quick_products
from smidgen.numerics.triangular import NotPositiveDefinite, cholesky_, invert_lower_
from smidgen.shapes import Float

_FLOAT64_WIDTH = 1024  # of the matrices that are factorised in float64


def inverse_factor(
    hessian: Float[Tensor, "in in"], damping: float = 0.01, shrinkage: float = 0.0
) -> Float[Tensor, "in in"]:
    """U with UᵀU = (H' + λI)⁻¹, upper triangular; λ is `damping` times the mean of the diagonal of H.

    H' is H with all that is not on its diagonal made smaller by the share `shrinkage`: what is known of two inputs
    together is less certain than what is known of each (Ledoit & Wolf 2004, with the diagonal for the target).

    Computed in float64 where that is quick, in float32 beyond; should float32 not see a positive definite matrix, λ is
    raised tenfold until it does. Inputs that never occurred (zero rows of H) are held by λ alone.
    Memory: two matrices of the size of H beyond H itself. Raises SmidgenError for an H that is not finite.
    """
    dtype = torch.float64 if len(hessian) <= _FLOAT64_WIDTH else torch.float32
    mean = float(hessian.diagonal().double().mean().clamp_min(1e-30))
    if not math.isfinite(mean):
        raise SmidgenError(
            "The calibration text drives this model's activations beyond what float32 holds; give another with --text."
        )
    # Reverse the order of the columns: H' = L Lᵀ, so H'⁻¹ = L⁻ᵀ L⁻¹, and L⁻¹ reversed back is upper triangular: U.
    # One triangular inverse replaces inverting H and factorising the result.
    while True:
        lower = hessian.to(dtype).flip(0, 1)
        if shrinkage:
            diagonal = lower.diagonal().clone()
            lower.mul_(1 - shrinkage).diagonal().copy_(diagonal)
        lower.diagonal().add_(damping * mean)
        try:
            cholesky_(lower)
            break
        except NotPositiveDefinite:
            damping *= 10
    with quick_products():  # all that matters is near the diagonal, which they leave exact
        invert_lower_(lower)
    return lower.flip(0, 1).float()


def damage(error: Float[Tensor, "out in"], hessian: Float[Tensor, "in in"]) -> Float[Tensor, " out"]:
    """(ΔW H ΔWᵀ)ᵣᵣ for each row: the mean squared error of each output, in units of the output squared."""
    return (error @ hessian).mul_(error).sum(1)
