"""Sizes as people write them."""

import pytest

from smidgen.errors import SmidgenError
from smidgen.sizes import format_size, parse_size


@pytest.mark.parametrize(
    "text, size",
    [
        ("165MB", 165_000_000), ("1.2GB", 1_200_000_000), ("1.2 gb", 1_200_000_000), ("512MiB", 512 * 2**20),
        ("1GiB", 2**30), ("90KB", 90_000), ("4096", 4096), ("7 B", 7),
    ],
)  # fmt: skip
def test_parse(text: str, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["", "MB", "-5MB", "1e9", "12 parsecs", "0MB", "1.2.3GB", "9999999999999GB", "nan"])
def test_refuse(text: str) -> None:
    with pytest.raises(SmidgenError, match="is not a size"):
        parse_size(text)


@pytest.mark.parametrize(
    "size, text",
    [
        (999, "999 bytes"),
        (1500, "1.5 kB"),
        (164_997_888, "165.0 MB"),
        (1_200_000_000, "1.2 GB"),
        (99_900_000, "99.9 MB"),
    ],
)
def test_format(size: int, text: str) -> None:
    assert format_size(size) == text
