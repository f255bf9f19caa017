"""The codebooks of the IQ types: which runs of four or eight magnitudes a block of them can hold, and with which signs.

Below four bits a weight, GGUF's IQ types do not store weights one by one. A run of neighbours is one entry of a fixed
table, so that the bits go to the patterns that weights often have (a cut of the E8 lattice for IQ2, of a lattice of
fours for IQ3). IQ2 and IQ3 keep magnitudes in the table and signs beside it; IQ1's entries are signed.

Two types may share a table: IQ1_M has that of IQ1_S. Where signs are stored in seven bits, the eighth is such that
the number of minuses is even (IQ2_XXS, IQ2_XS, IQ3_XXS); IQ2_S and IQ3_S store all eight.

Source: the tables are part of the file format. The package `gguf` has them, packed, and that is where they are taken
from, when first asked for; their hashes are known here, so that no other table can pass for one of them.
"""

import hashlib
from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor

from smidgen.errors import SmidgenError
from smidgen.numerics import block_types
from smidgen.numerics.block_types import BlockType
from smidgen.shapes import Int


@dataclass(frozen=True)
class _Table:
    """A table of `gguf.quants`: `holder` is the class there, sha256 that of its entries as signed bytes."""

    holder: str
    entries: int
    run: int
    sha256: str


_IQ1 = _Table("IQ1_S", 2048, 8, "07540ffc1aeaf6ad4d97e96b0fcc765aae39671d4ae4a27bbd0e796fde167c6a")
_TABLES = {
    block_types.IQ2_XXS: _Table("IQ2_XXS", 256, 8, "05826b5d3e472a3a78f196be62ac78acf81df0f909626e12ab9fa2a5d490dd54"),
    block_types.IQ2_XS: _Table("IQ2_XS", 512, 8, "06e47aaca60b4dc1d9b5a3f34540437058a6b142b4d7a59d5ded769b4d1bf1de"),
    block_types.IQ2_S: _Table("IQ2_S", 1024, 8, "e1aa1473412b0552c2174c30ef22ab4073f6a181b85a17056e8249bd2932fd88"),
    block_types.IQ3_XXS: _Table("IQ3_XXS", 256, 4, "46e35f5a997efdee6c99ce57854c8a0d4f0ff8ca57e5e8a60c0793ea580acf5d"),
    block_types.IQ3_S: _Table("IQ3_S", 512, 4, "bd1af4945a1717c65610b0284e4628b9a1ba3b306fae3a06f6e5f597356e349f"),
    block_types.IQ1_S: _IQ1,
    block_types.IQ1_M: _IQ1,
}


@cache
def codebook(kind: BlockType) -> Int[Tensor, "entries run"]:
    """The entries of a type's codebook, int8, in the order of their numbers. Shared by all who ask: never write to it.

    Magnitudes for IQ2 (8, 25, 43) and IQ3 (4 … 62 for IQ3_XXS, 1 … 15 for IQ3_S); -1, 0 or 1 for IQ1.
    Raises KeyError for a type without a codebook, SmidgenError if the installed `gguf` does not have this table.
    """
    table = _TABLES[kind]
    entries = _entries_of_gguf(table)
    if entries is None or hashlib.sha256(entries.numpy().tobytes()).hexdigest() != table.sha256:
        raise SmidgenError(
            f"The installed Python package gguf does not have the table of {kind.name} that llama.cpp uses. "
            "Install another version of it: pip install --upgrade gguf"
        )
    return entries


def _entries_of_gguf(table: _Table) -> Tensor | None:
    """The table as the package has it, or None where it has none of that shape."""
    import gguf.quants  # here, so that whoever reads no IQ type does not wait for it

    holder = getattr(gguf.quants, table.holder, None)
    if holder is None or not hasattr(holder, "init_grid"):
        return None
    holder.init_grid()
    grid = getattr(holder, "grid", None)
    if grid is None or grid.size != table.entries * table.run:
        return None
    return torch.from_numpy(grid.reshape(table.entries, table.run)).to(torch.int8)


def _even_signs() -> Tensor:
    """All patterns of eight signs with an even number of minuses: bit i of the number is sign i, 1 for minus."""
    minus = torch.arange(128).unsqueeze(1) >> torch.arange(7) & 1
    minus = torch.cat((minus, minus.sum(dim=1, keepdim=True) & 1), dim=1)
    return (1 - 2 * minus).to(torch.int8)


SIGNS: Int[Tensor, "patterns 8"] = _even_signs()  # [128, 8] of ±1, int8; pattern 0 is all plus
