"""llama.cpp as the `xllamacpp` wheel brings it. Loaded only in the process that it runs in (see child.py)."""

import os
from importlib import import_module
from importlib.metadata import version
from typing import Any

from smidgen.openmp import waiting_awake


def engine_version() -> str:
    """Name and version of the engine, for reports. Does not load it."""
    return f"llama.cpp (xllamacpp {version('xllamacpp')})"


def xllamacpp() -> Any:
    """The wheel's module, loaded when first needed; it is compiled and describes no types."""
    os.environ.setdefault("GGML_NO_BACKTRACE", "1")  # should it ever abort, it would start a debugger on us
    with waiting_awake():
        return import_module("xllamacpp")
