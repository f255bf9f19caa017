"""Runs a command of smidgen and says what each of its stages took: time, processor time, and memory of everything.

A stage is what one progress bar counts, and what led up to it: it begins where the one before ends. Elsewhere than on a
terminal a bar is printed as lines (smidgen/progress.py); the moment at which a line comes is taken here. A bar that
ends before its last step ends with its last line. What comes after the last bar is "rest".
"""

import os
import re
import subprocess
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks import record
from benchmarks.process_tree import Moment, Watch, cpu_seconds
from smidgen.errors import SmidgenError

_LINE = re.compile(r"(.+): (\d[\d.]*)(?: MB)?/(\d[\d.]*)(?: MB)?, \d+ s")
_REST = "rest"


@dataclass(frozen=True)
class Said:
    """A line of a bar: when it came, the processor time until then, and whether it was the last step."""

    label: str
    seconds: float
    cpu_seconds: float
    done: bool


@dataclass(frozen=True)
class Stage:
    """peak_bytes: of the whole tree of processes, of which anonymous; None where the stage took less than a look."""

    name: str
    seconds: float
    cpu_seconds: float
    peak_bytes: int | None
    peak_anonymous_bytes: int | None


@dataclass(frozen=True)
class Staged:
    """What the whole command took.  peak_anonymous_bytes: the most that the system could not drop, at any moment."""

    seconds: float
    cpu_seconds: float
    peak: Moment
    peak_anonymous_bytes: int
    looks: int
    stages: list[Stage]


def run(command: Sequence[str | Path], log: Path, environment: Mapping[str, str] | None = None) -> Staged:
    """Run it to its end, its output appended to `log`. Raises SmidgenError with its last line if it fails."""
    said: list[Said] = []
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("a", encoding="utf-8") as output:
        print("$", *command, file=output, flush=True)
        process = subprocess.Popen(
            [str(word) for word in command], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            text=True, errors="replace", env={**os.environ, **(environment or {})},
        )  # fmt: skip
        assert process.stdout is not None
        last = ""
        with Watch(process.pid) as watch:
            try:
                for line in process.stdout:
                    print(f"{watch.seconds:9.2f} {line}", end="", file=output, flush=True)
                    last = line.strip() or last
                    if found := _LINE.match(line):
                        label, done, total = found.groups()
                        said.append(Said(label, watch.seconds, cpu_seconds(process.pid), float(done) >= float(total)))
                _, status, usage = os.wait4(process.pid, 0)
            except BaseException:
                process.kill()
                process.wait()
                raise
            seconds = watch.seconds
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SmidgenError(f"{record.shown(command)} failed with code {process.returncode}: {last} (see {log})")
    end = Said(_REST, seconds, usage.ru_utime + usage.ru_stime, True)
    most = max((anonymous for _, _, anonymous in watch.moments), default=0)
    stages = stages_of([*said, end], watch.moments)
    return Staged(seconds, end.cpu_seconds, watch.peak, most, len(watch.moments), stages)


def stages_of(said: Iterable[Said], moments: Iterable[tuple[float, int, int]]) -> list[Stage]:
    """The stages that these lines tell of, in their order.  moments: as in `Watch`."""
    ends: list[Said] = []
    for line in said:
        if ends and ends[-1].label == line.label and not ends[-1].done:
            ends.pop()
        ends.append(line)
    looks, stages = list(moments), list[Stage]()
    began, cpu_began = 0.0, 0.0
    for end in ends:
        held = [(whole, anonymous) for seconds, whole, anonymous in looks if began <= seconds < end.seconds]
        whole, anonymous = (max(one) for one in zip(*held, strict=True)) if held else (None, None)
        stages.append(Stage(end.label, end.seconds - began, end.cpu_seconds - cpu_began, whole, anonymous))
        began, cpu_began = end.seconds, end.cpu_seconds
    return stages
