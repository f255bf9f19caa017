"""Reads GGUF files that come from strangers: nothing in the file is believed before it is checked against the file.

GGUF is llama.cpp's one-file format: a header of typed key/value pairs (architecture, tokenizer, chat template), a table
of tensors, then the tensor bytes, each tensor aligned. The layout is in the GGUF specification
(https://github.com/ggml-org/ggml/blob/master/docs/gguf.md); versions 2 and 3 differ only in that 3 allows big-endian.

A model may come in several files (see split.py). They are read as one: any part may be named.

The files are memory-mapped. Every count, length, offset and shape is compared with the bytes that are there before
anything is allocated or looped over, and the whole header has fixed limits, so that no file of any size takes more than
a few seconds or a few hundred megabytes to accept or refuse. What is valid in the format but outside this project
(nested arrays, types that ggml has given up, big-endian) is `Unsupported`; all else that is wrong is `BadFile`.

Text must be UTF-8 everywhere: keys, names, values and tokens. A string that is not is refused, never repaired, because
a token repaired here would be another token in the file written from it. Keys and tensor names must also be printable,
so that they can be shown in a terminal.

Torch-free. A file that another process shortens while it is mapped can still end this process (SIGBUS): that is how
memory maps work.
"""

import mmap
import os
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from itertools import pairwise
from pathlib import Path
from typing import NoReturn, Self

import numpy as np

from smidgen.closing import Closing
from smidgen.errors import BadFile, SmidgenError, Unsupported, printable
from smidgen.formats.gguf.foreign import describe_foreign
from smidgen.formats.gguf.split import Split, part_paths, refuse_other_split, split_of
from smidgen.formats.mapped import give_back, map_file
from smidgen.numerics.block_types import BY_ID, BlockType

MetadataValue = str | int | float | bool | list[str] | np.ndarray

MAGIC = b"GGUF"
VERSIONS = (2, 3)
DEFAULT_ALIGNMENT = 32

# GGUF value types. Numbers have a little-endian numpy type; strings and arrays are read by their own code.
BOOL, STRING, ARRAY = 7, 8, 9
NUMBER_TYPES: dict[int, np.dtype] = {
    0: np.dtype("<u1"), 1: np.dtype("<i1"), 2: np.dtype("<u2"), 3: np.dtype("<i2"),
    4: np.dtype("<u4"), 5: np.dtype("<i4"), 6: np.dtype("<f4"), BOOL: np.dtype("?"),
    10: np.dtype("<u8"), 11: np.dtype("<i8"), 12: np.dtype("<f8"),
}  # fmt: skip
UINT32 = 4

# Limits. Real files stay far below: Gemma 3's header is 6.5 MB with 262,144 tokens; large mixtures of experts have some
# thousand tensors. In memory a header takes at most about eight times its bytes, which these keep under 500 MB.
MAX_HEADER_BYTES = 48 * 2**20
MAX_KEYS = 16_384
MAX_KEY_BYTES = 65_535  # the specification's limit
MAX_STRINGS = 2**21  # elements of all string arrays together
MAX_TENSORS = 65_536
MAX_NAME_BYTES = 63  # GGML_MAX_NAME is 64 with its closing zero
MAX_DIMENSIONS = 4  # GGML_MAX_DIMS
MIN_ALIGNMENT, MAX_ALIGNMENT = 8, 2**20

SMALLEST_PAIR = 8 + 1 + 4 + 1  # length, one-byte key, type, one-byte value
SMALLEST_TENSOR_ENTRY = 8 + 1 + 4 + 8 + 4 + 8  # length, one-byte name, dimensions, one of them, type, offset

DAMAGED = "the file is damaged or incomplete: download or copy it again"


