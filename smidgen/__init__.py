"""smidgen makes an open-weight language model small enough for the device you have, and proves what that cost.

The public verbs are imported on first use, so that `import smidgen` loads neither torch nor an engine.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from smidgen.openmp import wait_asleep

if TYPE_CHECKING:
    from smidgen.cutting import cut
    from smidgen.distilling import DistillOptions, distill
    from smidgen.engines.llama_cpp import generate
    from smidgen.export import export
    from smidgen.formats.catalogue import locate
    from smidgen.formats.checkpoint import load
    from smidgen.recipe import CutOptions, Pruning
    from smidgen.tuning import TuneOptions, tune

wait_asleep()

__version__ = "0.1.0"
__all__ = [
    "CutOptions",
    "DistillOptions",
    "Pruning",
    "TuneOptions",
    "__version__",
    "cut",
    "distill",
    "export",
    "generate",
    "load",
    "locate",
    "tune",
]

# The report card's verb is `smidgen.measure.measure`, because its folder has the name already.
_HOMES = {
    "CutOptions": "smidgen.recipe",
    "DistillOptions": "smidgen.distilling",
    "Pruning": "smidgen.recipe",
    "TuneOptions": "smidgen.tuning",
    "cut": "smidgen.cutting",
    "distill": "smidgen.distilling",
    "export": "smidgen.export",
    "generate": "smidgen.engines.llama_cpp",
    "load": "smidgen.formats.checkpoint",
    "locate": "smidgen.formats.catalogue",
    "tune": "smidgen.tuning",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'smidgen' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOMES])
