"""A TFLite model as it grows: graphs, what the outside calls them, and the numbers that all of them read.

Nothing is read from a language model while it grows: numbers are planned, and read when they are written. They lie
behind the tables, which give their places, so a file may be larger than FlatBuffers allow.

Slots are those of the schema, `tflite/schema.fbs` of https://github.com/google-ai-edge/LiteRT.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import IntEnum
from functools import cached_property
from typing import BinaryIO

import torch

from smidgen.exporting.litert.flat import Field, Integers, Scalar, Table, packed
from smidgen.formats.checkpoint import Checkpoint
from smidgen.formats.hf.safetensors_writer import Stored
from smidgen.progress import track

_SCHEMA_VERSION, _IDENTIFIER = 3, b"TFL3"
_ALIGNMENT = 64  # of numbers in the file
_BLOCKWISE = 2  # of `QuantizationDetails`
_OLDEST_CODE = 127  # the last operator that fits the field of older files


class Kind(IntEnum):
    """What a tensor's numbers are: `TensorType`."""

    FLOAT32 = 0
    FLOAT16 = 1
    INT32 = 2
    BOOL = 6
    INT4 = 17


@dataclass(frozen=True)
class Value:
    """A tensor of one graph."""

    number: int
    shape: tuple[int, ...]
    kind: Kind


@dataclass(frozen=True)
class Operator:
    """code: of `BuiltinOperator`.  settings: its number in `BuiltinOptions`, and its table."""

    code: int
    settings: tuple[int, Table] | None = None


