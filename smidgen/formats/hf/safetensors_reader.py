"""Reads safetensors files that come from strangers: nothing in the file is believed before it is checked against it.

safetensors is Hugging Face's format for weights: eight bytes with the length of a JSON header, the header (name, type,
shape and place of each tensor), then the tensors' bytes, without gaps.
Specification: https://github.com/huggingface/safetensors#format

As in `gguf_reader`, the file is memory-mapped, every length, offset and shape is compared with the bytes that are there
before anything is made of it, and fixed limits keep any file within a few seconds and a few hundred megabytes. A
tensor of any of the format's types may be there (masks and counters that old savers left); one that is read must be of
plain floating-point numbers, or it is `Unsupported`. All else that is wrong is `BadFile`.

Torch-free. A file that another process shortens while it is mapped can still end this process (SIGBUS): that is how
memory maps work.
"""

import math
import mmap
import os
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn, Self

import numpy as np

from smidgen.closing import Closing
from smidgen.errors import BadFile, Unsupported, printable
from smidgen.formats.gguf.foreign import describe_foreign
from smidgen.formats.hf.json_text import parse_json
from smidgen.formats.mapped import give_back, map_file
from smidgen.numerics.block_types import BF16, F16, F32, BlockType

F64 = BlockType("F64", 28, 1, 8)  # in no GGUF file of ours: `narrowed` where it is read
KINDS: dict[str, BlockType] = {kind.name: kind for kind in (F64, F32, F16, BF16)}  # both formats call them the same
_NO_GGUF_TYPE = -1
# Types of which there may be tensors that nobody needs, and the bytes of a number.
_OTHERS = {
    "BOOL": 1, "U8": 1, "I8": 1, "F8_E4M3": 1, "F8_E5M2": 1, "F8_E8M0": 1, "I16": 2, "U16": 2, "I32": 4, "U32": 4,
    "I64": 8, "U64": 8, "C64": 8,
}  # fmt: skip

LENGTH_BYTES = 8
# The format allows 100 MB; the headers of the largest models, mixtures of hundreds of experts, stay below 10.
MAX_HEADER_BYTES = 32 * 2**20
MAX_TENSORS = 65_536
MAX_METADATA = 16_384
MAX_NAME_BYTES = 512
MAX_DIMENSIONS = 8
FIELDS = {"dtype", "shape", "data_offsets"}
METADATA = "__metadata__"

DAMAGED = "the file is damaged or incomplete: download or copy it again"


@dataclass(frozen=True)
class StoredTensor:
    """Where one tensor lies in its file.

    shape: row-major.  kind: one of `KINDS`, or a type that `refuse_unread` refuses.  offset: absolute position of its
    first byte.  nbytes: its length.
    """

    name: str
    kind: BlockType
    shape: tuple[int, ...]
    offset: int
    nbytes: int


@dataclass(eq=False)
class SafetensorsFile(Closing):
    """A safetensors file whose header has been checked; use `SafetensorsFile.open`, best in a `with` statement.

    path, size: the file and its bytes.  tensors: by name, in the order of their bytes; together they cover the file
    behind its header exactly.  metadata: the texts that the writer of the file put there (usually its format).
    """

    path: Path
    size: int
    tensors: dict[str, StoredTensor]
    metadata: dict[str, str]
    _map: mmap.mmap | None = field(repr=False)

    @classmethod
    def open(cls, path: str | os.PathLike[str]) -> Self:
        """Map a file and check all of it but the weights' values.

        Raises BadFile (missing, unreadable, not safetensors, truncated, inconsistent) or Unsupported (types that the
        format had not when this was written), each with a one-line message.
        """
        path = Path(path)
        data = map_file(path, ".safetensors", DAMAGED)
        header = _read_header(path, data)
        tensors, metadata = _Header(path, len(data)).read(header, _header_end(data))
        return cls(path, len(data), tensors, metadata, data)

    def refuse_unread(self, names: Iterable[str]) -> None:
        """Raises Unsupported where one of these tensors has no numbers that smidgen reads."""
        for name in names:
            refuse_unread(printable(self.path), self.tensors[name])

    def packed(self, name: str) -> np.ndarray:
        """The stored bytes of a tensor: read-only uint8 [rows, row_bytes], little-endian, a view of the map.

        A vector is one row; leading dimensions beyond two are flattened into rows. Files of old writers are not
        aligned: numpy and torch read numbers from such a view too, only more slowly. The map lives until the last such
        view is gone, even after `close`. Raises KeyError for a name that is not in `tensors`.
        """
        if self._map is None:
            raise ValueError(f"{self.path} is closed")
        info = self.tensors[name]
        flat = np.frombuffer(self._map, dtype=np.uint8, count=info.nbytes, offset=info.offset)
        return flat.reshape(-1, info.kind.row_bytes(info.shape[-1] if info.shape else 1))

    def release(self) -> None:
        """Give the pages that were read back to the system; they are read again when they are needed again."""
        if self._map is not None:
            give_back(self._map)

    def close(self) -> None:
        """Let go of the map."""
        self._map = None


