"""How many positions differ by how much: counts in fixed bins on a logarithmic axis, so that cards can be compared."""

from typing import TypedDict

import torch
from torch import Tensor

from smidgen.shapes import Float

#: Borders of the bins in nats: four to each power of ten, from a millionth to a hundred.
EDGES = tuple(float(f"{10 ** (step / 4):.6g}") for step in range(-24, 9))


class Histogram(TypedDict):
    """counts: of the values from each edge to before the next; the first bin has all smaller ones too, the last all
    larger ones."""

    edges: list[float]
    counts: list[int]


def histogram(values: Float[Tensor, " position"]) -> Histogram:
    """Count values in nats. Values are finite; rounding may have made some of them less than 0."""
    inner = torch.tensor(EDGES[1:-1], dtype=values.dtype)
    bins = torch.bucketize(values, inner, right=True)
    return Histogram(edges=list(EDGES), counts=torch.bincount(bins, minlength=len(EDGES) - 1).tolist())
