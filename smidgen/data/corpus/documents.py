"""Documents, one after another, from plain text, JSONL and Parquet files, folders and patterns of them.

    FILE.txt, .md, …       one document, cut at an empty line when it grows beyond 100,000 characters
    FILE.jsonl, .ndjson    one JSON object a line, its text under "text" or another field
    FILE.json              the same, or one list of objects
    FILE.parquet           one row a document, the text in the column of that name
    FOLDER, "data/*.jsonl" the files of these kinds in it, by name
    hf:org/name[:config][:split]   a data set on the Hugging Face hub, streamed (`hub_datasets`)

Text and JSONL may be compressed with gzip (.gz). Files come from strangers: nothing is unpickled, lines are bounded.
"""

import glob
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from smidgen.data import json_lines
from smidgen.data.corpus import hub_datasets
from smidgen.data.corpus.extra import needed
from smidgen.data.json_lines import Malformed
from smidgen.errors import BadFile, SmidgenError, printable

#: Characters after which a text file goes on as another document at its next empty line, and at the next line at all.
LONG_TEXT, LONGEST_TEXT = 100_000, 400_000

_JSON_LINES = (".jsonl", ".ndjson", ".json")
_TEXT = (".txt", ".text", ".md", ".rst")
_ROWS_AT_ONCE = 256
_SURROGATE = re.compile("[\ud800-\udfff]")


@dataclass(frozen=True)
class Document:
    """text: without lone surrogates.  size: bytes of the source that were read for it, for progress."""

    text: str
    size: int = 0


@dataclass(frozen=True)
class Source:
    """Where documents come from. size: of the file in bytes, 0 where it is not known."""

    name: str
    size: int
    read: Callable[[Malformed], Iterator[Document]]


def open_sources(arguments: Sequence[str | Path], field: str = "text") -> list[Source]:
    """All sources that the arguments name, in their order, those of a folder or a pattern by name.

    Raises SmidgenError for one that names nothing; looks at no content yet.
    """
    sources: list[Source] = []
    for argument in map(str, arguments):
        if argument.startswith(hub_datasets.PREFIX):
            sources.append(_hub_source(argument, field))
        else:
            sources += [_file_source(path, field) for path in _files(argument)]
    return sources


def _files(argument: str) -> list[Path]:
    """The files that an argument names."""
    path, shown = Path(argument), printable(argument)
    if path.is_dir():
        found = sorted(each for each in path.rglob("*") if each.is_file() and _kind(each) in _KINDS)
        if not found:
            kinds = ", ".join(_KINDS)
            raise SmidgenError(f"the folder {shown} holds no text. Known are files that end in {kinds}, also with .gz.")
        return found
    if path.exists() or not glob.has_magic(argument):
        if not path.is_file():
            raise BadFile(f"Cannot read {shown}: no such file. Give a file, a folder, a pattern, or hf:org/name.")
        return [path]
    found = sorted(Path(each) for each in glob.glob(argument, recursive=True) if Path(each).is_file())
    if not found:
        raise BadFile(f"No file fits the pattern {shown}. Give a file, a folder, a pattern, or hf:org/name.")
    return found


def _kind(path: Path) -> str:
    """The ending that says what is in a file."""
    plain = path.with_suffix("") if path.suffix.lower() == ".gz" else path
    return plain.suffix.lower()


def _file_source(path: Path, field: str) -> Source:
    reader = _KINDS.get(_kind(path), _read_text)
    return Source(str(path), path.stat().st_size, lambda malformed: reader(path, field, malformed))


def _hub_source(argument: str, field: str) -> Source:
    address = hub_datasets.address_of(argument)

    def read(malformed: Malformed) -> Iterator[Document]:
        for number, row in enumerate(hub_datasets.rows(address, field), 1):
            text = _text_of(row, field, f"{argument} row {number}", malformed)
            if text is not None:
                yield Document(text)

    return Source(argument, 0, read)


def _read_text(path: Path, field: str, malformed: Malformed) -> Iterator[Document]:
    """A text file, cut into documents where it is long."""
    lines: list[str] = []
    length = size = 0
    for number, line in json_lines.lines(path, malformed):
        size += len(line)
        text = json_lines.decoded(line, f"{printable(path)} line {number}", malformed)
        if text is None:
            continue
        lines.append(text)
        length += len(text)
        if length > LONGEST_TEXT or (length > LONG_TEXT and not text.strip()):
            yield Document("".join(lines), size)
            lines, length, size = [], 0, 0
    if lines:
        yield Document("".join(lines), size)


def _read_json_lines(path: Path, field: str, malformed: Malformed) -> Iterator[Document]:
    start = 0
    for line in json_lines.objects(path, malformed):
        text = _text_of(line.value, field, line.where, malformed)
        if text is not None:
            yield Document(text, line.end - start)
            start = line.end


def _text_of(value: Mapping[str, Any], field: str, where: str, malformed: Malformed) -> str | None:
    """The text of one object; None for a malformed one that is skipped."""
    if field not in value:
        keys = printable(", ".join(map(str, value)) or "nothing", 80)
        malformed(f"{where} has no {printable(field, 40)!r}, only {keys}; name the field with --field.")
    elif not isinstance(value[field], str):
        malformed(f"{where} holds a {type(value[field]).__name__} and no text in {printable(field, 40)!r}.")
    else:
        return _SURROGATE.sub("\ufffd", value[field])
    return None


def _read_parquet(path: Path, field: str, malformed: Malformed) -> Iterator[Document]:
    """Row group by row group, only the column that is asked for."""
    arrow: Any = needed("pyarrow")
    parquet: Any = needed("pyarrow.parquet")
    shown, number = printable(path), 0
    try:
        with parquet.ParquetFile(path) as file:
            if field not in file.schema_arrow.names:
                columns = printable(", ".join(file.schema_arrow.names), 80)
                raise BadFile(f"{shown} has no column {printable(field, 40)!r}, only {columns}; name it with --field.")
            share = path.stat().st_size / max(1, file.metadata.num_rows)
            for batch in file.iter_batches(_ROWS_AT_ONCE, columns=[field]):
                for text in batch.column(0).to_pylist():
                    number += 1
                    found = _text_of({field: text}, field, f"{shown} row {number}", malformed)
                    if found is not None:
                        yield Document(found, round(share * number) - round(share * (number - 1)))
    except (arrow.ArrowException, OSError) as error:
        raise BadFile(f"{shown} cannot be read as Parquet after row {number}: {printable(error)}.") from error


_KINDS: dict[str, Callable[[Path, str, Malformed], Iterator[Document]]] = {
    **dict.fromkeys(_TEXT, _read_text),
    **dict.fromkeys(_JSON_LINES, _read_json_lines),
    ".parquet": _read_parquet,
}
