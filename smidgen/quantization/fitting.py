"""Which types the rows of a matrix can have, and what takes their place where they can have none. Torch-free.

A block of weights never crosses the end of a row: a type needs rows that its block divides. Where none of the types to
choose from fits, each gives way to the one with blocks of 32 that is next larger, as llama.cpp's own quantizer does
(IQ4_XS → IQ4_NL, Q4_K → Q5_0, Q5_K → Q5_1, Q6_K → Q8_0). Q2_K and Q3_K become IQ4_NL, too: llama.cpp takes Q4_0, which
has the same bytes and does more damage. Where 32 does not divide the rows either, what is left is F16.
"""

from collections.abc import Mapping, Sequence

from smidgen.numerics import block_types as types
from smidgen.numerics.block_types import BlockType

_NEXT = dict.fromkeys((types.Q2_K, types.Q3_K, types.IQ4_XS), types.IQ4_NL)
_NEXT |= {types.Q4_K: types.Q5_0, types.Q5_K: types.Q5_1, types.Q6_K: types.Q8_0}
_NEXT |= dict.fromkeys((types.IQ2_XXS, types.IQ2_XS, types.IQ2_S, types.IQ3_XXS, types.IQ3_S), types.IQ4_NL)
_NAMED = 8  # roles of matrices that a line names; half as many types


def fitting_types(columns: int, kinds: Sequence[BlockType]) -> tuple[BlockType, ...]:
    """What a matrix with rows of so many weights may become: those of `kinds` that fit, or what takes their place."""
    fitting = tuple(kind for kind in kinds if kind.fits(columns))
    if fitting or not kinds:
        return fitting
    following = dict.fromkeys(_NEXT[kind] for kind in kinds if kind in _NEXT)
    return tuple(kind for kind in following if kind.fits(columns)) or (types.F16,)


def misfits(columns: Mapping[str, int], kinds: Sequence[BlockType]) -> list[str]:
    """For people: where rows fit no type of `kinds`, or not the smallest, with the rows, the block and the way out.

    columns: tensor of the file → weights in a row. A line for each kind of misfit, none where all is well.
    """
    smallest = min(kinds, key=lambda kind: kind.bits_per_weight)
    found: dict[tuple[tuple[BlockType, ...], bool], dict[str, int]] = {}
    for name, width in columns.items():
        offered = fitting_types(width, kinds)
        if min(kind.bits_per_weight for kind in offered) > smallest.bits_per_weight:
            found.setdefault((offered, offered[0] in kinds), {})[name] = width
    return [_line(names, offered, asked, kinds) for (offered, asked), names in found.items()]


def _line(matrices: Mapping[str, int], offered: Sequence[BlockType], asked: bool, kinds: Sequence[BlockType]) -> str:
    least = min(kind.bits_per_weight for kind in offered)
    refused = [kind for kind in kinds if kind not in offered and (not asked or kind.bits_per_weight < least)]
    blocks = _listed(sorted({kind.block for kind in refused}))
    count = f"{len(matrices)} matri{'x' if len(matrices) == 1 else 'ces'} ({_roles(matrices)})"
    rows = f"Rows of {_listed(sorted(set(matrices.values())))} do not fit blocks of {blocks}"
    names = ", ".join(kind.name for kind in offered)
    if asked:
        line = f"{rows} ({_named(refused)}), so {count} can only be {names}."
    else:
        none = " or ".join(kind.name for kind in kinds) if len(kinds) < 3 else "any type to choose from"
        line = f"{rows}, so {count} cannot be {none}: they become {names}, or stay as they are."
    smaller = types.IQ4_NL
    if all(map(smaller.fits, matrices.values())) and smaller.bits_per_weight < least:
        line += f" {smaller.name}, which fits, is smaller: add it to --types."
    return line


def _named(kinds: Sequence[BlockType]) -> str:
    """All of a few types; of many the first and the last, by bits."""
    if len(kinds) <= _NAMED // 2:
        return ", ".join(kind.name for kind in kinds)
    by_bits = sorted(kinds, key=lambda kind: kind.bits_per_weight)
    return f"{by_bits[0].name} to {by_bits[-1].name}"


def _roles(names: Mapping[str, int]) -> str:
    """What the tensors are, whichever layer they are in: "token_embd, attn_q, …"."""
    roles = list(dict.fromkeys(_role(name) for name in names))
    return ", ".join(roles[:_NAMED]) + (", …" if len(roles) > _NAMED else "")


def _role(name: str) -> str:
    parts = name.removesuffix(".weight").split(".")
    return parts[-1]


def _listed(numbers: Sequence[int]) -> str:
    return " and ".join([", ".join(map(str, numbers[:-1])), str(numbers[-1])] if numbers[1:] else map(str, numbers))
