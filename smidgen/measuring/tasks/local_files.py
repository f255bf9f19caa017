"""Local copies of tasks: files of questions, read with bounds, and what is worth knowing of them.

They come from anywhere, so each row is checked where it is read, and what is wrong is one line that names the place. A
question that is there twice would count twice; it is asked once, and the card says so.
"""

import csv
import io
import json
import stat
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from smidgen.errors import SmidgenError, printable
from smidgen.progress import say

_LARGEST_FILE = 64 << 20
_LARGEST_CELL = 1 << 20  # characters


class LocalFiles:
    """The folder that a person gave with `--data`.

    notes: what was found in its files that a card should say.
    All paths are relative to it. All methods raise SmidgenError for files that are missing, empty, or not of the form.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.notes: list[str] = []

    def text(self, path: str) -> str:
        """A whole file."""
        return _read(self.folder / path)

    def columns(self, path: str, separator: str = ",") -> list[list[str]]:
        """The rows of a file without a header; blank ones are passed over."""
        quoting = csv.QUOTE_NONE if separator == "\t" else csv.QUOTE_MINIMAL
        return self._filled(path, self._csv(path, lambda text: csv.reader(text, delimiter=separator, quoting=quoting)))

    def table(self, path: str, needed: Sequence[str]) -> list[dict[str, str]]:
        """The rows of a CSV file by the names in its header. needed: columns in which each row must hold something."""
        rows = self._filled(path, self._csv(path, csv.DictReader))
        for number, row in enumerate(rows):
            missing = [name for name in needed if not (row.get(name) or "").strip()]
            if missing:
                raise SmidgenError(
                    f"{self.shown(path)}, row {number + 2}: no {' and no '.join(missing)}; the file has "
                    f"{printable(', '.join(name or '' for name in row if name is not None), 120)}."
                )
        return rows

    def objects(self, path: str, check: Callable[[Mapping[str, Any]], str | None]) -> list[dict[str, Any]]:
        """The JSON objects of a file, one a line; blank lines are passed over.

        check: what is missing in an object, in words; None where nothing is.
        """
        rows = []
        for number, line in enumerate(self.text(path).split("\n")):
            if not line.strip():
                continue
            try:
                row: Any = json.loads(line)
                if "\\ud" in line.lower():  # half a surrogate pair is no text, and a ValueError here
                    json.dumps(row, ensure_ascii=False).encode()
            except (ValueError, RecursionError):
                row = None
            missing = check(row) if isinstance(row, dict) else "a JSON object"
            if missing is not None:
                raise SmidgenError(f"{self.shown(path)}, line {number + 1}: {missing} is expected.")
            rows.append(row)
        return self._filled(path, rows)

    def once(self, path: str, rows: Sequence[Any], what: Callable[[Any], Any]) -> list[Any]:
        """Rows without those whose question is there before. what: the question of a row."""
        found: dict[str, Any] = {}
        for row in rows:
            found.setdefault(json.dumps(what(row)), row)
        repeated = len(rows) - len(found)
        if repeated:
            self.note(f"{repeated} rows of {printable(Path(path).name, 60)} repeat others and were not asked again")
        return list(found.values())

    def note(self, words: str) -> None:
        """Say something on the terminal and on the card."""
        say(f"{words[0].upper()}{words[1:]}.")
        self.notes.append(words)

    def shown(self, path: str) -> str:
        """A file's name as a message has it."""
        return printable(self.folder / path)

    def names(self, pattern: str) -> list[str]:
        """What is there by such names, sorted. What is no file is refused where it is read, not passed over."""
        return sorted(str(path.relative_to(self.folder)) for path in self.folder.glob(pattern))

    def _csv(self, path: str, reader: Callable[[io.StringIO], Iterator[Any]]) -> list[Any]:
        text = self.text(path)
        before = csv.field_size_limit(_LARGEST_CELL)
        try:
            return list(reader(io.StringIO(text, newline="")))
        except csv.Error as error:
            raise SmidgenError(f"{self.shown(path)} is not a CSV file: {error}.") from error
        finally:
            csv.field_size_limit(before)

    def _filled(self, path: str, rows: list[Any]) -> list[Any]:
        rows = [row for row in rows if row]
        if not rows:
            raise SmidgenError(f"{self.shown(path)} is empty.")
        return rows


def _read(path: Path) -> str:
    try:
        if not stat.S_ISREG(path.stat().st_mode):  # a pipe would be waited for, a device has no end
            raise SmidgenError(f"{printable(path)} is not a regular file.")
        if path.stat().st_size > _LARGEST_FILE:
            raise SmidgenError(f"{printable(path)} is larger than {_LARGEST_FILE >> 20} MB.")
        return path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise SmidgenError(f"{printable(path)} cannot be read: {error.strerror}.") from error
    except UnicodeDecodeError as error:
        raise SmidgenError(f"{printable(path)} is not UTF-8 text.") from error
