"""The frameworks that smidgen measures with, and what each of them needs. Torch-free."""

from dataclasses import dataclass
from pathlib import Path

from smidgen.formats.exported import Runtime

_HERE = Path(__file__).parent


@dataclass(frozen=True)
class Framework:
    """One of them.

    name: as its people call it.  modules: what a Python must have to run `script`.
    megabytes: about what its environment takes on disk.
    """

    runtime: Runtime
    name: str
    modules: tuple[str, ...]
    megabytes: int

    @property
    def requirements(self) -> Path:
        """The file for `pip install -r`, with the versions that were tried."""
        return _HERE / "requirements" / f"{self.runtime}.txt"

    @property
    def script(self) -> Path:
        """The program that runs a model in it."""
        return _HERE / "scripts" / f"run_{self.runtime}.py"

    @property
    def variable(self) -> str:
        """The environment variable that names a Python to run it with."""
        return f"SMIDGEN_{self.runtime.upper()}_PYTHON"


FRAMEWORKS: dict[Runtime, Framework] = {
    one.runtime: one
    for one in (
        Framework("mlx", "mlx-lm", ("mlx.core", "mlx_lm"), 700),
        Framework("transformers", "transformers", ("transformers", "compressed_tensors", "torch"), 1600),
        Framework("onnx", "ONNX Runtime GenAI", ("onnxruntime_genai",), 400),
        Framework("openvino", "OpenVINO", ("openvino",), 500),
        Framework("litert", "LiteRT", ("ai_edge_litert",), 150),
    )
}
