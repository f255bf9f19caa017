"""FlatBuffers, as far as model files need them: a tree of tables to bytes.

A table's fields have numbers, their slots, which the format's schema gives by the order of its fields. So a few tables
can be written without the thousands of lines that a schema's compiler makes.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import flatbuffers
import numpy as np

_FIRST_BYTES = 2**16  # of the builder's memory, which grows


@dataclass(frozen=True)
class Scalar:
    """A number of one of FlatBuffers' types."""

    kind: Literal["Bool", "Int8", "Uint8", "Int32", "Uint32", "Uint64", "Float32"]
    value: float


@dataclass(frozen=True)
class Integers:
    """A list of int32."""

    values: Sequence[int]


@dataclass(frozen=True)
class Table:
    """Slot → what stands there."""

    fields: "dict[int, Field]"


Field = Scalar | Integers | str | Table | Sequence[Table]


def packed(root: Table, identifier: bytes | None = None) -> bytes:
    """The bytes of a file. Its size does not depend on the values of numbers.  identifier: four letters."""
    builder = flatbuffers.Builder(_FIRST_BYTES)
    builder.ForceDefaults(True)  # what equals a schema's default is written all the same: defaults are not known here
    builder.Finish(_put_table(builder, root), file_identifier=identifier)
    return bytes(builder.Output())


def _put_table(builder: flatbuffers.Builder, table: Table) -> int:
    """Where it lies. Whatever a table refers to must be there before it."""
    places = {slot: _put(builder, field) for slot, field in table.fields.items() if not isinstance(field, Scalar)}
    builder.StartObject(max(table.fields, default=-1) + 1)
    for slot, field in table.fields.items():
        if isinstance(field, Scalar):
            getattr(builder, f"Prepend{field.kind}Slot")(slot, field.value, 0)
        else:
            builder.PrependUOffsetTRelativeSlot(slot, places[slot], 0)
    return builder.EndObject()


def _put(builder: flatbuffers.Builder, field: Integers | str | Table | Sequence[Table]) -> int:
    if isinstance(field, str):
        return builder.CreateString(field)
    if isinstance(field, Integers):
        return builder.CreateNumpyVector(np.array(field.values, np.int32))
    if isinstance(field, Table):
        return _put_table(builder, field)
    places = [_put_table(builder, table) for table in field]
    builder.StartVector(4, len(places), 4)
    for place in reversed(places):
        builder.PrependUOffsetTRelative(place)
    return builder.EndVector()
