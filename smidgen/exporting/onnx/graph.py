"""An ONNX graph as it grows: nodes in the order in which they run, and the numbers that they read, in a file beside it.

Nothing is read from a model while the graph grows: numbers are planned with their places in the file, and read when
that is written. Two values may stand for the same stretch of the file, with different shapes.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx_ir as ir
import torch

from smidgen.atomic import replacing
from smidgen.exporting.onnx.names import NUMBERS
from smidgen.formats.checkpoint import Checkpoint
from smidgen.formats.hf.safetensors_writer import Stored
from smidgen.progress import track

#: Of ONNX Runtime's own operators, beside those of the standard.
CONTRIB = "com.microsoft"
_OPERATORS = {"": 21, CONTRIB: 1}  # versions of both
_FILE_FORMAT = 10  # ONNX's `ir_version`, the one that came with version 21 of the operators
_ALIGNMENT = 64  # of each tensor in the file of numbers
_TYPES = {
    torch.float32: ir.DataType.FLOAT, torch.float16: ir.DataType.FLOAT16, torch.bfloat16: ir.DataType.BFLOAT16,
    torch.uint8: ir.DataType.UINT8,
}  # fmt: skip

Attribute = int | float | str | ir.TensorProtocol
Shape = Sequence[int | str]


class Graph:
    """Nodes, inputs, outputs, and what lies in the file of numbers.

    nbytes: of that file.
    """

    def __init__(self) -> None:
        self.nbytes = 0
        self._nodes: list[ir.Node] = []
        self._inputs: list[ir.Value] = []
        self._outputs: list[ir.Value] = []
        self._constants: list[ir.Value] = []
        self._stored: dict[str, tuple[int, Stored]] = {}
        self._views: dict[str, ir.Value] = {}

    def input(self, name: str, kind: ir.DataType, shape: Shape) -> ir.Value:
        """What the graph is given. shape: numbers, and names of sizes that differ from call to call."""
        self._inputs.append(ir.Value(name=name, type=ir.TensorType(kind), shape=ir.Shape(shape)))
        return self._inputs[-1]

    def output(self, value: ir.Value, name: str, shape: Shape) -> None:
        """Give a float32 value back to the caller under this name."""
        value.name, value.type, value.shape = name, ir.TensorType(ir.DataType.FLOAT), ir.Shape(shape)
        self._outputs.append(value)

    def add(self, operator: str, *inputs: ir.Value | None, domain: str = "", **attributes: Attribute) -> ir.Value:
        """A node with one output, which is returned. An input that is None is left out."""
        return self.add_several(operator, 1, *inputs, domain=domain, **attributes)[0]

    def add_several(
        self, operator: str, outputs: int, *inputs: ir.Value | None, domain: str = "", **attributes: Attribute
    ) -> Sequence[ir.Value]:
        """A node with so many outputs."""
        node = ir.node(operator, inputs, attributes=attributes, domain=domain, num_outputs=outputs)
        self._nodes.append(node)
        return node.outputs

    def contrib(self, operator: str, *inputs: ir.Value | None, **attributes: Attribute) -> ir.Value:
        """A node of ONNX Runtime's own, with one output."""
        return self.add(operator, *inputs, domain=CONTRIB, **attributes)

    def constant(self, numbers: np.ndarray) -> ir.Value:
        """A few numbers, which stand in the graph itself."""
        tensor = ir.tensor(numbers, name=f"constant_{len(self._constants)}")
        return self._value(tensor, numbers.shape)

    def integers(self, *numbers: int) -> ir.Value:
        """A list of whole numbers, as the standard's operators take shapes and places."""
        return self.constant(np.array(numbers, np.int64))

    def number(self, number: float) -> ir.Value:
        """One float32."""
        return self.constant(np.array(number, np.float32))

    def stored(self, numbers: Stored, shape: Sequence[int] | None = None) -> ir.Value:
        """Numbers in the file beside the graph; those of the same name are stored once.

        shape: in place of their own; bytes that are packed have one for each operator.
        """
        if numbers.name not in self._stored:
            start = -(-self.nbytes // _ALIGNMENT) * _ALIGNMENT
            self._stored[numbers.name] = start, numbers
            self.nbytes = start + numbers.nbytes
        start, _ = self._stored[numbers.name]
        name = numbers.name if shape is None else f"{numbers.name}.{'x'.join(map(str, shape))}"
        if name not in self._views:
            shape = shape or numbers.shape
            kind = _TYPES[numbers.dtype]
            place = ir.ExternalTensor(NUMBERS, start, numbers.nbytes, kind, shape=ir.Shape(shape), name=name)
            self._views[name] = self._value(place, shape)
        return self._views[name]

    def _value(self, tensor: ir.TensorProtocol, shape: Sequence[int]) -> ir.Value:
        kind = ir.TensorType(tensor.dtype)
        value = ir.Value(name=tensor.name, const_value=tensor, shape=ir.Shape(shape), type=kind)
        self._constants.append(value)
        return value

    def serialized(self, producer: str, version: str) -> bytes:
        """The file that holds the graph."""
        graph = ir.Graph(
            self._inputs, self._outputs, nodes=self._nodes, initializers=self._constants, opset_imports=_OPERATORS,
            name="decoder",
        )  # fmt: skip
        model = ir.Model(graph, ir_version=_FILE_FORMAT, producer_name=producer, producer_version=version)
        return ir.serde.serialize_model(model).SerializeToString()

    def write_numbers(self, folder: Path, checkpoint: Checkpoint) -> None:
        """Write the file of numbers, reading the model a piece at a time."""
        with (
            replacing(folder / NUMBERS, self.nbytes) as file,
            track("Writing weights", self.nbytes, in_bytes=True) as task,
        ):
            for start, numbers in self._stored.values():
                file.seek(start)
                for piece in numbers.pieces():
                    file.write(piece.contiguous().reshape(-1).view(torch.uint8).numpy().data)
                checkpoint.release()
                task.advance(numbers.nbytes)
