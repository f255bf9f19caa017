"""smidgen makes an open-weight language model small enough for the device you have, and proves what that cost.

    model = smidgen.load("gemma-3-270m")
    smidgen.cut(model, "gemma-small", fit="165MB")

What is public here is imported on first use, so that `import smidgen` loads neither torch nor an engine.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from smidgen.openmp import wait_asleep
from smidgen.version import __version__

if TYPE_CHECKING:
    from smidgen.cutting.cut import cut
    from smidgen.cutting.recipe import CutOptions, Pruning
    from smidgen.exporting.export import export
    from smidgen.measuring.arena.arena import arena
    from smidgen.measuring.measure import measure
    from smidgen.measuring.options import MeasureOptions
    from smidgen.running.load import Model, load
    from smidgen.serving.serve import serve
    from smidgen.training.distill import DistillOptions, distill
    from smidgen.training.tune import TuneOptions, tune

wait_asleep()

__all__ = [
    "CutOptions",
    "DistillOptions",
    "MeasureOptions",
    "Model",
    "Pruning",
    "TuneOptions",
    "__version__",
    "arena",
    "cut",
    "distill",
    "export",
    "load",
    "measure",
    "serve",
    "tune",
]

_HOMES = {
    "CutOptions": "smidgen.cutting.recipe",
    "DistillOptions": "smidgen.training.distill",
    "MeasureOptions": "smidgen.measuring.options",
    "Model": "smidgen.running.load",
    "Pruning": "smidgen.cutting.recipe",
    "TuneOptions": "smidgen.training.tune",
    "arena": "smidgen.measuring.arena.arena",
    "cut": "smidgen.cutting.cut",
    "distill": "smidgen.training.distill",
    "export": "smidgen.exporting.export",
    "load": "smidgen.running.load",
    "measure": "smidgen.measuring.measure",
    "serve": "smidgen.serving.serve",
    "tune": "smidgen.training.tune",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'smidgen' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOMES])
