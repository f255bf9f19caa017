"""What the tests of frameworks share: pretended ones, and Pythons that have the real ones."""

import json
import os
from dataclasses import dataclass
from pathlib import Path

import pytest

from smidgen.engines.frameworks.environment import is_here
from smidgen.engines.frameworks.known import FRAMEWORKS, Framework
from smidgen.formats.exported import Runtime

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
    monkeypatch.delenv(framework.variable, raising=False)
    monkeypatch.setitem(FRAMEWORKS, "mlx", framework)
    return framework


def as_mlx(folder: Path, original: Path) -> Path:
    """A folder in Hugging Face layout made to look like one of MLX, for `pretended.py`."""
    (folder / "original.txt").write_text(str(original))
    path = folder / "config.json"
    settings = json.loads(path.read_text()) | {"quantization": {"group_size": 32, "bits": 4}}
    path.write_text(json.dumps(settings))
    return folder


def needs(runtime: Runtime) -> None:
    """Skip the test where neither this Python nor one that is named has the real framework."""
    framework = FRAMEWORKS[runtime]
    if framework.variable not in os.environ and not all(map(is_here, framework.modules)):
        pytest.skip(f"{framework.variable} names no Python that has {framework.name}")
