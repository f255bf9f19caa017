"""Conversions in the cache: made once, anew when anything changed, and by one process at a time."""

import os
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from smidgen.atomic import partial_path, replacing
from smidgen.formats import convert
from smidgen.formats.convert import CONVERSION, conversions_folder, gguf_of
from smidgen.formats.gguf.reader import GGUFFile
from tests.family_models import save_folder


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SMIDGEN_HOME", str(tmp_path / "home"))
    path = tmp_path / "some folder"
    path.mkdir()
    save_folder("qwen3", path)
    return path


def made() -> list[str]:
    return [path.name for path in conversions_folder().iterdir()]


def test_a_conversion_says_what_it_is(folder: Path) -> None:
    path = gguf_of(folder)
    found = CONVERSION.fullmatch(path.name)
    assert found and found["name"] == "some-folder"
    stamp = path.stat().st_mtime_ns
    assert gguf_of(folder) == path and path.stat().st_mtime_ns == stamp
    assert made() == [path.name]


def test_a_new_converter_converts_anew(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = gguf_of(folder)
    monkeypatch.setattr(convert, "converter_version", lambda: "another")
    second = gguf_of(folder)
    assert second != first and made() == [second.name]


def test_the_version_is_over_the_sources_that_convert(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    package = Path(convert.__file__).parent.parent
    for room in ("formats", "model", "numerics"):
        shutil.copytree(package / room, tmp_path / room, ignore=shutil.ignore_patterns("__pycache__"))
    original = convert.converter_version()
    monkeypatch.setattr(convert, "__file__", str(tmp_path / "formats" / "convert.py"))
    convert.converter_version.cache_clear()
    try:
        assert convert.converter_version() == original
        (tmp_path / "model" / "rope.py").write_text("changed = True")
        convert.converter_version.cache_clear()
        assert convert.converter_version() != original
    finally:
        convert.converter_version.cache_clear()


@pytest.mark.parametrize("name", ["tokenizer_config.json", "additional_chat_templates/tool.jinja"])
def test_a_changed_folder_is_converted_anew(folder: Path, name: str) -> None:
    file = folder / name
    file.parent.mkdir(exist_ok=True)
    file.write_text("{}")
    first, status = gguf_of(folder), file.stat()
    file.write_text("{ }"[: status.st_size - 1] + "}" if status.st_size > 2 else "[]"[:0] + "{}")
    os.utime(file, ns=(status.st_atime_ns, status.st_mtime_ns))  # as a copy that keeps the times
    second = gguf_of(folder)
    assert second != first and made() == [second.name]


def test_a_linked_folder_is_the_same_folder(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(folder)
    assert gguf_of(folder) == gguf_of(tmp_path / "link")


def test_two_at_once_make_one(folder: Path) -> None:
    with ThreadPoolExecutor(2) as pool:
        first, second = pool.map(gguf_of, [folder] * 2)
    assert first == second and made() == [first.name]
    with GGUFFile.open(first) as file:
        assert file.tensors


def test_another_process_is_waited_for(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The other one finishes in our first pause: what it made is what we use."""
    path = gguf_of(folder)
    data = path.read_bytes()
    path.unlink()
    with ThreadPoolExecutor(1) as pool, replacing(path, len(data)) as other:
        monkeypatch.setattr(convert.time, "sleep", lambda seconds: None)
        waiting = pool.submit(gguf_of, folder)
        other.write(data)
        while "waiting for it" not in (said := capsys.readouterr().err) and not waiting.done():
            pass
    assert waiting.result() == path and "waiting for it" in said


def test_what_a_killed_conversion_left_is_taken_over(folder: Path) -> None:
    path = gguf_of(folder)
    whole = path.read_bytes()
    path.unlink()
    partial_path(path).write_bytes(b"half")
    assert gguf_of(folder).read_bytes() == whole
    assert made() == [path.name]
