"""The files of an exported model."""

MODEL = "model.onnx"
NUMBERS = "model.onnx.data"  # the weights
GENAI_CONFIG = "genai_config.json"