@dataclass(frozen=True)
class TensorInfo:
    """Where one tensor lies in the file.

    shape: row-major, (rows, columns) for a matrix: the file's dimensions reversed.
    offset: absolute position of its first byte.  nbytes: its length, padding excluded.
    part: the number of the file that it is in, where a model comes in several.
    """

    name: str
    shape: tuple[int, ...]
    kind: BlockType
    offset: int
    nbytes: int
    part: int = 0


@dataclass(eq=False)
class GGUFFile(Closing):
    """A GGUF file whose header has been read and checked; use `GGUFFile.open`, best in a `with` statement.

    path: the file; of a model in several, the first part, which is the one that llama.cpp is given.
    paths: all parts, in order; mostly one.  size: bytes of all of them.
    version: 2 or 3.  alignment: of tensor data, in bytes; of the first part.
    metadata: values by key, in file order: str, int, float, bool, list[str], or a read-only numpy array.
    metadata_types: GGUF value type per key, followed by the element type for arrays, so that a writer can keep them.
    tensors: by name, in file order; inside their file, aligned, not overlapping.
    """

    path: Path
    paths: tuple[Path, ...]
    size: int
    version: int
    alignment: int
    metadata: dict[str, MetadataValue]
    metadata_types: dict[str, tuple[int, ...]]
    tensors: dict[str, TensorInfo]
    _data: list[np.ndarray] | None = field(repr=False)
    _maps: list[mmap.mmap] = field(repr=False)

    @classmethod
    def open(cls, path: str | os.PathLike[str]) -> Self:
        """Map a file, with the other parts of its model if there are any, and check all of it but the weights' values.

        Raises BadFile (missing, unreadable, not GGUF, truncated, inconsistent; a part missing or of another split) or
        Unsupported (a GGUF that smidgen cannot use), each with a one-line message.
        """
        path = Path(path)
        part = _read_part(path)
        parts = [part] if part.split is None else _read_all_parts(part, part.split)
        first = parts[0]
        # What the header says of its part does not hold of all of them together.
        keys = [key for key in first.metadata if first.split is None or not key.startswith("split.")]
        return cls(
            path=first.path,
            paths=tuple(one.path for one in parts),
            size=sum(len(one.map) for one in parts),
            version=first.version,
            alignment=first.alignment,
            metadata={key: first.metadata[key] for key in keys},
            metadata_types={key: first.types[key] for key in keys},
            tensors={
                info.name: info if not number else replace(info, part=number)
                for number, one in enumerate(parts)
                for info in one.tensors
            },
            _data=[np.frombuffer(one.map, dtype=np.uint8) for one in parts],
            _maps=[one.map for one in parts],
        )

    def packed(self, name: str) -> np.ndarray:
        """The stored bytes of a tensor: a read-only uint8 view [rows, row_bytes] of the map, without a copy.

        A vector is one row; leading dimensions beyond two are flattened into rows. The map lives until the last such
        view is gone, even after `close`. Raises KeyError for a name that is not in `tensors`.
        """
        if self._data is None:
            raise ValueError(f"{self.path} is closed")
        info = self.tensors[name]
        rows = self._data[info.part][info.offset : info.offset + info.nbytes]
        return rows.reshape(-1, info.kind.row_bytes(info.shape[-1]))

    def release(self) -> None:
        """Give the pages of weights that were read back to the system; they are read again when they are needed."""
        if self._data is not None:
            for one in self._maps:
                give_back(one)

    def close(self) -> None:
        """Let go of the maps."""
        self._data = None


@dataclass(frozen=True)
class _Part:
    """One file as it is.  header: bytes of it.  split: what it says of itself as a part; None for a whole model."""

    path: Path
    map: mmap.mmap
    version: int
    alignment: int
    metadata: dict[str, MetadataValue]
    types: dict[str, tuple[int, ...]]
    tensors: list[TensorInfo]
    header: int
    split: Split | None


