"""Packages of the extra `data`, imported where they are needed."""

from importlib import import_module
from typing import Any

from smidgen.errors import SmidgenError


def needed(module: str) -> Any:
    """An optional package. Raises SmidgenError where it is not installed."""
    try:
        return import_module(module)
    except ImportError as error:
        name = module.partition(".")[0]
        raise SmidgenError(f"this needs the package {name}: pip install 'smidgen[data]'.") from error
