"""Safetensors files that lie: each named mutation must end in one line that names the problem, at once, without memory.

The files are made byte by byte here, not by a writer, since no writer makes them. Good files are compared with what the
`safetensors` library reads.
"""

import json
import os
import pickle
import struct
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from smidgen.errors import BadFile, SmidgenError, Unsupported
from smidgen.formats.hf.safetensors_reader import (
    MAX_HEADER_BYTES,
    MAX_NAME_BYTES,
    MAX_TENSORS,
    SafetensorsFile,
    narrowed,
)
from tests.formats.opening_cost import cost_of_opening


def raw(header: str | bytes, data: int = 0, length: int | None = None) -> bytes:
    """A file with this header text and `data` bytes behind it; the header's length may be made to lie."""
    text = header.encode() if isinstance(header, str) else header
    return struct.pack("<Q", len(text) if length is None else length) + text + bytes(data)


def entry(shape: Any = (2,), offsets: Any = (0, 8), dtype: Any = "F32") -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": offsets}


def file(data: int = 8, **tensors: Any) -> bytes:
    return raw(json.dumps(tensors), data)


def one(data: int = 8, **fields: Any) -> bytes:
    """A file with the tensor `a`, two numbers unless told otherwise."""
    return file(data, a=entry(**fields))


def named(name: str) -> bytes:
    return raw(json.dumps({name: entry()}), 8)


A, B = entry(), entry(offsets=(8, 16))
HUGE = (2**31, 2**32, 2**53, 2**62, 2**63 - 1)

