"""Columns of a group one after the other, where each has something to push onto those behind it.

A column at a time would be a pass over all columns behind it for each. So the columns go eight by eight, octets: inside
of one each pushes onto the few behind it; what all of an octet push onto the columns behind the octet is one product.
"""

from dataclasses import dataclass

from torch import Tensor

from smidgen.shapes import Float

_IN_ORDER = 8  # columns that push one by one


def octets(group: int) -> list[slice]:
    """The columns of a group, eight by eight."""
    return [slice(first, min(first + _IN_ORDER, group)) for first in range(0, group, _IN_ORDER)]


@dataclass(frozen=True)
class Pushes:
    """How much of what happens to one column arrives at those behind it.

    near: in each octet, of each column onto those behind it, [columns, 1, 1].  far: of each octet but the last onto
    those of the group behind it, transposed.
    """

    near: list[list[Tensor]]
    far: list[Tensor]

    @classmethod
    def of(cls, share: Float[Tensor, "group group"]) -> "Pushes":
        """share: of row i at column j."""
        all_of_them = octets(len(share))
        near = [
            [share[i, i + 1 : octet.stop, None, None] for i in range(octet.start, octet.stop - 1)]
            for octet in all_of_them
        ]
        return cls(near, [share[octet, octet.stop :].T.contiguous() for octet in all_of_them[:-1]])
