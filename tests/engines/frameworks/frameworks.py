"""What the tests of frameworks share: pretended ones, and Pythons that have the real ones."""

import json
import os
from dataclasses import dataclass
from pathlib import Path

import pytest

from smidgen.engines.frameworks.known import FRAMEWORKS, Framework

PRETENDED = Path(__file__).with_name("pretended.py")


@dataclass(frozen=True)
class PretendedFramework(Framework):
    """Runs another program."""

    @property
    def script(self) -> Path:
        return PRETENDED


def pretend(monkeypatch: pytest.MonkeyPatch) -> Framework:
    """In place of mlx-lm."""
    framework = PretendedFramework("mlx", "mlx-lm", ("numpy",), 1)
    monkeypatch.setitem(FRAMEWORKS, "mlx", framework)
    return framework


def as_mlx(folder: Path, original: Path) -> Path:
    """A folder in Hugging Face layout made to look like one of MLX, for `pretended.py`."""
    (folder / "original.txt").write_text(str(original))
    path = folder / "config.json"
    settings = json.loads(path.read_text()) | {"quantization": {"group_size": 32, "bits": 4}}
    path.write_text(json.dumps(settings))
    return folder


def python_of(runtime: str) -> Path:
    """A Python with the real framework; the test is skipped where none is named."""
    variable = f"SMIDGEN_{runtime.upper()}_PYTHON"
    if variable not in os.environ:
        pytest.skip(f"{variable} names no Python that has the framework")
    return Path(os.environ[variable])
