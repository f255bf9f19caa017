"""A Python that has a framework: the one that a person names, this one, or one in an environment made for it.

Requirements of frameworks contradict ours and each other, so they never go into the environment that smidgen runs in.
One is made in the cache at its first use, by `venv` and pip, with the versions in `requirements/`, and serves from then
on; other versions there make another environment. It is made under another name and renamed, so that a half-made one is
never used; the next attempt removes it. A lock lets only one process make it: the others wait, and use the same.
"""

import hashlib
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from importlib.util import find_spec
from pathlib import Path

from smidgen.alone import alone_at
from smidgen.atomic import partial_path
from smidgen.engines.frameworks.known import Framework
from smidgen.errors import SmidgenError, printable
from smidgen.formats.hub.home import environments_folder
from smidgen.formats.hub.transfer import is_offline
from smidgen.progress import say
from smidgen.shell import as_word

_PYTHON = Path("Scripts/python.exe") if os.name == "nt" else Path("bin/python")
_LAST_WORDS = 300


def python_with(framework: Framework) -> Path:
    """A Python that has the framework, made now where there is none.

    Raises SmidgenError where the one that is named is none, where it would have to be made and HF_HUB_OFFLINE forbids
    it, and where it cannot be made.
    """
    named = os.environ.get(framework.variable)
    if named:
        return _named(framework, Path(named).expanduser())
    if all(map(is_here, framework.modules)):
        return Path(sys.executable)
    home = _home(framework)
    if (home / _PYTHON).exists():
        return home / _PYTHON
    if is_offline():
        raise SmidgenError(_not_offline(framework))
    with _alone(home):
        if not (home / _PYTHON).exists():  # others may have made it while we waited
            _make(framework, home)
    return home / _PYTHON


def _named(framework: Framework, python: Path) -> Path:
    if python.is_file() and os.access(python, os.X_OK):
        return python
    raise SmidgenError(f"{framework.variable} names {printable(python)}, which is no program; give a Python's path.")


def is_here(module: str) -> bool:
    """Whether this Python has a module; nothing of it is run, but a package that it is in."""
    try:
        return find_spec(module) is not None
    except (ImportError, ValueError):
        return False


def _home(framework: Framework) -> Path:
    """Where its environment is, or will be: its name changes with what goes into it."""
    told = framework.requirements.read_bytes() + f"{sys.version_info[:2]}".encode()
    return environments_folder() / f"{framework.runtime}-{hashlib.sha256(told).hexdigest()[:12]}"


def _not_offline(framework: Framework) -> str:
    folder = f"smidgen-{framework.runtime}"
    return (
        f"{framework.name} is not installed here, and HF_HUB_OFFLINE forbids to fetch it. Where there is a network: "
        f"python -m venv {folder} && {folder}/{_PYTHON.as_posix()} -m pip install -r "
        f"{as_word(framework.requirements)}, then set {framework.variable}={folder}/{_PYTHON.as_posix()}"
    )


def _make(framework: Framework, home: Path) -> None:
    """Raises SmidgenError, with pip's last words, and leaves nothing."""
    partial = partial_path(home)
    _remove(partial)
    _refuse_full_disk(framework, home.parent)
    say(
        f"{framework.name} is not installed here. It gets an environment of its own in {printable(home.parent)}, once: "
        f"about {framework.megabytes} MB from PyPI …"
    )
    python = partial / _PYTHON
    packages = [python, "-m", "pip", "install", "--disable-pip-version-check", "--no-input", "-q"]
    try:
        _run(framework, [Path(sys.executable), "-m", "venv", partial])
        _run(framework, [*packages, "-r", framework.requirements])
        os.replace(partial, home)
    except OSError as error:
        raise _failed(framework, error.strerror or str(error)) from error
    finally:
        _remove(partial)  # renamed, or of no use
    say(f"{framework.name} is installed.")


def _run(framework: Framework, command: list[Path | str]) -> None:
    """Raises SmidgenError where the command ends badly."""
    found = subprocess.run(
        [os.fspath(word) for word in command], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT, text=True, errors="replace", env=_without_ours(),
    )  # fmt: skip
    if found.returncode:
        lines = [line.strip() for line in found.stdout.splitlines() if line.strip()]
        errors = [line for line in lines if line.lower().startswith("error")]
        raise _failed(framework, (errors or lines or ["it gave no reason"])[-1])


def _without_ours() -> dict[str, str]:
    """This process's environment, without what would lead another Python to our packages."""
    return {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "PYTHONHOME", "PIP_TARGET")}


def _failed(framework: Framework, why: str) -> SmidgenError:
    return SmidgenError(
        f"The environment for {framework.name} could not be made: {printable(why, _LAST_WORDS)}. Try again, or set "
        f"{framework.variable} to a Python that has it (pip install -r {as_word(framework.requirements)})."
    )


def _refuse_full_disk(framework: Framework, folder: Path) -> None:
    free = shutil.disk_usage(folder).free // 10**6
    if free < framework.megabytes:
        raise SmidgenError(
            f"An environment for {framework.name} takes {framework.megabytes} MB, but the disk of {printable(folder)} "
            f"has {free} MB free; make room, or set SMIDGEN_HOME to another folder."
        )


def _remove(folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def _alone(home: Path) -> Iterator[None]:
    """Only one process is in here for one environment; others wait."""

    def tell(holder: str) -> None:
        say(f"Another process{holder} makes the environment {printable(home.name)}; waiting for it …")

    with ExitStack() as stack:
        try:
            home.parent.mkdir(parents=True, exist_ok=True)
            stack.enter_context(alone_at(home, tell))
        except OSError as error:
            why = f"{printable(home.parent)} cannot be written: {error.strerror}"
            raise SmidgenError(f"{why}; set SMIDGEN_HOME to a folder that can.") from error
        yield
