"""smidgen makes an open-weight language model small enough for the device you have, and proves what that cost.

The public verbs are imported on first use, so that `import smidgen` loads neither torch nor an engine.
"""

import os
from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from smidgen.cutting import cut
    from smidgen.engines.llama_cpp import generate
    from smidgen.export import export
    from smidgen.formats.catalogue import locate
    from smidgen.formats.checkpoint import load
    from smidgen.recipe import CutOptions, Pruning

# OpenMP's threads wait for each other in a busy loop by default. With any other work on the machine that makes torch's
# many small operations up to 30 times slower, so let them sleep instead. It must be set before torch is loaded.
# (llama.cpp wants the opposite: engines.llama_cpp_server.)
WAIT_POLICY, QUIET_WAIT = "OMP_WAIT_POLICY", "PASSIVE"
os.environ.setdefault(WAIT_POLICY, QUIET_WAIT)

__version__ = "0.1.0"
__all__ = ["CutOptions", "Pruning", "__version__", "cut", "export", "generate", "load", "locate"]

# The report card's verb is `smidgen.measure.measure`, because its folder has the name already.
_HOMES = {
    "CutOptions": "smidgen.recipe",
    "Pruning": "smidgen.recipe",
    "cut": "smidgen.cutting",
    "export": "smidgen.export",
    "generate": "smidgen.engines.llama_cpp",
    "load": "smidgen.formats.checkpoint",
    "locate": "smidgen.formats.catalogue",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'smidgen' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOMES])
