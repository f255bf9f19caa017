"""The files of an exported model."""

from smidgen.formats.exported import GENAI_CONFIG

__all__ = ["GENAI_CONFIG", "MODEL", "NUMBERS"]

MODEL = "model.onnx"
NUMBERS = "model.onnx.data"  # the weights