def refuse_unread(where: str, tensor: StoredTensor) -> None:
    """Raises Unsupported for a tensor whose numbers smidgen does not read. where: its file or folder, for the error."""
    if tensor.kind.name not in KINDS:
        raise _unread(where, f"tensor {printable(tensor.name)}", tensor.kind.name)


def _unread(where: str, what: str, kind: str) -> Unsupported:
    return Unsupported(
        f"{where}: {what} has type {printable(kind, 40)}; smidgen reads {', '.join(KINDS)}: get the model in one of "
        "these, not quantized"
    )


def narrowed(packed: np.ndarray) -> np.ndarray:
    """Rows of float64 as rows of float32, the nearest. Both uint8 [rows, row_bytes]."""
    with np.errstate(over="ignore"):  # what float32 cannot hold becomes infinite, and is refused as such
        return np.ascontiguousarray(packed).view("<f8").astype("<f4").view(np.uint8)


def _header_end(data: mmap.mmap) -> int:
    return LENGTH_BYTES + int.from_bytes(data[:LENGTH_BYTES], "little")


def _read_header(path: Path, data: mmap.mmap) -> dict[str, Any]:
    """The header's JSON object."""
    shown = printable(path)
    if data[LENGTH_BYTES : LENGTH_BYTES + 1] != b"{":
        if data[:LENGTH_BYTES].strip(b"\0") == b"":
            raise BadFile(f"{shown}: is not a safetensors file, its first 8 bytes are zero; {DAMAGED}")
        found = describe_foreign(data[:64], wanted="a safetensors header")
        raise BadFile(f"{shown}: is not a safetensors file, it {found}; give a .safetensors file")
    end = _header_end(data)
    if end > len(data):
        raise BadFile(f"{shown}: the header ends at byte {end}, but the file has {len(data)}; {DAMAGED}")
    if end > MAX_HEADER_BYTES:
        raise BadFile(f"{shown}: the header has {end} bytes, but no real one has more than {MAX_HEADER_BYTES}")
    raw = data[LENGTH_BYTES:end]
    if raw.count(b":") > 5 * MAX_TENSORS:  # four for each tensor, before anything is made of them
        raise BadFile(f"{shown}: the header lists more tensors than the {MAX_TENSORS} of any real file")
    if raw.count(b",") > (4 + MAX_DIMENSIONS) * MAX_TENSORS:  # between what a tensor has, its sizes and its offsets
        raise BadFile(f"{shown}: the header lists more numbers than {MAX_TENSORS} tensors have")
    header = parse_json(raw, f"{shown}: the header", max_containers=4 * MAX_TENSORS)
    if not isinstance(header, dict):
        raise BadFile(f"{shown}: the header is not a JSON object; {DAMAGED}")
    return header