def _read_part(path: Path, header_limit: int = MAX_HEADER_BYTES) -> _Part:
    """One file, mapped and checked. header_limit: bytes that its header may have."""
    data = map_file(path, ".gguf", DAMAGED)
    cursor = _Cursor(path, data, header_limit)
    version, tensor_count, pair_count = _read_preamble(cursor)
    metadata, types = _read_metadata(cursor, pair_count)
    alignment = _alignment(cursor, metadata, types)
    tensors = _read_tensors(cursor, tensor_count, alignment)
    _refuse_overlaps(cursor, tensors)
    with said_of(path):
        split = split_of(metadata, types)
    return _Part(path, data, version, alignment, metadata, types, tensors, cursor.at, split)


def _read_all_parts(named: _Part, split: Split) -> list[_Part]:
    """All parts of a model, given one of them. Their headers have the limits of one header, all together."""
    with said_of(named.path):
        paths = part_paths(named.path, split)
    parts: list[_Part] = []
    room = MAX_HEADER_BYTES - named.header
    for number, path in enumerate(paths):
        if number == split.number:
            parts.append(named)
        else:
            parts.append(_read_part(path, room))
            room -= parts[-1].header
    with said_of(named.path):
        names = [[info.name for info in part.tensors] for part in parts]
        refuse_other_split(split, paths, [part.split for part in parts], names)
    return parts


@contextmanager
def said_of(path: Path) -> Iterator[None]:
    """Errors inside begin with the name of a file."""
    try:
        yield
    except SmidgenError as error:
        raise type(error)(f"{printable(path)}: {error}") from error


class _Cursor:
    """A place in the mapped header. Each step is checked against the end of file and header before it is taken."""

    def __init__(self, path: Path, data: mmap.mmap, header_limit: int) -> None:
        self.path = path
        self.data = data
        self.size = len(data)
        self.limit = min(self.size, header_limit)
        self.at = 0
        self.strings_left = MAX_STRINGS

    def bad(self, what: str, advice: str = DAMAGED) -> NoReturn:
        raise BadFile(f"{printable(self.path)}: {what}; {advice}")

    def unsupported(self, what: str, advice: str) -> NoReturn:
        raise Unsupported(f"{printable(self.path)}: {what}; {advice}")

    def need(self, count: int, what: str) -> None:
        """Make sure that `count` more bytes exist and are within the header limit."""
        if self.at + count > self.size:
            self.bad(f"{what} needs {count} bytes at byte {self.at}, but the file ends at {self.size}")
        if self.at + count > self.limit:
            self.bad(f"{what} makes the header larger than {MAX_HEADER_BYTES} bytes", "no real model has such a header")

    def take(self, count: int, what: str) -> bytes:
        self.need(count, what)
        taken = self.data[self.at : self.at + count]
        self.at += count
        return taken

    def u32(self, what: str) -> int:
        return int.from_bytes(self.take(4, what), "little")

    def u64(self, what: str) -> int:
        return int.from_bytes(self.take(8, what), "little")

    def name(self, max_bytes: int, what: str) -> str:
        """A key or a tensor name: not empty, bounded, UTF-8, printable."""
        length = self.u64(f"the length of {what}")
        if not 1 <= length <= max_bytes:
            self.bad(f"{what} has {length} bytes, but 1 to {max_bytes} are allowed")
        text = self.text(self.take(length, what), what)
        if not text.isprintable():
            self.bad(f"{what} contains control characters: {printable(text)}")
        return text

    def text(self, raw: bytes, what: str) -> str:
        try:
            return raw.decode()
        except UnicodeDecodeError as error:
            self.bad(f"{what} is not UTF-8 (byte {error.start} of {len(raw)})")

    def string(self, what: str) -> str:
        return self.text(self.take(self.u64(f"the length of {what}"), what), what)

    def strings(self, count: int, what: str) -> list[str]:
        """An array of strings, in one pass: a vocabulary has some hundred thousand, so the loop is kept bare."""
        self.need(8 * count, what)
        self.strings_left -= count
        if self.strings_left < 0:
            self.bad(f"{what} brings the file above {MAX_STRINGS} strings", "no real vocabulary is that large")
        data, limit = self.data, self.limit
        start = at = self.at
        length_at = struct.Struct("<Q").unpack_from
        values: list[str] = []
        try:
            for _ in range(count):
                start = at + 8
                at = start + length_at(data, at)[0]
                if at > limit:
                    break
                values.append(data[start:at].decode())
        except struct.error:
            self.bad(f"{what} is cut off after {len(values)} of {count} strings by the end of the file")
        except UnicodeDecodeError as error:
            self.bad(f"{what}, string {len(values)}, is not UTF-8 (byte {error.start} of it)")
        if at > limit:
            self.at = start
            self.need(at - start, f"{what}, string {len(values)},")
        self.at = at
        return values

    def numbers(self, dtype: np.dtype, count: int, what: str) -> np.ndarray:
        """`count` numbers as a read-only array (its own copy, aligned, so that the map can be closed)."""
        raw = self.take(count * dtype.itemsize, what)
        if dtype == NUMBER_TYPES[BOOL] and raw.strip(b"\x00\x01"):
            self.bad(f"{what} holds a truth value that is neither 0 nor 1")
        return np.frombuffer(raw, dtype=dtype)


