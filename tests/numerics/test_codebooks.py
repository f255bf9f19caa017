"""The codebooks are llama.cpp's, and no other table passes for one of them."""

import subprocess
import sys

import gguf.quants
import numpy as np
import pytest
import torch

from smidgen.errors import SmidgenError
from smidgen.numerics.block_types import IQ1_M, IQ1_S, IQ2_S, IQ2_XS, IQ2_XXS, IQ3_S, IQ3_XXS, Q4_K, BlockType
from smidgen.numerics.codebooks import SIGNS, codebook

SIZES = {
    IQ1_S: (2048, 8), IQ1_M: (2048, 8), IQ2_XXS: (256, 8), IQ2_XS: (512, 8), IQ2_S: (1024, 8), IQ3_XXS: (256, 4),
    IQ3_S: (512, 4),
}  # fmt: skip
MAGNITUDES = {
    IQ1_S: [-1, 0, 1], IQ2_S: [8, 25, 43], IQ3_XXS: [4, 12, 20, 28, 36, 44, 52, 62], IQ3_S: list(range(1, 16, 2)),
}  # fmt: skip


@pytest.fixture
def nothing_kept():
    codebook.cache_clear()
    yield
    codebook.cache_clear()


@pytest.mark.parametrize("kind", SIZES, ids=lambda kind: kind.name)
def test_every_entry_is_there_once(kind: BlockType) -> None:
    """That they are the right ones is known by their hash, without which they are not given out."""
    entries = codebook(kind)
    assert (tuple(entries.shape), entries.dtype) == (SIZES[kind], torch.int8)
    assert len(entries.unique(dim=0)) == len(entries)
    assert entries.unique().tolist() == MAGNITUDES.get(kind, entries.unique().tolist())


def test_types_without_a_codebook_have_none() -> None:
    with pytest.raises(KeyError):
        codebook(Q4_K)


def test_signs_are_the_even_patterns_in_the_order_of_the_format() -> None:
    stored = np.unpackbits(
        np.frombuffer(gguf.quants.IQ2_XXS.ksigns, dtype=np.uint8)[:, None], axis=1, bitorder="little"
    )
    assert SIGNS.dtype == torch.int8
    assert torch.equal(SIGNS, torch.from_numpy(1 - 2 * stored.astype(np.int8)))
    assert (SIGNS.prod(dim=1) == 1).all()


@pytest.mark.usefixtures("nothing_kept")
def test_a_package_without_the_table_or_with_another_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = r"gguf does not have the table of IQ3_S that llama.cpp uses\. Install another version"
    other = codebook(IQ3_S).numpy().copy()
    other[7, 1] += 2
    codebook.cache_clear()
    with monkeypatch.context() as patched:
        patched.setattr(gguf.quants.IQ3_S, "grid", other.astype(np.float32).reshape(1, 1, 512, 4))
        with pytest.raises(SmidgenError, match=wanted):
            codebook(IQ3_S)
    monkeypatch.setattr(gguf.quants, "IQ3_S", None)
    with pytest.raises(SmidgenError, match=wanted):
        codebook(IQ3_S)


def test_reading_headers_and_decoding_other_types_does_not_load_the_tables() -> None:
    code = (
        "import sys\n"
        "import smidgen.numerics.block_types\n"
        "assert 'torch' not in sys.modules\n"
        "import torch, smidgen.numerics.decode as d\n"
        "d.decode(torch.zeros(1, 34, dtype=torch.uint8), smidgen.numerics.block_types.Q8_0)\n"
        "assert 'gguf' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)
