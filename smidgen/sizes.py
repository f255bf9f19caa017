"""Sizes as people write them: `165MB`, `1.2GB` (powers of 1000), `512MiB`, `1GiB` (powers of 1024). Torch-free."""

import re

from smidgen.errors import SmidgenError

_UNITS = {"": 1, "B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "KIB": 2**10, "MIB": 2**20, "GIB": 2**30}
_PATTERN = re.compile(r"\s*(\d+(?:\.\d+)?)\s*([A-Za-z]*)\s*")


def parse_size(text: str) -> int:
    """`"165MB"` → 165000000. Raises SmidgenError for anything else."""
    match = _PATTERN.fullmatch(text)
    if not match or match[2].upper() not in _UNITS:
        raise SmidgenError(f"{text!r} is not a size. Write it like 165MB, 1.2GB or 512MiB.")
    size = int(float(match[1]) * _UNITS[match[2].upper()])
    if not 0 < size < 2**63:
        raise SmidgenError(f"{text!r} is not a size a file can have. Write it like 165MB, 1.2GB or 512MiB.")
    return size


def format_size(size: int) -> str:
    """Bytes for people, in powers of 1000: `"164.9 MB"`."""
    for unit, factor in (("GB", 10**9), ("MB", 10**6), ("kB", 10**3)):
        if size >= factor:
            return f"{size / factor:.3g} {unit}" if size < 100 * factor else f"{size / factor:.1f} {unit}"
    return f"{size} bytes"
