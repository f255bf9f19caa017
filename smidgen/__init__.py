"""smidgen makes an open-weight language model small enough for the device you have, and proves what that cost.

The public verbs are imported on first use, so that `import smidgen` loads neither torch nor an engine.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from smidgen.openmp import wait_asleep

if TYPE_CHECKING:
    from smidgen.cutting.cut import cut
    from smidgen.cutting.recipe import CutOptions, Pruning
    from smidgen.engines.llama_cpp.engine import generate
    from smidgen.exporting.export import export
    from smidgen.formats.hub.catalogue import locate
    from smidgen.formats.opening import open_model
    from smidgen.training.distill import DistillOptions, distill
    from smidgen.training.tune import TuneOptions, tune

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

# The report card's verb is `smidgen.measuring.measure.measure`, because its folder has the name already.
_HOMES = {
    "CutOptions": "smidgen.cutting.recipe",
    "DistillOptions": "smidgen.training.distill",
    "Pruning": "smidgen.cutting.recipe",
    "TuneOptions": "smidgen.training.tune",
    "cut": "smidgen.cutting.cut",
    "distill": "smidgen.training.distill",
    "export": "smidgen.exporting.export",
    "generate": "smidgen.engines.llama_cpp.engine",
    "load": "smidgen.formats.checkpoint",
    "locate": "smidgen.formats.hub.catalogue",
    "tune": "smidgen.training.tune",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'smidgen' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOMES])
