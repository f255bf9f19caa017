"""Files that lie: each named mutation must end in one line that names the problem, at once and without memory.

The files are made byte by byte here, not by a writer, since no writer makes them.
"""

import os
import pickle
import struct
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from smidgen.errors import BadFile, SmidgenError, Unsupported
from smidgen.formats.gguf.reader import MAX_HEADER_BYTES, MAX_KEYS, MAX_STRINGS, MAX_TENSORS, GGUFFile
from tests.formats.opening_cost import cost_of_opening

U8, U32, F32_VALUE, BOOL, STRING, ARRAY, U64 = 0, 4, 6, 7, 8, 9, 10
TENSOR_F32, TENSOR_Q8_0, TENSOR_Q4_K = 0, 8, 12


def string(text: str | bytes, length: int | None = None) -> bytes:
    raw = text.encode() if isinstance(text, str) else text
    return struct.pack("<Q", len(raw) if length is None else length) + raw


def pair(key: str | bytes, kind: int, payload: bytes) -> bytes:
    return string(key) + struct.pack("<I", kind) + payload


def array(element: int, count: int, payload: bytes = b"") -> bytes:
    return struct.pack("<IQ", element, count) + payload


def tensor(name: str | bytes, dimensions: tuple[int, ...], kind: int = TENSOR_F32, offset: int = 0) -> bytes:
    shape = struct.pack(f"<I{len(dimensions)}Q", len(dimensions), *dimensions)
    return string(name) + shape + struct.pack("<IQ", kind, offset)


def gguf(
    pairs: tuple[bytes, ...] = (),
    tensors: tuple[bytes, ...] = (),
    data: int = 0,
    *,
    magic: bytes = b"GGUF",
    version: int = 3,
    tensor_count: int | None = None,
    pair_count: int | None = None,
) -> bytes:
    """A file with these entries, padding to 32 and `data` bytes of weights; the counts may be made to lie."""
    counts = (
        len(tensors) if tensor_count is None else tensor_count,
        len(pairs) if pair_count is None else pair_count,
    )
    header = magic + struct.pack("<IQQ", version, *counts) + b"".join(pairs) + b"".join(tensors)
    return header + bytes(-len(header) % 32) + bytes(data)


ARCHITECTURE = pair("general.architecture", STRING, string("toy"))
WORDS = pair("toy.words", ARRAY, array(STRING, 3, string("one") + string("two") + string("drei")))
FLAGS = pair("toy.flags", ARRAY, array(BOOL, 2, b"\1\0"))


def good() -> bytes:
    tensors = (tensor("a", (8, 2)), tensor("b", (32, 2), TENSOR_Q8_0, offset=64))
    return gguf((ARCHITECTURE, WORDS, FLAGS), tensors, data=64 + 68)


def key(kind: int, payload: bytes) -> bytes:
    """A file whose only metadata has this value; the real ones around it would hide nothing."""
    return gguf((pair("toy.key", kind, payload),))


def one(name: str | bytes = "a", dimensions: tuple[int, ...] = (8,), kind: int = TENSOR_F32, offset: int = 0) -> bytes:
    """A file with one tensor and 4096 bytes for it."""
    return gguf((ARCHITECTURE,), (tensor(name, dimensions, kind, offset),), data=4096)


def alignment(value: int, kind: int = U32) -> bytes:
    payload = struct.pack("<Q" if kind == U64 else "<I", value)
    return gguf((pair("general.alignment", kind, payload),), (tensor("a", (8,)),), data=4096)


def split(number: int, count: int) -> tuple[bytes, ...]:
    """What a part says of itself."""
    return (
        pair("split.no", 2, struct.pack("<H", number)),
        pair("split.count", 2, struct.pack("<H", count)),
        pair("split.tensors.count", 5, struct.pack("<i", 2)),
    )


HUGE = (2**31, 2**32 - 1, 2**63 - 1, 2**63, 2**64 - 1)

