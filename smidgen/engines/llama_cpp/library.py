"""llama.cpp's own functions, for what its server cannot do: many rows of tokens, step by step, in a fixed order.

The wheel's Python classes bring a server only. The same file has the C functions of `llama.h`, and these are called
here through ctypes. Which requests share a batch of the server depends on time, and with it the last bits of logits;
here each step is one batch with the same rows in the same order, so that the same rows always give the same logits.

C cannot say whether a function takes what we pass, and settings move within their structures from version to version.
So as little as possible is assumed, and all of it is looked at: of the settings only the first four numbers are set,
whose defaults are known, and what they became is asked for afterwards. A wheel in which anything is elsewhere is
refused (Unsupported). Only for the process that llama.cpp runs in (see author_child.py).

Functions: https://github.com/ggml-org/llama.cpp/blob/master/include/llama.h
"""

import ctypes
import sys
from collections.abc import Sequence
from typing import Any

import numpy as np

from smidgen.engines.llama_cpp.loading import Loading
from smidgen.engines.llama_cpp.wheel import engine_version, xllamacpp
from smidgen.errors import SmidgenError, Unsupported

_DEFAULTS = (512, 2048, 512, 1)  # n_ctx, n_batch, n_ubatch, n_seq_max
_ROOM = 1008  # bytes of settings behind those named here, more than there are: what llama.cpp fills in is passed back
_ERROR = 4  # a level of llama.cpp's log
_POINTER = ctypes.c_void_p
_Log = ctypes.CFUNCTYPE(None, ctypes.c_int, ctypes.c_char_p, _POINTER)


class _Placement(ctypes.Structure):
    """Which tensors go into which kind of memory."""

    _fields_ = [("pattern", ctypes.c_char_p), ("memory", _POINTER)]


class _ModelSettings(ctypes.Structure):
    _fields_ = [("devices", _POINTER), ("placements", _POINTER), ("rest", ctypes.c_uint8 * _ROOM)]


class _ContextSettings(ctypes.Structure):
    _fields_ = [(name, ctypes.c_uint32) for name in ("n_ctx", "n_batch", "n_ubatch", "n_seq_max")] + [
        ("rest", ctypes.c_uint8 * _ROOM)
    ]


class _Batch(ctypes.Structure):
    """One token of each row."""

    _fields_ = [
        ("n_tokens", ctypes.c_int32),
        ("token", ctypes.POINTER(ctypes.c_int32)),
        ("embd", _POINTER),
        ("pos", ctypes.POINTER(ctypes.c_int32)),
        ("n_seq_id", ctypes.POINTER(ctypes.c_int32)),
        ("seq_id", ctypes.POINTER(ctypes.POINTER(ctypes.c_int32))),
        ("logits", ctypes.POINTER(ctypes.c_int8)),
    ]


