"""Builds llama.cpp's own llama-quantize, llama-imatrix and llama-perplexity, which smidgen is compared with.

    python -m benchmarks.llama_cpp_tools [--tools DIR]

prints the folder that holds them. The sources are those inside the source package of llama-cpp-python on PyPI, of one
version with a known hash, compiled for this machine with the default settings of a release build (native instructions,
OpenMP). That takes 10 to 20 minutes and a C++ compiler; it is done once, into smidgen's cache folder. `--tools DIR`,
here and in the benchmarks, uses a folder that already holds them instead.
"""

import argparse
import hashlib
import os
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from benchmarks import record
from smidgen.errors import SmidgenError
from smidgen.formats.hub.catalogue import cache_folder
from smidgen.progress import say

PACKAGE, VERSION = "llama-cpp-python", "0.3.36"
SHA256 = "832db0699007f1be95a7e41ef12e88926b02ba836461e36a36372db2760c1a2e"
NAMES = ("llama-quantize", "llama-imatrix", "llama-perplexity")
BENCH = "llama-bench"  # which few benchmarks need
_BUILD_OPTIONS = (
    "CMAKE_BUILD_TYPE=Release", "BUILD_SHARED_LIBS=OFF", "LLAMA_CURL=OFF", "LLAMA_OPENSSL=OFF",
    "LLAMA_BUILD_TESTS=OFF", "LLAMA_BUILD_EXAMPLES=OFF", "LLAMA_BUILD_SERVER=OFF",
)  # fmt: skip


@dataclass(frozen=True)
class Tools:
    """A folder with the executables."""

    folder: Path

    @property
    def quantize(self) -> Path:
        """llama-quantize."""
        return self.folder / "llama-quantize"

    @property
    def imatrix(self) -> Path:
        """llama-imatrix."""
        return self.folder / "llama-imatrix"

    @property
    def perplexity(self) -> Path:
        """llama-perplexity, which also measures KL divergence."""
        return self.folder / "llama-perplexity"

    @property
    def bench(self) -> Path:
        """llama-bench; there for who has asked `find_or_build` for it."""
        return self.folder / BENCH

    @cache  # noqa: B019 - there is one such object, or two
    def version(self) -> str:
        """What the tools say of themselves, such as `0.5.0-dev (build 1, commit 0c1e570)`."""
        answer = subprocess.run([self.imatrix, "--version"], capture_output=True, text=True, check=True)
        lines = (answer.stdout + answer.stderr).splitlines()
        return next((line.partition(":")[2].strip() for line in lines if line.startswith("version:")), "unknown")


def add_option(parser: argparse.ArgumentParser) -> None:
    """The option that every benchmark with llama.cpp in it has."""
    parser.add_argument("--tools", type=Path, metavar="DIR", help="folder with llama.cpp's tools already built")


def find_or_build(folder: Path | None = None, *more: str) -> Tools:
    """The tools in `folder`, or those in the cache, which are built if missing.  more: beside `NAMES`."""
    names = (*NAMES, *more)
    if folder is not None:
        tools = Tools(folder)
        missing = [name for name in names if not os.access(folder / name, os.X_OK)]
        if missing:
            raise SmidgenError(f"{folder} has no executable {missing[0]}; leave --tools out to have it built.")
        return tools
    home = cache_folder() / "benchmarks"
    tools = Tools(home / f"llama.cpp-{VERSION}" / "bin")
    if not all(os.access(tools.folder / name, os.X_OK) for name in names):
        build(home)
    return tools


def build(home: Path) -> None:
    """Download, unpack and compile below `home`. Raises SmidgenError with the log file if a step fails."""
    home.mkdir(parents=True, exist_ok=True)
    log = home / "build.log"
    target = home / f"llama.cpp-{VERSION}"
    with tempfile.TemporaryDirectory(dir=home) as scratch:
        say(f"building {', '.join(NAMES)} (10 to 20 minutes, log in {log})")
        source = _unpack(_download(Path(scratch), log), Path(scratch)) / "vendor" / "llama.cpp"
        (target / "CMakeCache.txt").unlink(missing_ok=True)  # of a build that lacks a tool: its sources are gone
        options = [f"-D{option}" for option in _BUILD_OPTIONS]
        record.run(["cmake", "-S", source, "-B", target, *options], log)
        record.run(["cmake", "--build", target, "--parallel", str(os.cpu_count() or 1), "--target", *NAMES, BENCH], log)


def _download(folder: Path, log: Path) -> Path:
    """The source package, checked. `--no-binary` for this package only: its build tools may come as wheels."""
    requirement = f"{PACKAGE}=={VERSION}"
    pip = [sys.executable, "-m", "pip", "download", "--no-deps", "--no-binary", PACKAGE, "--dest", folder, requirement]
    record.run(pip, log)
    archive = next(folder.glob("*.tar.gz"))
    with archive.open("rb") as stream:
        found = hashlib.file_digest(stream, "sha256").hexdigest()
    if found != SHA256:
        raise SmidgenError(f"{archive.name} has sha256 {found}, expected {SHA256}; do not use it.")
    return archive


def _unpack(archive: Path, folder: Path) -> Path:
    with tarfile.open(archive) as tar:
        tar.extractall(folder, filter="data")
    return folder / archive.name.removesuffix(".tar.gz")


def main(arguments: Sequence[str] | None = None) -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    add_option(parser)
    tools = find_or_build(parser.parse_args(arguments).tools)
    print(tools.folder, tools.version())


if __name__ == "__main__":
    main()