def _read_preamble(cursor: _Cursor) -> tuple[int, int, int]:
    """Version, number of tensors, number of key/value pairs."""
    if cursor.data[:4] != MAGIC:
        cursor.bad(f"is not a GGUF file, it {describe_foreign(cursor.data[:64])}", "give a .gguf file")
    cursor.at = len(MAGIC)
    version = cursor.u32("the version")
    if version and version % 2**16 == 0:
        cursor.unsupported("is a big-endian GGUF", "get the little-endian file of this model")
    if version not in VERSIONS:
        cursor.unsupported(f"is GGUF version {version}, smidgen reads 2 and 3", "convert the model again")
    tensor_count = cursor.u64("the number of tensors")
    pair_count = cursor.u64("the number of metadata keys")
    for count, most, smallest, what in (
        (tensor_count, MAX_TENSORS, SMALLEST_TENSOR_ENTRY, "tensors"),
        (pair_count, MAX_KEYS, SMALLEST_PAIR, "metadata keys"),
    ):
        if count > most:
            cursor.bad(f"claims {count} {what}, more than the {most} of any real model")
        if count * smallest > cursor.size:
            cursor.bad(f"claims {count} {what}, more than its {cursor.size} bytes can hold")
    return version, tensor_count, pair_count


def _read_metadata(cursor: _Cursor, count: int) -> tuple[dict[str, MetadataValue], dict[str, tuple[int, ...]]]:
    values: dict[str, MetadataValue] = {}
    types: dict[str, tuple[int, ...]] = {}
    for index in range(count):
        key = cursor.name(MAX_KEY_BYTES, f"metadata key {index}")
        if key in values:
            cursor.bad(f"metadata key {printable(key)} appears twice")
        values[key], types[key] = _read_value(cursor, f"metadata key {printable(key)}")
    return values, types


def _read_value(cursor: _Cursor, what: str) -> tuple[MetadataValue, tuple[int, ...]]:
    """One typed value and its type ids; arrays may hold numbers, truth values or strings, not arrays."""
    kind = cursor.u32(f"the type of {what}")
    if kind == STRING:
        return cursor.string(what), (kind,)
    if kind != ARRAY:
        return cursor.numbers(_number_type(cursor, kind, what), 1, what).item(), (kind,)
    element = cursor.u32(f"the element type of {what}")
    count = cursor.u64(f"the length of {what}")
    if element == ARRAY:
        cursor.unsupported(f"{what} is an array of arrays", "smidgen reads flat ones: convert the model without it")
    if element == STRING:
        return cursor.strings(count, what), (kind, element)
    return cursor.numbers(_number_type(cursor, element, what), count, what), (kind, element)


