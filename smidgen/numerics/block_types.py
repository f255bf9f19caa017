"""The table of GGUF tensor types: how many weights share a block, and how many bytes a block takes.

Torch-free, so that headers can be read and sizes planned without loading a tensor library.
Source of the figures: the ggml tensor type enumeration and block structs (ggml.h, ggml-common.h).
"""

from dataclasses import dataclass, replace


@dataclass(frozen=True)
class BlockType:
    """One way to store a row of weights.

    name: as llama.cpp prints it, of some with a word before it (`PORTABLE`).  ggml_id: number in the file.
    block: weights per block.  block_bytes: bytes per block.
    """

    name: str
    ggml_id: int
    block: int
    block_bytes: int

    @property
    def bits_per_weight(self) -> float:
        return 8 * self.block_bytes / self.block

    @property
    def stored(self) -> "BlockType":
        """What a file calls it."""
        return BY_ID[self.ggml_id]

    def row_bytes(self, columns: int) -> int:
        """Bytes of one row of `columns` weights; `columns` must be a multiple of the block."""
        if columns % self.block:
            raise ValueError(f"{self.name} needs rows divisible by {self.block}, got {columns}")
        return columns // self.block * self.block_bytes

    def fits(self, columns: int) -> bool:
        """Whether rows of `columns` weights can be stored in this type."""
        return columns % self.block == 0


F32 = BlockType("F32", 0, 1, 4)
F16 = BlockType("F16", 1, 1, 2)
Q4_0 = BlockType("Q4_0", 2, 32, 18)
Q4_1 = BlockType("Q4_1", 3, 32, 20)
Q5_0 = BlockType("Q5_0", 6, 32, 22)
Q5_1 = BlockType("Q5_1", 7, 32, 24)
Q8_0 = BlockType("Q8_0", 8, 32, 34)
Q2_K = BlockType("Q2_K", 10, 256, 84)
Q3_K = BlockType("Q3_K", 11, 256, 110)
Q4_K = BlockType("Q4_K", 12, 256, 144)
Q5_K = BlockType("Q5_K", 13, 256, 176)
Q6_K = BlockType("Q6_K", 14, 256, 210)
IQ2_XXS = BlockType("IQ2_XXS", 16, 256, 66)
IQ2_XS = BlockType("IQ2_XS", 17, 256, 74)
IQ3_XXS = BlockType("IQ3_XXS", 18, 256, 98)
IQ1_S = BlockType("IQ1_S", 19, 256, 50)
IQ4_NL = BlockType("IQ4_NL", 20, 32, 18)
IQ3_S = BlockType("IQ3_S", 21, 256, 110)
IQ2_S = BlockType("IQ2_S", 22, 256, 82)
IQ4_XS = BlockType("IQ4_XS", 23, 256, 136)
IQ1_M = BlockType("IQ1_M", 29, 256, 56)
BF16 = BlockType("BF16", 30, 1, 2)
TQ1_0 = BlockType("TQ1_0", 34, 256, 54)
TQ2_0 = BlockType("TQ2_0", 35, 256, 66)
MXFP4 = BlockType("MXFP4", 39, 32, 17)
NVFP4 = BlockType("NVFP4", 40, 64, 36)
Q1_0 = BlockType("Q1_0", 41, 128, 18)
Q2_0 = BlockType("Q2_0", 42, 64, 18)

# fmt: off
READABLE = (
    F32, F16, BF16, Q4_0, Q4_1, Q5_0, Q5_1, Q8_0, Q2_K, Q3_K, Q4_K, Q5_K, Q6_K, IQ4_NL, IQ4_XS,
    IQ1_S, IQ1_M, IQ2_XXS, IQ2_XS, IQ2_S, IQ3_XXS, IQ3_S, TQ1_0, TQ2_0, Q1_0, Q2_0, MXFP4, NVFP4,
)
# fmt: on

# Types to encode as, which a file calls by the name without "portable": their scales are such that every framework
# holds them (`numerics.portable`).
PORTABLE_Q4_0 = replace(Q4_0, name="portable Q4_0")
PORTABLE_Q8_0 = replace(Q8_0, name="portable Q8_0")
PORTABLE = (PORTABLE_Q4_0, PORTABLE_Q8_0)

BY_NAME = {kind.name: kind for kind in (*READABLE, *PORTABLE)}

# Types that ggml has for other ends: activations between two layers (Q8_1, Q8_K) and numbers that are not weights.
# llama.cpp itself cannot turn them into float32, so no model has weights of them. Their sizes are known, so that a
# file of them can be checked and described. They are never guessed at.
UNDECODED = (
    BlockType("Q8_1", 9, 32, 36),
    BlockType("Q8_K", 15, 256, 292),
    BlockType("I8", 24, 1, 1),
    BlockType("I16", 25, 1, 2),
    BlockType("I32", 26, 1, 4),
    BlockType("I64", 27, 1, 8),
    BlockType("F64", 28, 1, 8),
)

BY_ID = {kind.ggml_id: kind for kind in (*READABLE, *UNDECODED)}
