"""How long `smidgen --help` takes, and that neither it nor `import smidgen` loads torch or an engine.

    python -m benchmarks.startup [--runs 20]

Wall time of whole processes, started one after the other once the files are in the system's cache; Python itself, doing
nothing, is timed in turn with it for comparison. Exit code 1 if something heavy was loaded.
"""

import argparse
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks import record

HEAVY = ("torch", "xllamacpp", "transformers", "tokenizers", "numpy", "gguf")
_REPORT = "\nimport json, sys\nprint(json.dumps([name for name in sys.argv[1:] if name in sys.modules]))"
_IMPORT = "import smidgen"
_HELP = """
import contextlib, io
from smidgen.cli.main import main

with contextlib.redirect_stdout(io.StringIO()), contextlib.suppress(SystemExit):
    main(["--help"])
"""


def seconds(command: Sequence[str]) -> float:
    """Wall time of one process."""
    started = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - started


def installed_command() -> list[str]:
    """The `smidgen` script that was installed beside this Python, else `python -m smidgen`."""
    script = Path(sys.executable).with_name("smidgen")
    return [str(script)] if script.exists() else record.smidgen()


def measure(runs: int) -> dict[str, Any]:
    """Times and loaded modules, as the object that is saved."""
    commands = {"smidgen --help": [*installed_command(), "--help"], "python -c pass": [sys.executable, "-c", "pass"]}
    for command in commands.values():
        seconds(command)
    times: dict[str, list[float]] = {name: [] for name in commands}
    for _ in range(runs):
        for name, command in commands.items():
            times[name].append(seconds(command))
    return {
        **record.facts(),
        "command": record.shown(commands["smidgen --help"]),
        "seconds": {name: record.spread(values) for name, values in times.items()},
        "loaded_by_import": record.json_from_python(["-c", _IMPORT + _REPORT, *HEAVY]),
        "loaded_by_help": record.json_from_python(["-c", _HELP + _REPORT, *HEAVY]),
    }


def show(result: dict[str, Any]) -> str:
    """The table that goes into README.md."""
    rows = [
        (name, f"{values['median']:.3f}", f"{values['lowest']:.3f}-{values['highest']:.3f}")
        for name, values in result["seconds"].items()
    ]
    return record.table(("command", "seconds, median", "range"), rows)


def main(arguments: Sequence[str] | None = None) -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--runs", type=int, default=20)
    parser.add_argument("--output", type=Path, default=record.RESULTS / "startup.json")
    options = parser.parse_args(arguments)
    result = measure(options.runs)
    record.save(options.output, result)
    print(show(result))
    heavy = sorted({*result["loaded_by_import"], *result["loaded_by_help"]})
    if heavy:
        sys.exit(f"loaded: {', '.join(heavy)}")


if __name__ == "__main__":
    main()
