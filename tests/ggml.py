"""llama.cpp's own table of tensor types and its own decoders and encoders, reached inside the engine that smidgen runs.

The engine's shared library exports ggml's functions. Where one does not (another platform's build), tests are skipped.
"""

import ctypes
from functools import cache

import numpy as np
import pytest

from smidgen.numerics.block_types import BlockType

_CONVERT = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64)


class Traits(ctypes.Structure):
    """`struct ggml_type_traits` of ggml.h, up to what is read here."""

    _fields_ = [
        ("name", ctypes.c_char_p), ("block", ctypes.c_int64), ("interleaved", ctypes.c_int64),
        ("block_bytes", ctypes.c_size_t), ("quantized", ctypes.c_bool), ("to_float", _CONVERT),
    ]  # fmt: skip


def traits(ggml_id: int) -> Traits:
    """What the engine knows of a type."""
    return _library().ggml_get_type_traits(ggml_id).contents


def is_past_the_last(ggml_id: int) -> bool:
    """Whether the engine has no type of this number, nor of a higher one."""
    return not _library().ggml_validate_row_data(ggml_id, None, 0)  # no data: any type that exists would be content


def decoded(packed: np.ndarray, kind: BlockType) -> np.ndarray:
    """Rows of blocks as llama.cpp's dequantize_row_… gives them, float32."""
    rows = np.ascontiguousarray(packed)
    weights = np.empty((len(rows), rows.shape[1] // kind.block_bytes * kind.block), dtype=np.float32)
    traits(kind.ggml_id).to_float(rows.ctypes.data, weights.ctypes.data, weights.size)
    return weights


def encoded(weights: np.ndarray, kind: BlockType) -> np.ndarray:
    """Rows of float32 as llama.cpp's quantizer packs them, each column as important as the others."""
    rows = np.ascontiguousarray(weights, dtype=np.float32)
    packed = np.empty((len(rows), kind.row_bytes(rows.shape[1])), dtype=np.uint8)
    importance = np.ones(rows.shape[1], dtype=np.float32)
    written = _library().ggml_quantize_chunk(
        kind.ggml_id, rows.ctypes.data, packed.ctypes.data, 0, len(rows), rows.shape[1], importance.ctypes.data
    )
    assert written == packed.nbytes
    return packed


@cache
def _library() -> ctypes.CDLL:
    engine = pytest.importorskip("xllamacpp.xllamacpp")
    library = ctypes.CDLL(engine.__file__)
    if not hasattr(library, "ggml_get_type_traits"):
        pytest.skip("this build of the engine does not export ggml's functions")
    library.ggml_get_type_traits.restype = ctypes.POINTER(Traits)
    library.ggml_get_type_traits.argtypes = [ctypes.c_int]
    library.ggml_validate_row_data.restype = ctypes.c_bool
    library.ggml_validate_row_data.argtypes = [ctypes.c_int, ctypes.c_void_p, ctypes.c_size_t]
    library.ggml_quantize_chunk.restype = ctypes.c_size_t
    library.ggml_quantize_chunk.argtypes = [
        ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64, ctypes.c_int64, ctypes.c_int64, ctypes.c_void_p,
    ]  # fmt: skip
    return library
