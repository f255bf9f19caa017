"""Reading sources: each kind gives the same documents, and what is malformed has its line number."""

import gzip
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from smidgen.data import json_lines
from smidgen.data.corpus import documents
from smidgen.data.corpus.documents import open_sources
from smidgen.data.corpus.hub_datasets import Address, address_of
from smidgen.data.json_lines import stop
from smidgen.errors import BadFile, SmidgenError

TEXTS = ["one", "zwei\nlines", "drei 漢字 👩🏽‍🚀", ""]


def read(*arguments: Path | str, field: str = "text", skipped: list[str] | None = None) -> list[str]:
    malformed = stop if skipped is None else skipped.append
    return [each.text for source in open_sources(arguments, field) for each in source.read(malformed)]


def write_json_lines(path: Path, rows: list[Any]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_all_kinds_give_the_same_documents(tmp_path: Path) -> None:
    plain = write_json_lines(tmp_path / "a.jsonl", [{"text": text, "id": 1} for text in TEXTS])
    packed = tmp_path / "b.json.gz"
    packed.write_bytes(gzip.compress(plain.read_bytes()))
    table = tmp_path / "c.parquet"
    pq.write_table(pa.table({"id": [1] * 4, "text": TEXTS}), table)
    assert read(plain) == read(packed) == read(table) == TEXTS
    (tmp_path / "d.md").write_bytes(b"\xef\xbb\xbfa\n\nb")
    (tmp_path / "ignored.bin").write_bytes(b"\0")
    assert read(tmp_path) == TEXTS * 3 + ["a\n\nb"]
    assert read(str(tmp_path / "*.jsonl")) == TEXTS


def test_progress_counts_the_bytes_of_files(tmp_path: Path) -> None:
    path = write_json_lines(tmp_path / "a.jsonl", [{"text": text} for text in TEXTS])
    (source,) = open_sources([path])
    assert sum(each.size for each in source.read(stop)) == source.size == path.stat().st_size


@settings(deadline=None, max_examples=50)
@given(st.lists(st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=30), max_size=40))
def test_long_texts_are_cut_without_losing_anything(
    tmp_path_factory: pytest.TempPathFactory, pieces: list[str]
) -> None:
    path = tmp_path_factory.mktemp("long") / "text.txt"
    text = "\n".join(pieces).removeprefix("\ufeff")
    path.write_bytes(text.encode())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(documents, "LONG_TEXT", 40)
        patch.setattr(documents, "LONGEST_TEXT", 90)
        found = read(path)
    assert "".join(found) == text
    assert all(len(each) <= 90 + 1 + max(map(len, text.split("\n"))) for each in found)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (b"{", "line 2 is not JSON"),
        (b'"text"', "line 2 is no JSON object but a str"),
        (b'{"body": "x"}', "line 2 has no 'text', only body; name the field with --field"),
        (b'{"text": 5}', "line 2 holds a int and no text in 'text'"),
        (b'{"text": "\xff"}', "line 2 is not UTF-8"),
        (b"[" * 100_000, "line 2 is not JSON"),
        (b'{"text": "' + b"x" * 300_000 + b'"}', "line 2 is longer than"),
    ],
)
def test_malformed_lines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, line: bytes, message: str) -> None:
    monkeypatch.setattr(json_lines, "LONGEST_LINE", 200_000)
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'{"text": "before"}\n' + line + b'\n{"text": "after"}')
    with pytest.raises(BadFile, match=message) as caught:
        read(path)
    assert "--skip-bad" in str(caught.value) and "\n" not in str(caught.value)
    skipped: list[str] = []
    assert read(path, skipped=skipped) == ["before", "after"]
    assert len(skipped) == 1


def test_lone_surrogates_become_replacement_characters(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text('{"text": "a\\ud800b"}')
    assert read(path) == ["a\ufffdb"]


@pytest.mark.parametrize(("data", "message"), [(b"a\n\xe4\n", "line 2 is not UTF-8: byte 0xe4"), (b"\0", "zero byte")])
def test_text_that_is_none(tmp_path: Path, data: bytes, message: str) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes(data)
    with pytest.raises(BadFile, match=message):
        read(path)


def test_files_that_are_not_what_they_are_called(tmp_path: Path) -> None:
    for name in ("a.parquet", "b.txt.gz", "c.jsonl.gz"):
        (tmp_path / name).write_bytes(b"something else entirely")
        with pytest.raises(BadFile, match="annot be read|Cannot read"):
            read(tmp_path / name)
    cut = tmp_path / "cut.txt.gz"
    cut.write_bytes(gzip.compress(b"text " * 1000)[:-10])
    with pytest.raises(BadFile, match="Cannot read"):
        read(cut)


def test_parquet_without_the_column_and_with_rows_without_text(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"body": ["a", None, "c"]}), path)
    with pytest.raises(BadFile, match="no column 'text', only body"):
        read(path)
    with pytest.raises(BadFile, match="row 2 holds a NoneType"):
        read(path, field="body")
    assert read(path, field="body", skipped=[]) == ["a", "c"]


@pytest.mark.parametrize("argument", ["missing.txt", "*.missing", "."])
def test_what_names_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, argument: str) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SmidgenError):
        open_sources([argument])


def test_addresses_on_the_hub() -> None:
    assert address_of("hf:org/name") == Address("org/name", None, "train")
    assert address_of("hf:org/name:en:test[:10%]") == Address("org/name", "en", "test[:10%]")
    for wrong in ("hf:", "hf:../x", "hf:org/name:", "hf:a/b/c", "hf:org/na me"):
        with pytest.raises(SmidgenError, match="names no data set"):
            address_of(wrong)


def test_a_data_set_on_the_hub_is_streamed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_json_lines(tmp_path / "a.jsonl", [{"text": text, "id": 1} for text in TEXTS])
    load, asked = datasets.load_dataset, []

    def local(name: str, config: str | None, *, split: str, streaming: bool) -> Any:
        asked.append((name, config, split, streaming))
        return load("json", data_files=str(path), split="train", streaming=True, cache_dir=str(tmp_path / "cache"))

    monkeypatch.setattr(datasets, "load_dataset", local)
    assert read("hf:org/name:en") == TEXTS
    assert asked == [("org/name", "en", "train", True)]
    with pytest.raises(BadFile, match="hf:org/name row 1 has no 'body'"):
        read("hf:org/name", field="body")


def test_a_hub_that_cannot_be_reached_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def unreachable(*_: object, **__: object) -> Iterator[Any]:
        raise ConnectionError("Couldn't reach\nthe Hub")

    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr(datasets, "load_dataset", unreachable)
    with pytest.raises(SmidgenError, match="at its beginning: Couldn't reach the Hub. HF_HUB_OFFLINE is set"):
        read("hf:org/name")
