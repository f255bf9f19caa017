"""The files of an exported model."""

MODEL = "model.litertlm"
