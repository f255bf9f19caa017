"""A .litertlm file: the graphs, the tokenizer and what LiteRT-LM must know beside them, each in a section.

The format is that of LiteRT-LM's own packer, `schema/` in https://github.com/google-ai-edge/LiteRT-LM: eight letters,
the version, where the header ends, and the header, a FlatBuffers table that names the sections. These begin at
multiples of 16 KiB.
"""

import struct
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import BinaryIO

from smidgen.exporting.litert.flat import Field, Scalar, Table, packed

_MAGIC, _VERSION = b"LITERTLM", (1, 7, 0)
_START = struct.Struct("<8s3I4xQ")
_SECTION_ALIGNMENT = 2**14
_STRING = 9  # of `VData`, what a value is
_GRAPHS, _METADATA, _TOKENIZER = 3, 5, 6  # of `AnySectionDataType`


@dataclass(frozen=True)
class Section:
    """One of them.

    kind: what it is, of `AnySectionDataType`.  notes: text by name.  write: puts it where the file is.
    """

    kind: int
    write: Callable[[BinaryIO], object]
    notes: tuple[tuple[str, str], ...] = ()


def graphs(write: Callable[[BinaryIO], object]) -> Section:
    """A TFLite model that reads prompts and writes answers."""
    return Section(_GRAPHS, write, (("model_type", "tf_lite_prefill_decode"),))


def metadata(message: bytes) -> Section:
    """See `metadata`."""
    return Section(_METADATA, lambda file: file.write(message))


def tokenizer(text: bytes) -> Section:
    """A tokenizer.json."""
    return Section(_TOKENIZER, lambda file: file.write(struct.pack("<Q", len(text)) + zlib.compress(text)))


def write_bundle(file: BinaryIO, sections: Sequence[Section], written_by: str) -> None:
    """Write the file from its beginning. written_by: program and version."""
    size = len(_header(sections, [(0, 0)] * len(sections), written_by))
    end, places = _START.size + size, []
    for section in sections:
        start = -(-end // _SECTION_ALIGNMENT) * _SECTION_ALIGNMENT
        file.seek(start)
        section.write(file)
        end = file.tell()
        places.append((start, end))
    file.seek(0)
    file.write(_START.pack(_MAGIC, *_VERSION, _START.size + size) + _header(sections, places, written_by))


def _header(sections: Sequence[Section], places: Sequence[tuple[int, int]], written_by: str) -> bytes:
    listed = [_entry(section, *place) for section, place in zip(sections, places, strict=True)]
    return packed(Table({0: Table({0: [_note("Authors", written_by)]}), 1: Table({0: listed})}))


def _entry(section: Section, start: int, end: int) -> Table:
    fields: dict[int, Field] = {
        0: [_note(name, text) for name, text in section.notes],
        1: Scalar("Uint64", start), 2: Scalar("Uint64", end), 3: Scalar("Uint8", section.kind),
    }  # fmt: skip
    return Table(fields)


def _note(name: str, text: str) -> Table:
    return Table({0: name, 1: Scalar("Uint8", _STRING), 2: Table({0: text})})
