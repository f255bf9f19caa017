"""What each framework's own quantizer makes of a 16-bit folder, at about the same bits: 4, in groups of 32.

Each runs in a Python of its own, which has it: `--tool mlx=PYTHON` and so on. None of them is given a text: mlx-lm's
and onnxruntime-genai's take none, and optimum's data sets would come from a model hub.
"""

from collections.abc import Sequence
from pathlib import Path

from benchmarks import record
from smidgen.formats.exported import Runtime

#: Packages whose versions decide what a tool makes.
PACKAGES: dict[Runtime, tuple[str, ...]] = {
    "mlx": ("mlx-lm", "mlx"),
    "onnx": ("onnxruntime-genai", "onnxruntime", "transformers"),
    "openvino": ("optimum-intel", "nncf", "openvino", "transformers"),
}


def command(runtime: Runtime, python: Path, original: Path, folder: Path) -> list[str]:
    """The words that make `folder` of the folder `original`. python: one that has the framework's quantizer."""
    words: dict[Runtime, Sequence[str | Path]] = {
        "mlx": ["-m", "mlx_lm", "convert", "--hf-path", original, "--mlx-path", folder, "-q", "--q-bits", "4",
                "--q-group-size", "32"],
        "onnx": ["-m", "onnxruntime_genai.models.builder", "-i", original, "-o", folder, "-p", "int4", "-e", "cpu",
                 "-c", folder.with_name("cache"), "--extra_options", "int4_block_size=32"],
        "openvino": ["-m", "optimum.commands.optimum_cli", "export", "openvino", "-m", original, "--task",
                     "text-generation-with-past", "--weight-format", "int4", "--group-size", "32", "--ratio", "1.0",
                     folder],
    }  # fmt: skip
    return [str(word) for word in [python, *words[runtime]]]


def versions(runtime: Runtime, python: Path) -> dict[str, str]:
    """Of the packages that made it."""
    listed = "import json, sys, importlib.metadata as m; print(json.dumps({n: m.version(n) for n in sys.argv[1:]}))"
    return record.json_from_python(["-c", listed, *PACKAGES[runtime]], python)
