"""Good safetensors files, damaged at random: the reader accepts or refuses them, and does nothing else.

What it accepts, the `safetensors` library must accept as well, and read the same tensors from. Seeded, so that a
failure can be had again.
"""

import json
import struct
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import save

from smidgen.errors import SmidgenError
from smidgen.formats.hf.safetensors_reader import SafetensorsFile

GOOD = save(
    {"a": torch.randn(2, 3), "b": torch.randn(5).half(), "c.weight": torch.randn(2, 2, 2).bfloat16()}, {"format": "pt"}
)
INTERESTING = (0, 1, 7, 8, 9, 255, 2**16, 2**31, 2**32 - 1, 2**53, 2**63 - 1, 2**63, 2**64 - 1)

bounded = settings(
    deadline=None, derandomize=True, database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)  # fmt: skip


def agrees(path: Path) -> bool:
    """Open; a refusal is one printable line, an accepted file holds what the library sees. True if accepted."""
    start = time.process_time()
    try:
        opened = SafetensorsFile.open(path)
    except SmidgenError as error:
        assert str(error).isprintable()
        assert time.process_time() - start < 5
        return False
    with opened, safe_open(path, "pt") as library:
        assert set(library.keys()) == set(opened.tensors)
        for name, info in opened.tensors.items():
            tensor = library.get_tensor(name)
            assert tuple(tensor.shape) == info.shape
            assert tensor.contiguous().view(-1).view(torch.uint8).numpy().tobytes() == opened.packed(name).tobytes()
    return True


pieces = st.one_of(
    st.sampled_from([b'"', b"{", b"}", b"[", b"]", b",", b":", b"\\", b"0", b"-1", b"1e9", b"null", b"\0", b"\xff"]),
    st.sampled_from([b'"shape"', b'"dtype"', b'"F16"', b'"BF16"', b'"I8"', b"[0,24]", b"[]", b'"__metadata__":{},']),
    st.binary(min_size=1, max_size=8),
)
damages = st.lists(
    st.tuples(st.sampled_from(["put", "insert", "delete", "repeat"]), pieces, st.floats(0, 1, exclude_max=True)),
    min_size=1, max_size=3,
)  # fmt: skip


@settings(bounded, max_examples=1500)
@given(damage=damages, mend=st.booleans())
def test_a_small_file_with_damage(tmp_path: Path, damage: list[tuple[str, bytes, float]], mend: bool) -> None:
    """`mend` sets the header's length right again, so that damage reaches behind the first check."""
    (length,) = struct.unpack("<Q", GOOD[:8])
    header, data = bytearray(GOOD[8 : 8 + length]), GOOD[8 + length :]
    for what, piece, where in damage:
        at = int(where * len(header))
        if what == "put":
            header[at : at + len(piece)] = piece
        elif what == "insert":
            header[at:at] = piece
        elif what == "delete":
            del header[at : at + len(piece)]
        else:
            header[at:at] = header[at : at + 40]
    (tmp_path / "fuzz").write_bytes(struct.pack("<Q", len(header) if mend else length) + header + data)
    agrees(tmp_path / "fuzz")


numbers = st.sampled_from(INTERESTING) | st.integers(-2, 40)
entries = st.fixed_dictionaries(
    {
        "dtype": st.sampled_from(["F32", "F16", "BF16", "I64"]),
        "shape": st.lists(numbers, max_size=3),
        "data_offsets": st.lists(numbers, min_size=2, max_size=2),
    }
)


@settings(bounded, max_examples=1000)
@given(header=st.dictionaries(st.sampled_from(["a", "b", "c"]), entries, max_size=3), size=st.integers(0, 40))
def test_headers_of_any_numbers(tmp_path: Path, header: dict[str, Any], size: int) -> None:
    text = json.dumps(header).encode()
    (tmp_path / "fuzz").write_bytes(struct.pack("<Q", len(text)) + text + bytes(size))
    agrees(tmp_path / "fuzz")


@settings(bounded, max_examples=300)
@given(shapes=st.lists(st.tuples(st.sampled_from(["F32", "F16", "BF16"]), st.lists(st.integers(1, 4), max_size=3))))
def test_good_files_are_accepted(tmp_path: Path, shapes: list[tuple[str, list[int]]]) -> None:
    kinds = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
    tensors = {f"t{index}": torch.randn(shape).to(kinds[kind]) for index, (kind, shape) in enumerate(shapes)}
    (tmp_path / "fuzz").write_bytes(save(tensors))
    assert agrees(tmp_path / "fuzz")


@settings(bounded, max_examples=300)
@given(noise=st.binary(max_size=200), length=numbers.filter(lambda number: number >= 0))
def test_noise(tmp_path: Path, noise: bytes, length: int) -> None:
    (tmp_path / "fuzz").write_bytes(struct.pack("<Q", length) + b"{" + noise)
    agrees(tmp_path / "fuzz")


def test_the_file_that_the_damage_starts_from_is_good(tmp_path: Path) -> None:
    (tmp_path / "good").write_bytes(GOOD)
    assert agrees(tmp_path / "good")
    with pytest.raises(SmidgenError):
        SafetensorsFile.open(tmp_path / "none")
