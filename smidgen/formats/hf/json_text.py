"""Reads JSON that comes from strangers: bounded, and refusing what readers of JSON disagree about.

Python's parser takes more than RFC 8259 (https://www.rfc-editor.org/rfc/rfc8259) does: of two equal keys the last wins,
NaN and Infinity are numbers, half of a surrogate pair is a character. Another program would see another model in such a
file, so all of it is refused. Torch-free.
"""

import json
import math
import stat
from pathlib import Path
from typing import Any

from smidgen.errors import BadFile, printable

DEFAULT_BYTES = 16 * 2**20
MAX_DEPTH = 64
# Objects and lists are what costs memory: up to thirty times the bytes of their text. Gemma's tokenizer.json, with a
# list for each of its 514,906 merges, is the richest that is known.
MAX_CONTAINERS = 2**21

_DAMAGED = "the file is damaged: download or copy it again"


def read_json(path: Path, limit: int = DEFAULT_BYTES) -> Any:
    """The value in a JSON file of at most `limit` bytes.

    Raises BadFile, in one line, where the file is missing, too large or not strictly JSON (see `parse_json`).
    """
    shown = printable(path)
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            raise BadFile(f"{shown} is not a regular file; put the model's own {printable(path.name)} there")
        with path.open("rb") as file:
            raw = file.read(limit + 1)
    except FileNotFoundError as error:
        raise BadFile(f"{shown} does not exist; download or copy it again") from error
    except (OSError, ValueError) as error:
        raise BadFile(f"{shown} cannot be read ({printable(error)}); check the path and its permissions") from error
    if len(raw) > limit:
        raise BadFile(f"{shown} is larger than {limit} bytes, which no real model needs; {_DAMAGED}")
    return parse_json(raw, shown)


def parse_json(raw: bytes, shown: str, max_containers: int = MAX_CONTAINERS) -> Any:
    """The value that a JSON text stands for; `shown` names its source in errors.

    Raises BadFile for what is not UTF-8 or not JSON, for duplicate keys, numbers that are not finite, halves of
    surrogate pairs, more than `max_containers` objects and lists, and nesting deeper than `MAX_DEPTH`.
    """
    if raw.startswith(b"version https://git-lfs"):
        raise BadFile(f"{shown} is a Git LFS pointer, so the file itself was not downloaded; run `git lfs pull`")
    if raw.count(b"{") + raw.count(b"[") > max_containers:
        raise BadFile(f"{shown} holds more than {max_containers} objects and lists, which no real model needs")
    try:
        value = json.loads(
            raw.decode(), object_pairs_hook=_unique, parse_constant=_refuse_constant, parse_float=_finite
        )
        if b"\\ud" in raw.lower():
            _encode(value)
    except RecursionError as error:
        raise BadFile(f"{shown} is nested deeper than {MAX_DEPTH} levels, which no real model needs") from error
    except ValueError as error:  # JSONDecodeError, UnicodeDecodeError, and those raised below
        raise BadFile(f"{shown} is not valid JSON ({printable(error)}); {_DAMAGED}") from error
    if _is_deeper(value, MAX_DEPTH):
        raise BadFile(f"{shown} is nested deeper than {MAX_DEPTH} levels, which no real model needs")
    return value


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        seen: set[str] = set()
        twice = next(key for key, _ in pairs if key in seen or seen.add(key))
        raise ValueError(f"key {printable(twice, 60)} appears twice")
    return found


def _refuse_constant(name: str) -> float:
    raise ValueError(f"{name} is not a number of JSON")


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"the number {printable(text, 40)} is too large")
    return value


def _encode(value: Any) -> None:
    """Raises UnicodeEncodeError (a ValueError) for half a surrogate pair in any string."""
    for piece in json.JSONEncoder(ensure_ascii=False).iterencode(value):
        piece.encode()


def _is_deeper(value: Any, levels: int) -> bool:
    """Whether containers lie more than `levels` inside one another; level by level, so never deep in calls itself."""
    containers = [value] if isinstance(value, dict | list) else []
    for _ in range(levels):
        containers = [
            child
            for container in containers
            for child in (container.values() if isinstance(container, dict) else container)
            if isinstance(child, dict | list)
        ]
        if not containers:
            return False
    return True