def _number_type(cursor: _Cursor, kind: int, what: str) -> np.dtype:
    if kind not in NUMBER_TYPES:
        cursor.bad(f"{what} has value type {kind}, but GGUF defines 0 to 12 only")
    return NUMBER_TYPES[kind]


def _alignment(cursor: _Cursor, metadata: dict[str, MetadataValue], types: dict[str, tuple[int, ...]]) -> int:
    key = "general.alignment"
    if key not in metadata:
        return DEFAULT_ALIGNMENT
    value = metadata[key]
    if types[key] != (UINT32,) or not isinstance(value, int):
        cursor.bad(f"{key} must be a 32-bit unsigned number, but has type {types[key]}")
    if not MIN_ALIGNMENT <= value <= MAX_ALIGNMENT or value & (value - 1):
        cursor.bad(f"{key} is {value}, but must be a power of two from {MIN_ALIGNMENT} to {MAX_ALIGNMENT}")
    return value


def _read_tensors(cursor: _Cursor, count: int, alignment: int) -> list[TensorInfo]:
    """The table of tensors with offsets made absolute, each tensor checked to be inside the file."""
    entries = [_read_tensor_entry(cursor, index) for index in range(count)]
    start = -(-cursor.at // alignment) * alignment
    names: set[str] = set()
    tensors: list[TensorInfo] = []
    for name, shape, kind, offset in entries:
        shown = printable(name)
        if name in names:
            cursor.bad(f"tensor {shown} appears twice")
        names.add(name)
        if offset % alignment:
            cursor.bad(f"tensor {shown} starts at {offset}, not at a multiple of the alignment {alignment}")
        nbytes = kind.row_bytes(shape[-1])
        for length in shape[:-1]:
            nbytes *= length
        end = start + offset + nbytes
        if end > cursor.size:
            cursor.bad(f"tensor {shown} ends at byte {end}, but the file has {cursor.size}")
        tensors.append(TensorInfo(name, shape, kind, start + offset, nbytes))
    return tensors


def _read_tensor_entry(cursor: _Cursor, index: int) -> tuple[str, tuple[int, ...], BlockType, int]:
    """Name, row-major shape, type and offset (relative to the data) of one tensor."""
    name = cursor.name(MAX_NAME_BYTES, f"the name of tensor {index}")
    what = f"tensor {printable(name)}"
    dimensions = cursor.u32(f"the dimensions of {what}")
    if not 1 <= dimensions <= MAX_DIMENSIONS:
        cursor.bad(f"{what} has {dimensions} dimensions, but 1 to {MAX_DIMENSIONS} are allowed")
    lengths = struct.unpack(f"<{dimensions}Q", cursor.take(8 * dimensions, f"the shape of {what}"))
    shape = tuple(reversed(lengths))
    if 0 in shape:
        cursor.bad(f"{what} has shape {shape}: no dimension may be 0")
    type_id = cursor.u32(f"the type of {what}")
    offset = cursor.u64(f"the offset of {what}")
    if type_id not in BY_ID:
        known = ", ".join(kind.name for kind in BY_ID.values())
        cursor.unsupported(f"{what} has type number {type_id}", f"known are {known}: get the model in one of these")
    kind = BY_ID[type_id]
    if not kind.fits(shape[-1]):
        cursor.bad(f"{what} has rows of {shape[-1]}, but {kind.name} needs a multiple of {kind.block}")
    return name, shape, kind, offset


def _refuse_overlaps(cursor: _Cursor, tensors: list[TensorInfo]) -> None:
    ordered = sorted(tensors, key=lambda info: info.offset)
    for before, after in pairwise(ordered):
        if before.offset + before.nbytes > after.offset:
            cursor.bad(f"tensors {printable(before.name)} and {printable(after.name)} overlap at byte {after.offset}")
