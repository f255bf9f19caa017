"""Which types rows can have, and what takes the place of those that do not fit."""

import pytest

from smidgen.numerics import block_types as types
from smidgen.quantization.fitting import fitting_types, misfits

DEFAULT = (types.IQ4_NL, types.Q4_K, types.Q5_0, types.Q8_0)


@pytest.mark.parametrize(
    "columns, asked, expected",
    [
        (512, (types.Q4_K, types.Q8_0), (types.Q4_K, types.Q8_0)),
        (288, (types.Q4_K, types.Q8_0), (types.Q8_0,)),
        (288, (types.Q4_K,), (types.Q5_0,)),
        (288, (types.Q5_K,), (types.Q5_1,)),
        (288, (types.Q6_K, types.Q4_K), (types.Q8_0, types.Q5_0)),
        (288, (types.Q2_K, types.Q3_K, types.IQ4_XS), (types.IQ4_NL,)),
        (288, (types.Q3_K, types.Q4_K), (types.IQ4_NL, types.Q5_0)),
        (48, (types.Q2_K,), (types.F16,)),
        (48, (types.Q4_K, types.Q8_0), (types.F16,)),
        (30, DEFAULT, (types.F16,)),
        (30, (types.Q4_K, types.F16), (types.F16,)),
        (30, (), ()),
    ],
)
def test_rows_get_a_type_that_fits_them(columns: int, asked: tuple, expected: tuple) -> None:
    assert fitting_types(columns, asked) == expected


def test_misfits_name_rows_block_matrices_and_what_they_become() -> None:
    columns = {"token_embd.weight": 288, "blk.0.attn_q.weight": 288, "blk.1.attn_q.weight": 288, "output.weight": 512}
    assert misfits(columns, (types.Q4_K,)) == [
        "Rows of 288 do not fit blocks of 256, so 3 matrices (token_embd, attn_q) cannot be Q4_K: they become Q5_0, or "
        "stay as they are. IQ4_NL, which fits, is smaller: add it to --types."
    ]
    (line,) = misfits(columns, (types.Q4_K, types.Q8_0))
    assert line.startswith("Rows of 288 do not fit blocks of 256 (Q4_K), so 3 matrices (token_embd, attn_q) can only")
    assert misfits({"blk.0.attn_q.weight": 288}, (types.Q2_K, types.Q3_K, types.Q4_K)) == [
        "Rows of 288 do not fit blocks of 256, so 1 matrix (attn_q) cannot be any type to choose from: they become "
        "IQ4_NL, Q5_0, or stay as they are."
    ]
    (line,) = misfits({"output.weight": 30}, DEFAULT)
    assert "do not fit blocks of 32 and 256, so 1 matrix (output)" in line and "become F16" in line


def test_rows_that_miss_nothing_are_no_misfits() -> None:
    """IQ4_NL has the bits of Q4_K, which so is not missed."""
    assert misfits({"output.weight": 640}, DEFAULT) == []
    assert misfits({"output.weight": 512}, (types.Q4_K,)) == []