# name: (bytes of the file, error, part of its message)
MUTATIONS: dict[str, tuple[bytes, type[SmidgenError], str]] = {
    "one byte": (b"\x02", BadFile, "not a safetensors"),
    "length only": (struct.pack("<Q", 2), BadFile, "not a safetensors"),
    "zeros": (bytes(4096), BadFile, "zero"),
    "length 0": (raw("{}", length=0), BadFile, "not valid JSON"),
    "length beyond the file": (raw("{}", length=3), BadFile, "ends at byte 11, but the file has 10"),
    "length 2^63": (raw("{}", length=2**63), BadFile, "ends at byte"),
    "length 2^64-1": (raw("{}", length=2**64 - 1), BadFile, "ends at byte"),
    "length cuts the header": (raw(json.dumps({"a": A}), 8, length=20), BadFile, "not valid JSON"),
    "header is a list": (raw("[]"), BadFile, "not a safetensors"),
    "header is not JSON": (raw("{a: 1}"), BadFile, "not valid JSON"),
    "header not UTF-8": (raw(b'{"\xff": 1}'), BadFile, "not valid JSON"),
    "header in UTF-16": (raw('{"a": 1}'.encode("utf-16-le")), BadFile, "not valid JSON"),
    "text behind the header": (raw('{} {"a": 1}'), BadFile, "not valid JSON"),
    "nested deeply": (raw('{"a":' * 100_000), BadFile, "nested"),
    "nested 65 levels": (raw('{"a":' * 65 + "1" + "}" * 65), BadFile, "nested"),
    "number of 5000 digits": (raw('{"a": ' + "9" * 5000 + "}"), BadFile, "not valid JSON"),
    "not a number": (raw('{"a": NaN}'), BadFile, "NaN"),
    "infinity by exponent": (raw('{"a": 1e999}'), BadFile, "too large"),
    "same tensor twice": (raw(f'{{"a": {json.dumps(A)}, "a": {json.dumps(B)}}}', 16), BadFile, "a appears twice"),
    "same field twice": (
        raw('{"a": {"dtype": "F32", "shape": [2], "shape": [2], "data_offsets": [0, 8]}}', 8), BadFile, "shape app"),
    "name with half a surrogate pair": (raw(f'{{"\\ud800": {json.dumps(A)}}}', 8), BadFile, "not valid JSON"),
    "name empty": (named(""), BadFile, "tensor name ''"),
    "name too long": (named("n" * (MAX_NAME_BYTES + 1)), BadFile, "too long"),
    "name too long in bytes": (named("ü" * MAX_NAME_BYTES), BadFile, "too long"),
    "name with a line break": (named("a\nb"), BadFile, "control characters"),
    "name with a terminal command": (named("a\x1b[2J"), BadFile, "control characters"),
    "name with a zero": (named("a\0"), BadFile, "control characters"),
    "name written right to left": (named("a\u202eb"), BadFile, "control characters"),
    "metadata is a list": (file(0, __metadata__=[]), BadFile, "__metadata__"),
    "metadata of numbers": (file(0, __metadata__={"a": 1}), BadFile, "__metadata__"),
    "too much metadata": (file(0, __metadata__={str(n): "" for n in range(20_000)}), BadFile, "20000 keys"),
    "entry is a number": (file(a=1), BadFile, "must have dtype"),
    "entry is null": (file(a=None), BadFile, "must have dtype"),
    "entry is empty": (file(a={}), BadFile, "must have dtype"),
    "entry without offsets": (file(a={"dtype": "F32", "shape": [2]}), BadFile, "must have dtype"),
    "entry with more": (file(a=A | {"order": "F"}), BadFile, "nothing else"),
    "dtype is a number": (one(dtype=0), BadFile, "dtype"),
    "dtype is a list": (one(dtype=["F32"]), BadFile, "dtype"),
    "shape is a number": (one(shape=2), BadFile, "whole numbers"),
    "shape is text": (one(shape="2"), BadFile, "whole numbers"),
    "shape with text": (one(shape=["2"]), BadFile, "whole numbers"),
    "shape with a fraction": (one(shape=[2.0]), BadFile, "whole numbers"),
    "shape with a truth value": (one(4, shape=[True], offsets=(0, 4)), BadFile, "whole numbers"),
    "shape with a list": (one(shape=[[2]]), BadFile, "whole numbers"),
    "shape with null": (one(shape=[None]), BadFile, "whole numbers"),
    "shape negative": (one(shape=[-2]), BadFile, "whole numbers"),
    "shape negative twice": (one(shape=[-2, -1]), BadFile, "whole numbers"),
    "shape 2^63": (one(shape=[2**63]), BadFile, "whole numbers"),
    "nine dimensions": (one(shape=[1] * 8 + [2]), BadFile, "9 dimensions"),
    "empty tensor": (one(0, shape=[0], offsets=(0, 0)), BadFile, "is empty"),
    "matrix without columns": (one(0, shape=[4, 0], offsets=(0, 0)), BadFile, "is empty"),
    "0 times 2^62": (one(0, shape=[0, 2**62], offsets=(0, 0)), BadFile, "is empty"),
    "product wraps to 0": (one(0, shape=[2**32, 2**32], offsets=(0, 0)), BadFile, "needs"),
    "product wraps to 8": (one(shape=[2**62, 2**62, 2], offsets=(0, 8)), BadFile, "needs"),
    "offsets of one": (one(offsets=[0]), BadFile, "not a beginning and an end"),
    "offsets of three": (one(offsets=[0, 8, 8]), BadFile, "not a beginning and an end"),
    "offsets reversed": (one(offsets=[8, 0]), BadFile, "not a beginning and an end"),
    "offsets negative": (one(offsets=[-8, 0]), BadFile, "whole numbers"),
    "offsets of fractions": (one(offsets=[0.0, 8.0]), BadFile, "whole numbers"),
    "offset beyond the end": (one(offsets=(8, 16)), BadFile, "ends at byte"),
    "too few bytes for the shape": (one(shape=[3]), BadFile, "needs 12"),
    "too many bytes for the shape": (one(shape=[1]), BadFile, "needs 4"),
    "half the bytes for the type": (one(dtype="F16"), BadFile, "needs 4"),
    "same place": (file(a=A, b=A), BadFile, "overlap"),
    "overlap": (file(12, a=A, b=entry(offsets=(4, 12))), BadFile, "overlap at byte"),
    "hole at the start": (file(16, a=B), BadFile, "8 bytes between the header and a"),
    "hole between": (file(24, a=A, b=entry(offsets=(16, 24))), BadFile, "8 bytes between a and b"),
    "bytes behind the last": (one(9), BadFile, "last 1 bytes"),
    "bytes but no tensors": (raw("{}", 8), BadFile, "last 8 bytes"),
    "data cut off": (one(7), BadFile, "ends at byte"),
    "too many tensors": (file(0, **{f"t{n}": 0 for n in range(MAX_TENSORS + 1)}), BadFile, "more than the"),
    "very many tensors": (raw("{" + '"":0,' * 400_000 + '"a":0}'), BadFile, "more tensors"),
    "integers of too few bytes": (one(dtype="I64"), BadFile, "I64 of shape (2,) needs 16"),
    "unknown type": (one(dtype="X\x1b99"), Unsupported, "X\\x1b99"),
}  # fmt: skip
for number in HUGE:
    MUTATIONS |= {
        f"{number} numbers": (one(shape=[number]), BadFile, "needs"),
        f"{number} rows": (one(shape=[number, 2]), BadFile, "needs"),
        f"{number} in eight dimensions": (one(shape=[number] * 8), BadFile, "needs"),
        f"ends at {number}": (one(shape=[number // 4], offsets=(0, number)), BadFile, "ends at byte"),
        f"begins at {number - 8}": (one(offsets=(number - 8, number)), BadFile, "ends at byte"),
    }


def refused(path: Path, error: type[SmidgenError], fragment: str) -> None:
    """Opening fails with exactly this kind of error, in one line that names the file and the problem."""
    with pytest.raises(SmidgenError) as caught:
        SafetensorsFile.open(path)
    message = str(caught.value)
    assert caught.type is error, message
    assert message.isprintable(), message
    assert fragment in message
    assert len(message) < 700


@pytest.mark.parametrize("name", MUTATIONS)
def test_mutation(name: str, tmp_path: Path) -> None:
    content, error, fragment = MUTATIONS[name]
    path = tmp_path / "lie.safetensors"
    path.write_bytes(content)
    refused(path, error, fragment)


@pytest.mark.parametrize("dtype", [torch.int64, torch.int8, torch.bool, torch.float8_e4m3fn])
def test_types_that_only_buffers_have(dtype: torch.dtype, tmp_path: Path) -> None:
    """They may be there, as masks and counters are; a weight may not be of them."""
    save_file({"mask": torch.ones(3, 5).to(dtype), "weight": torch.ones(2)}, tmp_path / "buffers.safetensors")
    with SafetensorsFile.open(tmp_path / "buffers.safetensors") as opened:
        opened.refuse_unread(["weight"])
        with pytest.raises(Unsupported, match="tensor mask has type .*; smidgen reads F64, F32, F16, BF16"):
            opened.refuse_unread(["weight", "mask"])


def test_numbers_of_64_bits_narrow_to_the_nearest(tmp_path: Path) -> None:
    values = torch.tensor([[1 / 3, -2.5, 1e-50], [1e300, float("nan"), 7.0]], dtype=torch.float64)
    save_file({"wide": values}, tmp_path / "wide.safetensors")
    with SafetensorsFile.open(tmp_path / "wide.safetensors") as opened:
        found = narrowed(opened.packed("wide")).view("<f4")
        assert np.array_equal(found, values.float().numpy(), equal_nan=True)


def test_every_truncation_is_refused(tmp_path: Path) -> None:
    whole = file(16, a=A, b=B)
    path = tmp_path / "cut.safetensors"
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        refused(path, BadFile, "cut.safetensors")


WEIGHTS = {
    "matrix": torch.randn(3, 5),
    "halves": torch.randn(7, 4).half(),
    "brain halves": torch.randn(2, 6).bfloat16(),
    "vector": torch.randn(9),
    "scalar": torch.tensor(2.5),
    "experts": torch.randn(2, 3, 4).bfloat16(),
    "ünïcode": torch.randn(1),
}
NUMPY_TYPES = {"F32": "<f4", "F16": "<f2", "BF16": "<u2"}


def test_good_files_hold_what_the_library_reads(tmp_path: Path) -> None:
    path = tmp_path / "good.safetensors"
    save_file(WEIGHTS, path, metadata={"format": "pt"})
    with SafetensorsFile.open(path) as opened:
        assert opened.metadata == {"format": "pt"}
        assert opened.size == path.stat().st_size
        library = load_file(path)
        assert set(opened.tensors) == set(library)
        for name, expected in library.items():
            info, packed = opened.tensors[name], opened.packed(name)
            assert info.shape == tuple(expected.shape)
            assert packed.shape == (max(1, expected.numel() // (info.shape or (1,))[-1]), packed.shape[1])
            assert not packed.flags.writeable
            bits = expected if info.kind.name != "BF16" else expected.view(torch.uint16)
            assert np.array_equal(packed.view(NUMPY_TYPES[info.kind.name]).reshape(info.shape), bits.numpy())


def test_views_outlive_the_file_and_its_pages(tmp_path: Path) -> None:
    save_file({"a": torch.arange(6.0).reshape(2, 3)}, tmp_path / "a.safetensors")
    opened = SafetensorsFile.open(tmp_path / "a.safetensors")
    view = opened.packed("a").view(np.float32)
    opened.release()
    opened.close()
    opened.release()
    assert view.tolist() == [[0, 1, 2], [3, 4, 5]]
    with pytest.raises(ValueError, match="closed"):
        opened.packed("a")


def test_released_pages_leave_memory(tmp_path: Path) -> None:
    """The resident set, as Linux counts it, shrinks by what was read."""
    if sys.platform != "linux":
        pytest.skip("the resident set is read from /proc")

    def resident() -> int:
        return int(Path("/proc/self/statm").read_text().split()[2]) * os.sysconf("SC_PAGE_SIZE")  # shared pages only

    size = 32 * 2**20
    path = tmp_path / "large.safetensors"
    path.write_bytes(raw(json.dumps({"a": entry([size // 4], [0, size])}), size))
    with SafetensorsFile.open(path) as opened:
        before = resident()
        opened.packed("a").sum()
        assert resident() - before > size // 2
        opened.release()
        assert resident() - before < size // 2


def test_tensors_that_are_not_aligned_can_be_read_as_numbers(tmp_path: Path) -> None:
    header = json.dumps({"a": entry([1], [0, 2], "F16"), "b": entry([1], [2, 6])})
    numbers = struct.pack("<ef", 0.5, 1.25)
    for padding in range(4):
        path = tmp_path / f"{padding}.safetensors"
        path.write_bytes(raw(header + " " * padding) + numbers)
        with SafetensorsFile.open(path) as opened:
            for name, kind, expected in (("a", np.float16, 0.5), ("b", np.float32, 1.25)):
                assert opened.packed(name).view(kind).item() == expected


def test_a_file_without_tensors_is_read(tmp_path: Path) -> None:
    (tmp_path / "bare.safetensors").write_bytes(raw("{}  "))
    with SafetensorsFile.open(tmp_path / "bare.safetensors") as opened:
        assert (opened.tensors, opened.metadata) == ({}, {})


FOREIGN = {
    "pickle": (pickle.dumps({"weight": [1.0]}), "pickle"),
    "GGUF": (b"GGUF" + struct.pack("<IQQ", 3, 0, 0), "is a GGUF file"),
    "web page": (b"\n<!DOCTYPE html><html>404</html>", "web page"),
    "JSON": (b'{"error": "not found"}', "JSON"),
    "LFS pointer": (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n", "git lfs pull"),
    "text": ("Ünïcode\n".encode(), "starts with"),
}


@pytest.mark.parametrize("name", FOREIGN)
def test_other_kinds_of_file_are_named(name: str, tmp_path: Path) -> None:
    content, fragment = FOREIGN[name]
    (tmp_path / "model.safetensors").write_bytes(content)
    refused(tmp_path / "model.safetensors", BadFile, fragment)


def test_a_pytorch_checkpoint_is_named_and_not_opened(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "model.safetensors", "w") as archive:
        archive.writestr("archive/data.pkl", b"\x80\x02.")
    refused(tmp_path / "model.safetensors", BadFile, "PyTorch checkpoint")


def test_paths_that_are_not_files(tmp_path: Path) -> None:
    (tmp_path / "empty").touch()
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    refused(tmp_path, BadFile, "is a folder")
    refused(tmp_path / "none", BadFile, "does not exist")
    refused(tmp_path / "empty", BadFile, "is empty")
    refused(tmp_path / "loop", BadFile, "loop")
    refused(tmp_path / "a\nb", BadFile, "a\\nb")
    refused(Path("a\0b"), BadFile, "cannot be opened")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes on this system")
def test_pipes_and_devices_are_refused_without_waiting(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    refused(tmp_path / "pipe", BadFile, "not a regular file")
    refused(Path("/dev/zero"), BadFile, "not a regular file")


def test_a_file_of_a_terabyte_is_opened_at_once(tmp_path: Path) -> None:
    terabyte = 2**40
    for length, shape in ((2**39, [1]), (None, [2**30, 2**8])):
        start = raw(json.dumps({"a": entry(shape, [0, terabyte])}), length=length)
        with (tmp_path / "sparse").open("wb") as sparse:
            sparse.write(start)
            sparse.truncate(len(start) + terabyte)
        if length:
            refused(tmp_path / "sparse", BadFile, str(MAX_HEADER_BYTES))
        else:
            with SafetensorsFile.open(tmp_path / "sparse") as opened:
                assert opened.packed("a").shape == (2**30, 2**10)


NEARLY_ALL = MAX_HEADER_BYTES - 99
HEAVY: dict[str, Callable[[], bytes]] = {
    "most tensors": lambda: file(
        MAX_TENSORS * 4, **{f"{n:0>200}": entry([1, 1, 1], [4 * n, 4 * n + 4]) for n in range(MAX_TENSORS)}
    ),
    "one wide text": lambda: raw('{"__metadata__":{"a":"' + "a" * (NEARLY_ALL - 99) + '😀"}}'),
    "one wide text by escapes": lambda: raw('{"__metadata__":{"a":"' + "a" * (NEARLY_ALL - 99) + '\\ud83d\\ude00"}}'),
    "most lists": lambda: raw('{"a":[' + "[]," * 200_000 + "[]]}"),
    "too many lists": lambda: raw('{"a":[' + "[]," * (NEARLY_ALL // 3) + "[]]}"),
    "most numbers": lambda: raw('{"a":[' + "0.5," * (NEARLY_ALL // 4) + "0]}"),
    "most whole numbers": lambda: raw('{"a":[' + "0," * (NEARLY_ALL // 2) + "0]}"),
    "most texts": lambda: raw('{"a":[' + '"\\n",' * (NEARLY_ALL // 5) + "0]}"),
    "most keys": lambda: raw("{" + ",".join(f'"{n}":0' for n in range(300_000)) + "}"),
}


@pytest.mark.skipif(sys.platform != "linux", reason="peak memory is read from /proc")
@pytest.mark.parametrize("name", HEAVY)
def test_the_heaviest_headers_stay_within_5_seconds_and_500_megabytes(name: str, tmp_path: Path) -> None:
    (tmp_path / "heavy").write_bytes(HEAVY[name]())
    outcome, seconds, peak = cost_of_opening(SafetensorsFile, tmp_path / "heavy")
    assert outcome == ("read" if name in ("most tensors", "one wide text", "one wide text by escapes") else "refused")
    assert seconds < 5 and peak < 500e6, (seconds, peak)