# name: (bytes of the file, error, part of its message)
MUTATIONS: dict[str, tuple[bytes, type[SmidgenError], str]] = {
    "magic only": (b"GGUF", BadFile, "the version"),
    "three bytes": (b"GGU", BadFile, "not a GGUF"),
    "43 bytes, ends before an array's length": (
        gguf(pair_count=1)[:24] + string("toy") + struct.pack("<II", ARRAY, U8), BadFile, "length of metadata key toy"),
    "zeros": (bytes(4096), BadFile, "not a GGUF"),
    "wrong magic": (gguf(magic=b"GGUf"), BadFile, "b'GGUf'"),
    "before GGUF": (gguf(magic=b"tjgg"), BadFile, "before GGUF"),
    "version 0": (gguf(version=0), Unsupported, "version 0"),
    "version 1": (gguf(version=1), Unsupported, "version 1"),
    "version 4": (gguf(version=4), Unsupported, "version 4"),
    "big-endian": (gguf(version=3 << 24), Unsupported, "big-endian"),
    "more tensors than bytes": (gguf(tensor_count=100), BadFile, "100 tensors"),
    "one tensor too many": (gguf((ARCHITECTURE,), (tensor("a", (8,)),), tensor_count=2, data=32), BadFile, "tensor 1"),
    "one key too many": (gguf((ARCHITECTURE,), pair_count=2), BadFile, "key 1"),
    "too many keys": (gguf(pair_count=MAX_KEYS + 1), BadFile, "metadata keys"),
    "too many tensors": (gguf(tensor_count=MAX_TENSORS + 1), BadFile, "tensors"),
    "empty key": (gguf((pair("", U8, b"\0"),)), BadFile, "has 0 bytes"),
    "long key": (gguf((pair("k" * 65_536, U8, b"\0"),)), BadFile, "65536 bytes"),
    "key not UTF-8": (gguf((pair(b"a\xff", U8, b"\0"),)), BadFile, "not UTF-8"),
    "key of surrogates": (gguf((pair(b"\xed\xa0\x80", U8, b"\0"),)), BadFile, "not UTF-8"),
    "key with a line break": (gguf((pair("a\nb", U8, b"\0"),)), BadFile, "control characters"),
    "key with a terminal command": (gguf((pair("a\x1b[2J", U8, b"\0"),)), BadFile, "control characters"),
    "duplicate key": (gguf((ARCHITECTURE, ARCHITECTURE)), BadFile, "general.architecture appears twice"),
    "value type 13": (key(13, bytes(8)), BadFile, "value type 13"),
    "value type 2^32-1": (key(2**32 - 1, bytes(8)), BadFile, "value type 4294967295"),
    "element type 13": (key(ARRAY, array(13, 1, bytes(8))), BadFile, "value type 13"),
    "nested array": (key(ARRAY, array(ARRAY, 1, array(U8, 1, b"\0"))), Unsupported, "array of arrays"),
    "deeply nested array": (key(ARRAY, struct.pack("<IQ", ARRAY, 1) * 50_000), Unsupported, "array of arrays"),
    "truth value 2": (key(BOOL, b"\2"), BadFile, "neither 0 nor 1"),
    "truth value 255 in an array": (key(ARRAY, array(BOOL, 3, b"\0\xff\1")), BadFile, "neither 0 nor 1"),
    "value not UTF-8": (key(STRING, string(b"ab\xc3")), BadFile, "not UTF-8"),
    "token not UTF-8": (key(ARRAY, array(STRING, 2, string("a") + string(b"\xff"))), BadFile, "string 1"),
    "token past the end": (key(ARRAY, array(STRING, 2, string("a") + string("b", 99))), BadFile, "string 1"),
    "alignment 0": (alignment(0), BadFile, "alignment is 0"),
    "alignment 1": (alignment(1), BadFile, "alignment is 1"),
    "alignment 48": (alignment(48), BadFile, "alignment is 48"),
    "alignment 2^31": (alignment(2**31), BadFile, "alignment is 2147483648"),
    "alignment of 64 bits": (alignment(32, U64), BadFile, "32-bit"),
    "alignment as text": (gguf((pair("general.alignment", STRING, string("32")),)), BadFile, "32-bit"),
    "alignment as truth": (gguf((pair("general.alignment", BOOL, b"\1"),)), BadFile, "32-bit"),
    "tensor without a name": (one(""), BadFile, "has 0 bytes"),
    "tensor name of 64 bytes": (one("n" * 64), BadFile, "64 bytes"),
    "tensor name not UTF-8": (one(b"\x80"), BadFile, "not UTF-8"),
    "tensor name with a zero": (one("a\0b"), BadFile, "control characters"),
    "tensor without dimensions": (one(dimensions=()), BadFile, "0 dimensions"),
    "tensor of five dimensions": (one(dimensions=(1, 1, 1, 1, 1)), BadFile, "5 dimensions"),
    "tensor of 2^32-1 dimensions": (
        gguf((), (string("a") + struct.pack("<I", 2**32 - 1),), data=99), BadFile, "4294967295 dimensions"),
    "no columns": (one(dimensions=(0,)), BadFile, "no dimension may be 0"),
    "no rows": (one(dimensions=(8, 0)), BadFile, "no dimension may be 0"),
    "product wraps to 0": (one(dimensions=(2**32, 2**32)), BadFile, "ends at byte"),
    "product wraps to 8": (one(dimensions=(2**63 + 4, 2)), BadFile, "ends at byte"),
    "block type whose bytes wrap": (one(dimensions=(2**63, 2), kind=TENSOR_Q8_0), BadFile, "ends at byte"),
    "row of 33 in Q8_0": (one(dimensions=(33,), kind=TENSOR_Q8_0), BadFile, "multiple of 32"),
    "row of 32 in Q4_K": (one(dimensions=(32, 8), kind=TENSOR_Q4_K), BadFile, "multiple of 256"),
    "row of 32 in IQ2_XXS": (one(dimensions=(32, 8), kind=16), BadFile, "IQ2_XXS needs a multiple of 256"),
    "row of 32 in NVFP4": (one(dimensions=(32, 8), kind=40), BadFile, "NVFP4 needs a multiple of 64"),
    "one row too many in MXFP4": (one(dimensions=(32, 241), kind=39), BadFile, "ends at byte"),
    "type that came later": (one(kind=43), Unsupported, "number 43"),
    "removed type": (one(kind=4), Unsupported, "number 4"),
    "type 2^32-1": (one(kind=2**32 - 1), Unsupported, "number 4294967295"),
    "one row too many": (one(dimensions=(8, 129)), BadFile, "ends at byte"),
    "offset not aligned": (one(offset=16), BadFile, "multiple of the alignment"),
    "offset past the end": (one(offset=4096), BadFile, "ends at byte"),
    "same tensor twice": (
        gguf((), (tensor("a", (8,)), tensor("a", (8,), offset=32)), data=64), BadFile, "a appears twice"),
    "overlap": (gguf((), (tensor("a", (16,)), tensor("b", (8,), offset=32)), data=64), BadFile, "a and b overlap"),
    "overlap in reverse": (
        gguf((), (tensor("b", (8,), offset=32), tensor("a", (16,))), data=64), BadFile, "a and b overlap"),
    "same place": (gguf((), (tensor("a", (8,)), tensor("b", (8,))), data=64), BadFile, "overlap"),
    "part of a split model without its number": (
        gguf((ARCHITECTURE, pair("split.count", 2, struct.pack("<H", 3)))), BadFile, "no split.no"),
    "part 4 of 3": (
        gguf((ARCHITECTURE, *split(3, 3))), BadFile, "split.no is 3, but there are 3 parts"),
    "part of too many": (gguf((ARCHITECTURE, *split(0, 65535))), BadFile, "65535, more parts than any"),
    "part under another name": (
        gguf((ARCHITECTURE, *split(0, 3))), BadFile, "its name must end in -00001-of-00003.gguf"),
    "number of parts as text": (
        gguf((ARCHITECTURE, pair("split.count", STRING, string("3")))), BadFile, "split.count must be a 16-bit"),
    "number of parts in 32 bits": (
        gguf((ARCHITECTURE, pair("split.count", U32, struct.pack("<I", 3)))), BadFile, "split.count must be a 16-bit"),
}  # fmt: skip
for number in HUGE:
    MUTATIONS |= {
        f"{number} tensors": (gguf(tensor_count=number), BadFile, f"{number} tensors"),
        f"{number} keys": (gguf(pair_count=number), BadFile, f"{number} metadata keys"),
        f"key of {number} bytes": (gguf((string("k", number),), data=99), BadFile, f"{number} bytes"),
        f"string of {number} bytes": (key(STRING, string("v", number)), BadFile, f"{number} bytes"),
        f"array of {number} bytes": (key(ARRAY, array(U8, number)), BadFile, f"{number} bytes"),
        f"array of {number} 64-bit numbers": (key(ARRAY, array(U64, number)), BadFile, f"{8 * number} bytes"),
        f"array of {number} strings": (key(ARRAY, array(STRING, number)), BadFile, f"{8 * number} bytes"),
        f"array of {number} arrays": (key(ARRAY, array(ARRAY, number)), Unsupported, "array of arrays"),
        f"token of {number} bytes": (key(ARRAY, array(STRING, 1, string("", number))), BadFile, f"{number} bytes"),
        f"tensor name of {number} bytes": (gguf((), (string("n", number),), data=99), BadFile, f"{number} bytes"),
        f"row of {number}": (one(dimensions=(number,)), BadFile, "ends at byte"),
        f"{number} rows": (one(dimensions=(8, number)), BadFile, "ends at byte"),
        f"{number} in four dimensions": (one(dimensions=(number,) * 4), BadFile, "ends at byte"),
        f"offset {number & ~31}": (one(offset=number & ~31), BadFile, "ends at byte"),
    }


