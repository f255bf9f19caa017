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

BY_ID = {kind.ggml_id: kind for kind in READABLE}
BY_NAME = {kind.name: kind for kind in READABLE}

# Types that exist in ggml but that smidgen does not decode: named in errors, never guessed at.
UNREADABLE_NAMES = {
    9: "Q8_1", 15: "Q8_K", 16: "IQ2_XXS", 17: "IQ2_XS", 18: "IQ3_XXS", 19: "IQ1_S", 21: "IQ3_S", 22: "IQ2_S",
    24: "I8", 25: "I16", 26: "I32", 27: "I64", 28: "F64", 29: "IQ1_M", 34: "TQ1_0", 35: "TQ2_0", 39: "MXFP4",
    40: "NVFP4",
}  # fmt: skip
