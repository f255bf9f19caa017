"""What each framework's own quantizer makes of a 16-bit folder, at about the same bits: 4, in groups of 32.

    python -m benchmarks.framework_tools DIR

makes a Python for each of them in DIR, of some gigabytes together, and one for each framework that `smidgen measure`
asks; it prints where they are as settings for `env`. None of the quantizers is given a text: mlx-lm's and
onnxruntime-genai's take none, optimum's data sets would come from a model hub, and litert-torch's recipe has none.
"""

import argparse
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from venv import EnvBuilder

from benchmarks import record
from smidgen.engines.frameworks.environment import python_with
from smidgen.engines.frameworks.known import FRAMEWORKS
from smidgen.errors import SmidgenError
from smidgen.formats.exported import Runtime
from smidgen.progress import say

_TORCH = "torch==2.13.0"
#: What pip installs for each quantizer; the versions decide what it makes.
PACKAGES: dict[Runtime, tuple[str, ...]] = {
    "mlx": ("mlx-lm==0.32.2", "mlx[cpu]==0.32.4", "transformers==5.24.0"),
    # From 0.16 on its builder wants transformers 5, and fails at how that states the positions of Gemma 3.
    "onnx": (_TORCH, "onnxruntime-genai==0.15.2", "onnxruntime==1.32.0", "onnx-ir==1.1.0", "transformers==4.57.6"),
    "openvino": (_TORCH, "optimum-intel[openvino]==2.2.0", "nncf==3.4.0", "transformers==4.57.6"),
    # litert-torch does not say that its export needs TensorFlow.
    "litert": (_TORCH, "litert-torch==0.10.0", "tensorflow-cpu==2.21.0", "transformers==5.24.0"),
}
#: The program that people run LiteRT's models with; it tells how quick it is itself.
LITERT_LM = "litert-lm-api==0.18.1"


def python_in(folder: Path, packages: Sequence[str]) -> Path:
    """A Python that has these packages, made in `folder` where there is none."""
    python = folder / "bin" / "python"
    done = folder / "installed.txt"
    wanted = "\n".join(packages)
    if not (done.exists() and done.read_text() == wanted):
        if folder.exists() and not (folder / "pyvenv.cfg").exists():
            raise SmidgenError(f"{folder} is no virtual environment, and would be emptied. Name another folder.")
        say(f"Installing {', '.join(packages)} …")
        EnvBuilder(with_pip=True, clear=True).create(folder)
        # torch first and alone: its pinned version comes without CUDA packages, and what follows accepts it.
        for names in (packages[:1], packages):
            words = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *names]
            subprocess.run(words, check=True, stdout=sys.stderr)
        done.write_text(wanted)
    return python


def tools_in(folder: Path) -> dict[Runtime, Path]:
    """A Python for each quantizer, made where there is none."""
    return {runtime: python_in(folder / runtime, packages) for runtime, packages in PACKAGES.items()}


def command(runtime: Runtime, python: Path, original: Path, folder: Path) -> list[str]:
    """The words that make `folder` of the folder `original`. python: one that has the framework's quantizer."""
    words: dict[Runtime, Sequence[str | Path]] = {
        "mlx": ["-m", "mlx_lm", "convert", "--hf-path", original, "--mlx-path", folder, "-q", "--q-bits", "4",
                "--q-group-size", "32"],
        "onnx": ["-m", "onnxruntime_genai.models.builder", "-i", original, "-o", folder, "-p", "int4", "-e", "cpu",
                 "-c", folder.with_name("cache"), "--extra_options", "int4_block_size=32"],
        "openvino": ["-m", "optimum.commands.optimum_cli", "export", "openvino", "-m", original, "--task",
                     "text-generation-with-past", "--weight-format", "int4", "--group-size", "32", "--ratio", "1.0",
                     "--all-layers", folder],  # without that word the embedding has 8 bits
        "litert": ["-m", "litert_torch.generative.export_hf", "--model", original, "--output_dir", folder,
                   "--quantization_recipe", "dynamic_wi4b32_afp32", "--cache_length", "2048", "--externalize_embedder",
                   "False"],
    }  # fmt: skip
    return [str(word) for word in [python, *words[runtime]]]


def versions(runtime: Runtime, python: Path) -> dict[str, str]:
    """Of the packages that made it."""
    listed = "import json, sys, importlib.metadata as m; print(json.dumps({n: m.version(n) for n in sys.argv[1:]}))"
    names = [re.split(r"[\[=]", package)[0] for package in PACKAGES[runtime]]
    return record.json_from_python(["-c", listed, *names], python)


def main(arguments: Sequence[str] | None = None) -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, metavar="DIR")
    folder = parser.parse_args(arguments).folder.absolute()
    for framework in FRAMEWORKS.values():
        print(f"{framework.variable}={python_with(framework)}")
    tools_in(folder)
    python_in(folder / "litert-lm", [LITERT_LM])


if __name__ == "__main__":
    main()