def refused(path: Path, error: type[SmidgenError], fragment: str) -> None:
    """Opening fails with exactly this kind of error, in one line that names the file and the problem."""
    with pytest.raises(SmidgenError) as caught:
        GGUFFile.open(path)
    message = str(caught.value)
    assert caught.type is error, message
    assert message.isprintable(), message
    assert fragment in message
    assert len(message) < 700


def test_the_file_that_the_mutations_start_from_is_good(tmp_path: Path) -> None:
    path = tmp_path / "good.gguf"
    path.write_bytes(good())
    with GGUFFile.open(path) as file:
        assert file.metadata["toy.words"] == ["one", "two", "drei"]
        assert list(file.tensors) == ["a", "b"]
        assert file.packed("b").shape == (2, 34)


@pytest.mark.parametrize("name", MUTATIONS)
def test_mutation(name: str, tmp_path: Path) -> None:
    content, error, fragment = MUTATIONS[name]
    path = tmp_path / "lie.gguf"
    path.write_bytes(content)
    refused(path, error, fragment)


def test_every_truncation_is_refused(tmp_path: Path) -> None:
    whole = good()
    path = tmp_path / "cut.gguf"
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        refused(path, BadFile, "cut.gguf")


def test_a_file_without_tensors_or_metadata_is_read(tmp_path: Path) -> None:
    (tmp_path / "bare.gguf").write_bytes(gguf()[:24])
    with GGUFFile.open(tmp_path / "bare.gguf") as file:
        assert (file.metadata, file.tensors) == ({}, {})