class Rows:
    """A loaded model and so many rows of tokens, each with keys and values of its own.

    length: tokens that a row can have.  Lives as long as its process: nothing is freed.
    Raises Unsupported where the wheel is not as expected, SmidgenError where llama.cpp refuses the model.
    """

    def __init__(self, path: str, rows: int, length: int, threads: int, loading: Loading) -> None:
        self._library = _library()
        self._call("llama_log_set", None, _Log, _POINTER)(_print_errors, None)
        self._call("llama_backend_init", None)()
        model = self._load(path, loading)
        self._context = self._open(model, rows, length)
        self._call("llama_set_n_threads", None, _POINTER, ctypes.c_int32, ctypes.c_int32)(
            self._context, threads, threads
        )
        vocabulary = self._call("llama_model_get_vocab", _POINTER, _POINTER)(model)
        self._vocabulary: int = self._call("llama_vocab_n_tokens", ctypes.c_int32, _POINTER)(vocabulary)
        self._batch = self._new_batch(rows)
        self._decode = self._call("llama_decode", ctypes.c_int32, _POINTER, _Batch)
        self._logits_of = self._call("llama_get_logits_ith", ctypes.POINTER(ctypes.c_float), _POINTER, ctypes.c_int32)

    def clear(self) -> None:
        """Forget all rows."""
        memory = self._call("llama_get_memory", _POINTER, _POINTER)(self._context)
        self._call("llama_memory_clear", None, _POINTER, ctypes.c_bool)(memory, True)

    def step(self, tokens: Sequence[int], position: int, wanted: bool = True) -> list[np.ndarray]:
        """Put a token behind each of the first rows, at the same position; the logits that follow, if wanted.

        They are views, float32 [vocabulary], until the next step. Raises SmidgenError where llama.cpp fails.
        """
        batch = self._batch
        batch.n_tokens = len(tokens)
        for row, token in enumerate(tokens):
            batch.token[row], batch.pos[row], batch.logits[row] = token, position, wanted
            batch.n_seq_id[row], batch.seq_id[row][0] = 1, row
        if code := self._decode(self._context, batch):
            raise SmidgenError(f"llama.cpp could not compute position {position} (code {code})")
        if not wanted:
            return []
        return [
            np.ctypeslib.as_array(self._logits_of(self._context, row), (self._vocabulary,))
            for row in range(len(tokens))
        ]

    def _load(self, path: str, loading: Loading) -> int:
        settings = self._call("llama_model_default_params", _ModelSettings)()
        if settings.devices is not None or settings.placements is not None:
            raise _unknown()
        if not loading.repacked:
            plain = self._call("ggml_backend_cpu_buffer_type", _POINTER)()
            self._placements = (_Placement * 2)(_Placement(b".*", plain), _Placement(None, None))
            settings.placements = ctypes.cast(self._placements, _POINTER)
        load = self._call("llama_model_load_from_file", _POINTER, ctypes.c_char_p, _ModelSettings)
        model = load(path.encode(sys.getfilesystemencoding(), "surrogateescape"), settings)
        if not model:
            raise SmidgenError("llama.cpp could not load the model")
        return model

    def _open(self, model: int, rows: int, length: int) -> int:
        settings = self._call("llama_context_default_params", _ContextSettings)()
        names = ("n_ctx", "n_batch", "n_ubatch", "n_seq_max")
        if tuple(getattr(settings, name) for name in names) != _DEFAULTS:
            raise _unknown()
        settings.n_ctx, settings.n_batch, settings.n_ubatch, settings.n_seq_max = rows * length, rows, rows, rows
        context = self._call("llama_init_from_model", _POINTER, _POINTER, _ContextSettings)(model, settings)
        if not context:
            raise SmidgenError("llama.cpp could not make a context, perhaps for want of memory")
        n_ctx, n_batch, _n_ubatch, n_seq_max = (
            self._call(f"llama_{name}", ctypes.c_uint32, _POINTER)(context) for name in names
        )
        if n_ctx < rows * length or n_batch < rows or n_seq_max != rows:
            raise _unknown()
        return context

    def _new_batch(self, rows: int) -> _Batch:
        batch = self._call("llama_batch_init", _Batch, ctypes.c_int32, ctypes.c_int32, ctypes.c_int32)(rows, 0, 1)
        if batch.n_tokens or batch.embd or not all((batch.token, batch.pos, batch.n_seq_id, batch.logits)):
            raise _unknown()
        return batch

    def _call(self, name: str, result: Any, *arguments: Any) -> Any:
        """One of llama.cpp's functions."""
        try:
            function = getattr(self._library, name)
        except AttributeError as error:  # on Windows a module shows none of its functions
            raise _unknown() from error
        function.restype, function.argtypes = result, arguments
        return function


def _library() -> ctypes.CDLL:
    """The file of the wheel's module, which is loaded already and so initialised."""
    module = xllamacpp()
    return ctypes.CDLL(module.xllamacpp.__file__)


def _unknown() -> Unsupported:
    return Unsupported(f"{engine_version()} is not built as smidgen knows it")


@_Log
def _print_errors(level: int, text: bytes, _: None) -> None:
    """For the parent, who keeps the last of them. llama.cpp's other messages are many."""
    if level == _ERROR:
        sys.stderr.write(text.decode(errors="replace"))
