"""The table of GGUF tensor types: how many weights share a block, and how many bytes a block takes.

Torch-free, so that headers can be read and sizes planned without loading a tensor library.
Source of the figures: the ggml tensor type enumeration and block structs (ggml.h, ggml-common.h).
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class BlockType:
    """One way to store a row of weights.

    name: as llama.cpp prints it.  ggml_id: number in the file.
    block: weights per block.  block_bytes: bytes per block.
    """

    name: str
    ggml_id: int
    block: int
    block_bytes: int

    @property
    def bits_per_weight(self) -> float:
        return 8 * self.block_bytes / self.block

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
IQ4_NL = BlockType("IQ4_NL", 20, 32, 18)
IQ4_XS = BlockType("IQ4_XS", 23, 256, 136)
BF16 = BlockType("BF16", 30, 1, 2)

READABLE = (F32, F16, BF16, Q4_0, Q4_1, Q5_0, Q5_1, Q8_0, Q2_K, Q3_K, Q4_K, Q5_K, Q6_K, IQ4_NL, IQ4_XS)

BY_NAME = {kind.name: kind for kind in READABLE}

# Types that ggml has and smidgen does not decode. Their sizes are known, so that a file of them can be checked and
# described; llama.cpp computes with them. Their weights are never guessed at.
UNDECODED = (
    BlockType("Q8_1", 9, 32, 36),
    BlockType("Q8_K", 15, 256, 292),
    BlockType("IQ2_XXS", 16, 256, 66),
    BlockType("IQ2_XS", 17, 256, 74),
    BlockType("IQ3_XXS", 18, 256, 98),
    BlockType("IQ1_S", 19, 256, 50),
    BlockType("IQ3_S", 21, 256, 110),
    BlockType("IQ2_S", 22, 256, 82),
    BlockType("I8", 24, 1, 1),
    BlockType("I16", 25, 1, 2),
    BlockType("I32", 26, 1, 4),
    BlockType("I64", 27, 1, 8),
    BlockType("F64", 28, 1, 8),
    BlockType("IQ1_M", 29, 256, 56),
    BlockType("TQ1_0", 34, 256, 54),
    BlockType("TQ2_0", 35, 256, 66),
    BlockType("MXFP4", 39, 32, 17),
    BlockType("NVFP4", 40, 64, 36),
    BlockType("Q1_0", 41, 128, 18),
    BlockType("Q2_0", 42, 64, 18),
)

BY_ID = {kind.ggml_id: kind for kind in (*READABLE, *UNDECODED)}
