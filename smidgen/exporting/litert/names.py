"""The files of an exported model."""

from smidgen.formats.exported import LITERT_MODEL as MODEL

__all__ = ["MODEL"]