class Model:
    """The whole file.

    name: of what it computes.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._numbers: list[Stored] = []
        self._buffers: dict[str, int] = {}
        self._operators: dict[int, int] = {}
        self._graphs: list[tuple[str, Graph]] = []

    def graph(self, name: str) -> "Graph":
        """A new one, which the outside calls so."""
        graph = Graph(self)
        self._graphs.append((name, graph))
        return graph

    def buffer(self, numbers: Stored) -> int:
        """The number of the buffer; numbers of the same name are stored once. Buffer 0 is that of no numbers."""
        if numbers.name not in self._buffers:
            self._numbers.append(numbers)
            self._buffers[numbers.name] = len(self._numbers)
        return self._buffers[numbers.name]

    def operator(self, code: int) -> int:
        """Its number in this file."""
        return self._operators.setdefault(code, len(self._operators))

    def write(self, file: BinaryIO, checkpoint: Checkpoint) -> None:
        """Write it from where the file is, reading the language model a piece at a time."""
        tables, places = self._tables
        begin = file.tell()
        file.write(tables)
        with track("Writing weights", sum(stored.nbytes for stored in self._numbers), in_bytes=True) as task:
            for place, stored in zip(places, self._numbers, strict=True):
                file.seek(begin + place)
                for piece in stored.pieces():
                    file.write(piece.contiguous().reshape(-1).view(torch.uint8).numpy().data)
                checkpoint.release()
                task.advance(stored.nbytes)

    @property
    def nbytes(self) -> int:
        """Of the whole."""
        _, places = self._tables
        return places[-1] + self._numbers[-1].nbytes

    @cached_property
    def _tables(self) -> tuple[bytes, list[int]]:
        """The tables, and the places of numbers behind them; asked for when nothing is added any more."""
        end, places = len(self._packed([0] * len(self._numbers))), []
        for stored in self._numbers:
            places.append(-(-end // _ALIGNMENT) * _ALIGNMENT)
            end = places[-1] + stored.nbytes
        return self._packed(places), places

    def _packed(self, places: Sequence[int]) -> bytes:
        buffers = [Table({})]
        for place, stored in zip(places, self._numbers, strict=True):
            buffers.append(Table({1: Scalar("Uint64", place), 2: Scalar("Uint64", stored.nbytes)}))
        fields: dict[int, Field] = {
            0: Scalar("Uint32", _SCHEMA_VERSION),
            1: [_operator_code(code) for code in self._operators],
            2: [graph.table(name) for name, graph in self._graphs],
            3: self._name,
            4: buffers,
            7: [graph.signature(name, number) for number, (name, graph) in enumerate(self._graphs)],
        }
        return packed(Table(fields), _IDENTIFIER)


class Graph:
    """Operators in the order in which they run, and the tensors between them."""

    def __init__(self, model: Model) -> None:
        self._model = model
        self._tensors: list[Table] = []
        self._operators: list[Table] = []
        self._inputs: dict[str, Value] = {}
        self._outputs: dict[str, Value] = {}
        self._constants: dict[tuple[str, tuple[int, ...]], Value] = {}

    def input(self, name: str, shape: Sequence[int], kind: Kind = Kind.FLOAT32) -> Value:
        """What the graph is given."""
        self._inputs[name] = self._tensor(shape, kind, 0, name=name)
        return self._inputs[name]

    def output(self, name: str, value: Value) -> None:
        """Give a value back under this name."""
        self._outputs[name] = value

    def add(
        self, operator: Operator, inputs: Sequence[Value], shape: Sequence[int], kind: Kind = Kind.FLOAT32
    ) -> Value:
        """An operator with one output, which is returned."""
        result = self._tensor(shape, kind, 0)
        fields: dict[int, Field] = {
            0: Scalar("Uint32", self._model.operator(operator.code)),
            1: Integers([value.number for value in inputs]),
            2: Integers([result.number]),
        }
        if operator.settings is not None:
            number, table = operator.settings
            fields |= {3: Scalar("Uint8", number), 4: table}
        self._operators.append(Table(fields))
        return result

    def stored(self, numbers: Stored, kind: Kind, shape: Sequence[int], scale: Value | None = None) -> Value:
        """Numbers of the model. scale: float16 [rows, groups], where they are codes in groups along the rows."""
        key = numbers.name, tuple(shape)
        if key not in self._constants:
            self._constants[key] = self._tensor(shape, kind, self._model.buffer(numbers), scale, numbers.name)
        return self._constants[key]

    def table(self, name: str) -> Table:
        """The whole graph."""
        fields: dict[int, Field] = {
            0: self._tensors,
            1: Integers([value.number for value in self._inputs.values()]),
            2: Integers([value.number for value in self._outputs.values()]),
            3: self._operators,
            4: name,
        }
        return Table(fields)

    def signature(self, name: str, number: int) -> Table:
        """How the outside calls it. number: of the graph in the file."""
        fields: dict[int, Field] = {
            0: _named(self._inputs), 1: _named(self._outputs), 2: name, 4: Scalar("Uint32", number)
        }  # fmt: skip
        return Table(fields)

    def _tensor(
        self, shape: Sequence[int], kind: Kind, buffer: int, scale: Value | None = None, name: str | None = None
    ) -> Value:
        fields: dict[int, Field] = {
            0: Integers(shape), 1: Scalar("Int8", kind), 2: Scalar("Uint32", buffer),
            3: name or f"value_{len(self._tensors)}", 8: Scalar("Bool", True),
        }  # fmt: skip
        if scale is not None:
            fields[4] = _in_groups(scale, shape[1] // scale.shape[1])
        self._tensors.append(Table(fields))
        return Value(len(self._tensors) - 1, tuple(shape), kind)


def _in_groups(scale: Value, size: int) -> Table:
    """Quantization in groups of this size, around 0."""
    fields: dict[int, Field] = {0: Scalar("Int32", scale.number), 1: Scalar("Int32", -1), 2: Scalar("Int32", size)}
    return Table({4: Scalar("Uint8", _BLOCKWISE), 5: Table(fields)})


def _operator_code(code: int) -> Table:
    fields: dict[int, Field] = {
        0: Scalar("Int8", min(code, _OLDEST_CODE)), 2: Scalar("Int32", 1), 3: Scalar("Int32", code)
    }  # fmt: skip
    return Table(fields)


def _named(values: Mapping[str, Value]) -> list[Table]:
    return [Table({0: name, 1: Scalar("Uint32", value.number)}) for name, value in values.items()]