def test_empty_arrays_and_strings_are_read(tmp_path: Path) -> None:
    pairs = (pair("s", STRING, string("")), pair("w", ARRAY, array(STRING, 0)), pair("n", ARRAY, array(F32_VALUE, 0)))
    (tmp_path / "empty.gguf").write_bytes(gguf(pairs))
    with GGUFFile.open(tmp_path / "empty.gguf") as file:
        assert file.metadata["s"] == ""
        assert file.metadata["w"] == []
        numbers = file.metadata["n"]
        assert isinstance(numbers, np.ndarray) and numbers.shape == (0,) and numbers.dtype == np.float32


FOREIGN = {
    "pickle": (pickle.dumps({"weight": [1.0]}), "pickle"),
    "safetensors": (struct.pack("<Q", 30) + b'{"a":{"dtype":"F32"}}'.ljust(30) + bytes(64), "safetensors"),
    "web page": (b"\n<!DOCTYPE html><html>404</html>", "web page"),
    "XML": (b"<?xml version='1.0'?><Error>AccessDenied</Error>", "web page"),
    "JSON": (b'{"error": "not found"}', "JSON"),
    "LFS pointer": (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n", "git lfs pull"),
    "gzip": (b"\x1f\x8b\x08" + bytes(99), "gzip"),
    "text": ("Ünïcode\n".encode(), "starts with"),
}


@pytest.mark.parametrize("name", FOREIGN)
def test_other_kinds_of_file_are_named(name: str, tmp_path: Path) -> None:
    content, fragment = FOREIGN[name]
    (tmp_path / "model.gguf").write_bytes(content)
    refused(tmp_path / "model.gguf", BadFile, fragment)


def test_a_pytorch_checkpoint_is_named_and_not_opened(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "model.gguf", "w") as archive:
        archive.writestr("archive/data.pkl", b"\x80\x02.")
    refused(tmp_path / "model.gguf", BadFile, "PyTorch checkpoint")


def test_paths_that_are_not_files(tmp_path: Path) -> None:
    (tmp_path / "empty.gguf").touch()
    (tmp_path / "loop.gguf").symlink_to(tmp_path / "loop.gguf")
    refused(tmp_path, BadFile, "is a folder")
    refused(tmp_path / "none.gguf", BadFile, "does not exist")
    refused(tmp_path / "empty.gguf" / "x", BadFile, "empty.gguf")
    refused(tmp_path / "empty.gguf", BadFile, "is empty")
    refused(tmp_path / "loop.gguf", BadFile, "loop.gguf")
    refused(tmp_path / ("n" * 300), BadFile, "cannot be opened")
    refused(tmp_path / "a\nb", BadFile, "a\\nb")
    refused(Path("a\0b"), BadFile, "cannot be opened")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes on this system")
def test_pipes_and_devices_are_refused_without_waiting(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.gguf")
    refused(tmp_path / "pipe.gguf", BadFile, "not a regular file")
    refused(Path("/dev/zero"), BadFile, "not a regular file")


def test_a_file_that_may_not_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By a patch, since tests may run as root, who may read everything."""
    (tmp_path / "secret.gguf").write_bytes(good())

    def forbidden(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", forbidden)
    refused(tmp_path / "secret.gguf", BadFile, "permissions")


def sparse(path: Path, start: bytes, size: int) -> None:
    """A file that claims `size` bytes but takes no room on disk; the rest reads as zeros."""
    with path.open("wb") as file:
        file.write(start)
        file.truncate(size)


def test_files_of_a_terabyte_are_refused_or_read_at_once(tmp_path: Path) -> None:
    path, terabyte = tmp_path / "sparse.gguf", 2**40
    sparse(path, key(STRING, string("", 2**39)), terabyte)
    refused(path, BadFile, str(MAX_HEADER_BYTES))
    sparse(path, key(ARRAY, array(U64, 2**36)), terabyte)
    refused(path, BadFile, str(MAX_HEADER_BYTES))
    sparse(path, key(ARRAY, array(STRING, 2**36)), terabyte)
    refused(path, BadFile, str(MAX_HEADER_BYTES))
    sparse(path, gguf((), (tensor("a", (2**30, 2**7)),)), terabyte)
    with GGUFFile.open(path) as file:
        assert file.packed("a").shape == (2**7, 2**32)


def three_halves_of_strings() -> tuple[bytes, ...]:
    return tuple(pair(f"w{part}", ARRAY, array(STRING, MAX_STRINGS // 2, bytes(4 * MAX_STRINGS))) for part in range(3))


def most_tensors() -> tuple[bytes, ...]:
    return tuple(tensor(f"t{index}", (1, 1, 1, 1), offset=32 * index) for index in range(MAX_TENSORS))


NEARLY_ALL = MAX_HEADER_BYTES - 99

HEAVY: dict[str, Callable[[], bytes]] = {
    "most strings": lambda: key(ARRAY, array(STRING, MAX_STRINGS, string("é日") * MAX_STRINGS)),
    "most and widest strings": lambda: key(ARRAY, array(STRING, MAX_STRINGS, string("a" * 10 + "😀") * MAX_STRINGS)),
    "too many strings": lambda: gguf(three_halves_of_strings()),
    "empty strings": lambda: key(ARRAY, array(STRING, MAX_STRINGS, bytes(8 * MAX_STRINGS))),
    "one wide string": lambda: key(STRING, string("a" * NEARLY_ALL + "😀")),
    "most tensors": lambda: gguf((), most_tensors(), 32 * MAX_TENSORS),
    "most keys": lambda: gguf(tuple(pair(f"k{index}", STRING, string("v" * 99)) for index in range(MAX_KEYS))),
    "most numbers": lambda: key(ARRAY, array(BOOL, NEARLY_ALL, bytes(NEARLY_ALL))),
}


@pytest.mark.skipif(sys.platform != "linux", reason="peak memory is read from /proc")
@pytest.mark.parametrize("name", HEAVY)
def test_the_heaviest_headers_stay_within_5_seconds_and_500_megabytes(name: str, tmp_path: Path) -> None:
    (tmp_path / "heavy.gguf").write_bytes(HEAVY[name]())
    outcome, seconds, peak = cost_of_opening(GGUFFile, tmp_path / "heavy.gguf")
    assert outcome == ("refused" if name == "too many strings" else "read")
    assert seconds < 5 and peak < 500e6, (seconds, peak)
