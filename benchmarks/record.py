"""What every benchmark needs: a command with its time and peak memory, the facts that go with a result, a table.

Import nothing heavy here: Linux counts the memory of the process that starts a command into that command's peak, so a
benchmark that measures memory has to stay small itself.
"""

import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from smidgen.errors import SmidgenError

REPOSITORY = Path(__file__).resolve().parent.parent
RESULTS = Path(__file__).resolve().parent / "results"
_PACKAGES = ("torch", "numpy", "tokenizers", "gguf", "xllamacpp")


@dataclass(frozen=True)
class Run:
    """What one command cost.

    peak_ram_bytes: largest resident set of the command or of any process it waited for.  cpu_seconds: of all its
    threads, which a busy machine changes less than it changes `seconds`.
    """

    seconds: float
    peak_ram_bytes: int
    cpu_seconds: float

    def __add__(self, after: "Run") -> "Run":
        """One command after the other."""
        return Run(
            self.seconds + after.seconds,
            max(self.peak_ram_bytes, after.peak_ram_bytes),
            self.cpu_seconds + after.cpu_seconds,
        )


def run(command: Sequence[str | Path], log: Path, environment: Mapping[str, str] | None = None) -> Run:
    """Run a command to its end, its output appended to `log`. Raises SmidgenError with its last line if it fails."""
    words = [str(word) for word in command]
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("ab") as output:
        output.write(f"$ {' '.join(words)}\n".encode())
        output.flush()
        started = time.perf_counter()
        process = subprocess.Popen(
            words,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env={**os.environ, **(environment or {})},
        )
        try:
            _, status, usage = os.wait4(process.pid, 0)
        except BaseException:
            process.kill()
            process.wait()
            raise
        seconds = time.perf_counter() - started
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        lines = log.read_text(errors="replace").strip().splitlines()
        raise SmidgenError(f"{words[0]} failed with code {process.returncode}: {lines[-1]} (all of it is in {log})")
    unit = 1 if platform.system() == "Darwin" else 1024
    return Run(seconds, usage.ru_maxrss * unit, usage.ru_utime + usage.ru_stime)


def json_from_python(arguments: Sequence[str], python: str | Path = sys.executable) -> Any:
    """What a Python process with these arguments prints, read as JSON."""
    answer = subprocess.run([python, *arguments], capture_output=True, text=True)
    if answer.returncode:
        raise SmidgenError(f"python {shown(arguments)} failed: {answer.stderr.strip()[-500:]}")
    return json.loads(answer.stdout)


def smidgen(*arguments: str | Path) -> list[str]:
    """The words that run the command line of this checkout, with the Python that runs the benchmark."""
    return [sys.executable, "-m", "smidgen", *(str(argument) for argument in arguments)]


def shown(command: Sequence[str | Path]) -> str:
    """A command as it goes into a result: files by name, since folders are this machine's own."""
    return " ".join(Path(word).name if os.path.sep in str(word) else str(word) for word in command)


def spread(values: Sequence[float]) -> dict[str, float | int]:
    """Median and range of repeated measurements."""
    return {"median": statistics.median(values), "lowest": min(values), "highest": max(values), "runs": len(values)}


def facts(**more: Any) -> dict[str, Any]:
    """When, where and with which versions a result was measured."""
    from smidgen.engines.machine import machine_name

    return {
        "date": datetime.now(UTC).strftime("%Y-%m-%d"),
        "machine": machine_name(),
        "python": platform.python_version(),
        "packages": {name: _version(name) for name in _PACKAGES},
        "smidgen": _commit(),
        **more,
    }


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _commit() -> str | None:
    """The commit of this checkout, with a plus sign if files differ from it."""
    try:
        git = ["git", "-C", str(REPOSITORY)]
        commit = subprocess.run([*git, "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=True)
        changed = subprocess.run([*git, "status", "--porcelain", "smidgen"], capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return commit.stdout.strip() + ("+" if changed.stdout.strip() else "")


def save(path: Path, result: Mapping[str, Any]) -> None:
    """Write a result as JSON. Dataclasses become objects."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(result, indent=1, ensure_ascii=False, default=asdict) + "\n")


def table(head: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """A markdown table, first column to the left, the others to the right."""
    ruler = [":--", *["--:"] * (len(head) - 1)]
    return "\n".join("| " + " | ".join(str(cell) for cell in row) + " |" for row in (head, ruler, *rows))