class _Header:
    """Checks the entries of one header against the size of its file."""

    def __init__(self, path: Path, size: int) -> None:
        self.shown = printable(path)
        self.size = size

    def bad(self, what: str, advice: str = DAMAGED) -> NoReturn:
        raise BadFile(f"{self.shown}: {what}; {advice}")

    def read(self, header: dict[str, Any], start: int) -> tuple[dict[str, StoredTensor], dict[str, str]]:
        """The tensors, whose bytes begin at `start`, and the metadata."""
        metadata = self.metadata(header.pop(METADATA, {}))
        if len(header) > MAX_TENSORS:
            self.bad(f"lists {len(header)} tensors, more than the {MAX_TENSORS} of any real file")
        tensors = sorted((self.tensor(name, entry, start) for name, entry in header.items()), key=lambda t: t.offset)
        self.refuse_gaps(tensors, start)
        return {tensor.name: tensor for tensor in tensors}, metadata

    def metadata(self, found: Any) -> dict[str, str]:
        if not isinstance(found, dict) or not all(isinstance(value, str) for value in found.values()):
            self.bad(f"{METADATA} is not an object of texts")
        if len(found) > MAX_METADATA:
            self.bad(f"{METADATA} has {len(found)} keys, more than the {MAX_METADATA} of any real file")
        return found

    def tensor(self, name: str, entry: Any, start: int) -> StoredTensor:
        """One entry, with its offset made absolute: inside the file, and as long as its type and shape say."""
        if not 1 <= len(name.encode(errors="replace")) <= MAX_NAME_BYTES or not name.isprintable():
            self.bad(f"tensor name {printable(name, 60)!r} is empty, too long or has control characters")
        what = f"tensor {printable(name)}"
        if not isinstance(entry, dict) or set(entry) != FIELDS:
            self.bad(f"{what} must have dtype, shape and data_offsets, and nothing else")
        shape = self.numbers(entry["shape"], f"the shape of {what}")
        if len(shape) > MAX_DIMENSIONS:
            self.bad(f"{what} has {len(shape)} dimensions, but no more than {MAX_DIMENSIONS} are allowed")
        if 0 in shape:
            self.bad(f"{what} is empty, its shape is {shape}", "save the model again, with all of its weights gathered")
        offsets = self.numbers(entry["data_offsets"], f"the place of {what}")
        if len(offsets) != 2 or offsets[0] > offsets[1]:
            self.bad(f"{what} has data_offsets {printable(list(offsets))}, which is not a beginning and an end")
        kind = self.kind(entry["dtype"], what)
        begin, end = offsets
        if start + end > self.size:
            self.bad(f"{what} ends at byte {start + end}, but the file has {self.size}")
        nbytes = math.prod(shape) * kind.block_bytes
        if nbytes != end - begin:
            self.bad(f"{what} has {end - begin} bytes, but {kind.name} of shape {shape} needs {nbytes}")
        return StoredTensor(name, kind, shape, start + begin, nbytes)

    def numbers(self, found: Any, what: str) -> tuple[int, ...]:
        """A list of whole numbers below 2^63: what other readers of the format can hold."""
        if not isinstance(found, list) or not all(type(number) is int and 0 <= number < 2**63 for number in found):
            self.bad(f"{what} is not a list of whole numbers: {printable(found, 60)}")
        return tuple(found)

    def kind(self, found: Any, what: str) -> BlockType:
        if not isinstance(found, str):
            self.bad(f"{what} has a dtype that is not a text")
        if found in _OTHERS:
            return BlockType(found, _NO_GGUF_TYPE, 1, _OTHERS[found])
        if found not in KINDS:
            raise _unread(self.shown, what, found)
        return KINDS[found]

    def refuse_gaps(self, tensors: list[StoredTensor], start: int) -> None:
        """The tensors, in order of their bytes, must cover the file from `start` to its end, each byte once."""
        at, before = start, "the header"
        for tensor in tensors:
            if tensor.offset < at:
                self.bad(f"tensors {before} and {printable(tensor.name)} overlap at byte {tensor.offset}")
            if tensor.offset > at:
                self.bad(
                    f"{tensor.offset - at} bytes between {before} and {printable(tensor.name)} belong to no tensor"
                )
            at, before = tensor.offset + tensor.nbytes, printable(tensor.name)
        if at != self.size:
            self.bad(f"the last {self.size - at} bytes of the file belong to no tensor")
