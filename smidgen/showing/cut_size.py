"""The size that the tab *Cut* proposes, and what the command says of sizes, as words for a page."""

import math
import re
from pathlib import Path

from smidgen.formats.gguf.reader import GGUFFile

_BITS, _BLOCK = 4.5, 32  # a weight in, and weights to a block of, the smallest type that a cut chooses from
_SPARE = 1.05  # the smallest file possible is a little larger: not every matrix is made smaller, and the header grows
_UNITS = (("GB", 10**9, 2), ("MB", 10**6, 1), ("kB", 10**3, 1), ("B", 1, 0))  # with decimals
_REFUSAL = re.compile(
    r"(?P<what>the smallest possible file is(?: about)? (?P<bytes>\d{1,18}) bytes)\b.*?(?: or more\.| --fit\.)"
)


def proposed_size(path: Path) -> str:
    """Two thirds of a model's file, or about as small as its matrices can be made where that is larger.

    Never more than the file itself. Raises SmidgenError as `GGUFFile.open`.
    """
    with GGUFFile.open(path) as file:
        spared = 0.0
        for tensor in file.tensors.values():
            if len(tensor.shape) > 1 and tensor.shape[-1] % _BLOCK == 0:
                spared += max(0.0, tensor.nbytes * (1 - _BITS / tensor.kind.bits_per_weight))
        return size_of_at_least(min(file.size, max(file.size * 2 / 3, (file.size - spared) * _SPARE)))


def size_of_at_least(count: float) -> str:
    """Bytes as a size that the field takes, rounded up: 77.6 MB."""
    unit, factor, decimals = next(one for one in _UNITS if count >= one[1] or one[1] == 1)
    return f"{math.ceil(count / factor * 10**decimals) / 10**decimals:.10g} {unit}"


def said_on_page(error: str) -> str:
    """The command's refusal of a size, with what to put in the field instead of what to type."""
    found = _REFUSAL.search(error)
    if found is None:
        return error
    least = size_of_at_least(int(found["bytes"]))
    return f"{error[: found.start()]}{found['what']}. Choose a size of at least {least}.{error[found.end() :]}"
