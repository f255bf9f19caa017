"""Answers are kept as they come, so that nothing is asked of a model twice.

A task takes minutes to hours. An engine that dies in the middle, a machine that is switched off, or a second cut of
the same original need not ask again what was answered: an answer depends on the model's file, on what was asked and on
the programs that computed it, and their hash is its key. Only keys and answers are kept, never the questions.

Each model has one file of JSON lines, to which each answer is added at once. A line that is not whole, because a
machine went off while it was written, is passed over.
"""

import hashlib
import json
import os
import stat
from collections.abc import Callable, Iterable, Sequence
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from importlib.resources import files
from math import isfinite
from pathlib import Path
from typing import Any, TypeVar

from smidgen.engines.base import Answering, Ids, Score
from smidgen.model.tokenizer import Tokenizer
from smidgen.progress import Task

_Asked = TypeVar("_Asked")
_SCORED_AT_ONCE, _WRITTEN_AT_ONCE = 512, 16  # so many answers at most are lost
_LARGEST_FILE, _LONGEST_LINE = 1 << 28, 1 << 20  # bytes
_SCORING, _WRITING = "torch", "xllamacpp"  # the library that an answer depends on, beside our own code
_OUR_ROOMS = ("engines", "formats", "model", "numerics")  # whose code an answer depends on


class RememberedAnswers:
    """A model that answers what it has answered before from a file. Satisfies `engines.base.Answering`.

    sha256: of the model's file.  folder: where the answers are kept; made when there is one to keep.
    """

    def __init__(self, model: Answering, sha256: str, folder: Path) -> None:
        self._model, self._sha256 = model, sha256
        self._path = folder / f"{sha256[:16]}.jsonl"
        self._known = _read(self._path)

    @property
    def tokenizer(self) -> Tokenizer:
        """See `Answering`."""
        return self._model.tokenizer

    @property
    def context(self) -> int:
        """See `Answering`."""
        return self._model.context

    def ask(self, question: str) -> Ids:
        """See `Answering`."""
        return self._model.ask(question)

    def score(self, pairs: Sequence[tuple[Ids, Ids]], progress: Task) -> list[Score]:
        """See `Answering`."""
        keys = [self._key(_SCORING, begin, rest) for begin, rest in pairs]

        def score(some: Sequence[tuple[Ids, Ids]]) -> list[Score]:
            return self._model.score(some, progress)

        self._complete(keys, pairs, _SCORED_AT_ONCE, _is_score, score, progress)
        return [Score(float(value[0]), bool(value[1])) for value in self._answers(keys)]

    def write(self, prompts: Sequence[Ids], stops: Sequence[str], tokens: int, progress: Task) -> list[str]:
        """See `Answering`."""
        keys = [self._key(_WRITING, prompt, list(stops), tokens, self.context) for prompt in prompts]

        def write(some: Sequence[Ids]) -> list[str]:
            return self._model.write(some, stops, tokens, progress)

        self._complete(keys, prompts, _WRITTEN_AT_ONCE, _is_text, write, progress)
        return [str(value) for value in self._answers(keys)]

    def _key(self, library: str, *asked: Any) -> str:
        programs = [_our_code(), f"{library} {_version(library)}"]
        text = json.dumps([self._sha256, programs, *(list(part) if _is_ids(part) else part for part in asked)])
        return hashlib.sha256(text.encode()).hexdigest()

    def _answers(self, keys: Iterable[str]) -> list[Any]:
        return [self._known[key] for key in keys]

    def _complete(
        self, keys: Sequence[str], asked: Sequence[_Asked], at_once: int, is_answer: Callable[[Any], bool],
        answer: Callable[[Sequence[_Asked]], Sequence[Any]], progress: Task,
    ) -> None:  # fmt: skip
        """Ask what is not known, some at a time, and keep each answer.  is_answer: whether it is one of this kind."""
        missing = {key: one for key, one in zip(keys, asked, strict=True) if not is_answer(self._known.get(key))}
        progress.skip(len(keys) - len(missing))
        left = list(missing.items())
        for start in range(0, len(left), at_once):
            some = left[start : start + at_once]
            answers = answer([one for _, one in some])
            self._keep(dict(zip((key for key, _ in some), answers, strict=True)))

    def _keep(self, answers: dict[str, Any]) -> None:
        """Add them to the file. Where that is not possible they are there for this run alone."""
        self._known |= answers
        lines = "".join(json.dumps([key, answer], ensure_ascii=True) + "\n" for key, answer in answers.items())
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            if self._path.exists() and not _is_readable(self._path, len(lines)):
                return
            place = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
            with open(place, "ab", buffering=0) as file:  # at once, so that two processes do not mix their lines
                file.write(b"\n" * _is_broken_off(self._path) + lines.encode())
        except OSError:
            return


def _is_ids(part: Any) -> bool:
    return isinstance(part, Sequence) and not isinstance(part, str)


@cache
def _our_code() -> str:
    """A hash of the code that computes answers: a mended decoder must not be given what a broken one has said."""
    found, package = hashlib.sha256(), files("smidgen")
    for room in _OUR_ROOMS:
        for file in sorted(Path(str(package / room)).rglob("*.py")):
            found.update(file.read_bytes())
    return found.hexdigest()


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "unknown"


def _is_broken_off(path: Path) -> bool:
    """Whether the file's last line has no end."""
    with path.open("rb") as file:
        if not file.seek(0, os.SEEK_END):
            return False
        file.seek(-1, os.SEEK_END)
        return file.read(1) != b"\n"


def _is_readable(path: Path, more: int = 0) -> bool:
    """Whether it is a file, no pipe that would be waited for, and not too large with so many bytes more."""
    found = path.stat()
    return stat.S_ISREG(found.st_mode) and found.st_size + more <= _LARGEST_FILE


def _read(path: Path) -> dict[str, Any]:
    """The answers of a file; none where it is not there or too large to be one of ours."""
    known: dict[str, Any] = {}
    try:
        if not _is_readable(path):
            return known
        with path.open("rb") as file:
            for line in file:
                if len(line) <= _LONGEST_LINE and (entry := _entry(line)) is not None:
                    known[entry[0]] = entry[1]
    except OSError:
        return known
    return known


def _entry(line: bytes) -> tuple[str, Any] | None:
    """Key and answer of a line: a text, or a log probability and whether it was the likeliest."""
    try:
        found: Any = json.loads(line)
    except (ValueError, RecursionError):
        return None
    if not isinstance(found, list) or len(found) != 2 or not isinstance(found[0], str):
        return None
    return (found[0], found[1]) if _is_text(found[1]) or _is_score(found[1]) else None


def _is_text(answer: Any) -> bool:
    return isinstance(answer, str)


def _is_score(answer: Any) -> bool:
    return (
        isinstance(answer, list | tuple)
        and len(answer) == 2
        and isinstance(answer[0], float)
        and isfinite(answer[0])
        and isinstance(answer[1], bool)
    )
