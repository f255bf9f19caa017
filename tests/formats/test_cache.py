"""What smidgen keeps, listed and removed: its own files and no others."""

import json
import os
from pathlib import Path

import pytest
from huggingface_hub import constants

from smidgen.alone import alone_at
from smidgen.cli import models
from smidgen.errors import SmidgenError
from smidgen.formats.cache import kept, remove
from smidgen.formats.hub.catalogue import locate
from tests.formats.hub.hub_stand_in import COMMIT, Hub

TEXT = f"{'0' * 16}-0-calibration-512.json"
CONVERSION = f"tiny.{'a' * 16}.{'b' * 32}.gguf"


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache with a conversion, a text, half a conversion, and files of somebody else."""
    monkeypatch.setenv("SMIDGEN_HOME", str(tmp_path / "home"))
    for name in (
        f"converted/{CONVERSION}", f"converted/.{CONVERSION}.partial", "converted/mine.gguf", "converted/notes.txt",
        f"self-written/{TEXT}", "self-written/mine.json", "models/qwen2.5-coder-1.5b.gguf", "models/mine.gguf",
        "downloads/mine.md", "mine.txt",
    ):  # fmt: skip
        path = tmp_path / "home" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("1234567890")
    return tmp_path / "home"


@pytest.fixture
def hub_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.delenv("HF_TOKEN", raising=False)
    return tmp_path / "hub"


def files(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if not path.is_dir()}


def test_what_is_there(home: Path) -> None:
    found = {(one.name, one.kind, one.bytes) for one in kept()}
    assert found == {
        ("tiny", "conversion", 10), ("self-written text", "text", 10), ("qwen2.5-coder-1.5b", "catalogue", 10)
    }  # fmt: skip


def test_answers_to_tasks_are_there_and_go(home: Path) -> None:
    ours, other = home / "answers" / f"{'e' * 16}.jsonl", home / "answers" / "mine.jsonl"
    ours.parent.mkdir()
    for path in (ours, other):
        path.write_text("1234567890")
    (answers,) = kept("answers to tasks")
    assert (answers.kind, answers.bytes) == ("answers", 10)
    remove([answers])
    assert not ours.exists() and other.exists()


def test_speeds_of_types_are_there_and_go(home: Path) -> None:
    ours, other = home / "rates" / f"{'e' * 16}.json", home / "rates" / "mine.json"
    ours.parent.mkdir()
    for path in (ours, other):
        path.write_text("1234567890")
    (rates,) = kept("speeds of types")
    assert (rates.kind, rates.bytes) == ("rates", 10)
    remove([rates])
    assert not ours.exists() and other.exists()


def environment(home: Path, name: str) -> Path:
    """An environment of 20 bytes in two files, and a link that counts for nothing."""
    folder = home / "frameworks" / name
    (folder / "bin").mkdir(parents=True)
    (folder / "bin" / "python3").write_text("1234567890")
    (folder / "bin" / "python").symlink_to("python3")
    (folder / "pyvenv.cfg").write_text("1234567890")
    return folder


def test_environments_are_there_and_go(home: Path) -> None:
    made, half, mine = (environment(home, name) for name in (f"mlx-{'a' * 12}", f".onnx-{'b' * 12}.partial", "mine"))
    found = {(one.name, one.kind, one.bytes) for one in kept() if one.kind == "environment"}
    assert found == {("mlx environment", "environment", 20), ("onnx environment", "environment", 20)}
    remove(kept("mlx environment"))
    assert not made.exists() and half.exists() and mine.exists()
    remove(kept())
    assert sorted((home / "frameworks").iterdir()) == [mine]


def test_environments_of_other_versions_are_told_apart(home: Path) -> None:
    one, other = environment(home, f"mlx-{'a' * 12}"), environment(home, f"mlx-{'b' * 12}")
    assert [thing.name for thing in kept("mlx environment")] == [f"mlx environment.{x * 12}" for x in "ab"]
    remove(kept(f"mlx environment.{'a' * 12}"))
    assert not one.exists() and other.exists()


def test_an_environment_that_is_being_made_stays(home: Path) -> None:
    half = environment(home, f".mlx-{'a' * 12}.partial")
    with alone_at(home / "frameworks" / f"mlx-{'a' * 12}", lambda _: None):
        remove(kept("mlx environment"))
    assert half.exists()
    remove(kept("mlx environment"))
    assert not half.exists()


def test_copies_of_drafts_are_there_and_go(home: Path) -> None:
    copies = home / "drafts" / f"{'c' * 64}.gguf", home / "drafts" / f".{'d' * 64}.gguf.partial"
    (home / "drafts").mkdir()
    for path in (*copies, home / "drafts" / "mine.gguf"):
        path.write_text("1234567890")
    (draft,) = kept("copies of drafts")
    assert (draft.kind, draft.bytes) == ("draft", 20)
    remove([draft])
    assert files(home / "drafts") == {"mine.gguf"}


def test_clearing_leaves_the_files_of_others(home: Path) -> None:
    remove(kept())
    assert files(home) == {
        "converted/mine.gguf", "converted/notes.txt", "self-written/mine.json", "models/mine.gguf", "downloads/mine.md",
        "mine.txt",
    }  # fmt: skip
    assert kept() == []


def test_one_of_them(home: Path) -> None:
    remove(kept("tiny"))
    assert not (home / "converted" / CONVERSION).exists()
    assert (home / "self-written" / TEXT).exists()
    with pytest.raises(SmidgenError, match="no tiny: it has 2 other things; `smidgen models --cache` lists"):
        kept("tiny")


def test_things_of_one_name_are_told_apart(home: Path) -> None:
    other, namesake = f"tiny.{'a' * 16}.{'c' * 32}.gguf", f"qwen2.5-coder-1.5b.{'a' * 16}.{'d' * 32}.gguf"
    for name in (other, namesake):
        (home / "converted" / name).write_text("12345678901")
    assert [one.name for one in kept()] == [
        "qwen2.5-coder-1.5b.dddddddd", "tiny.cccccccc", "qwen2.5-coder-1.5b.catalogue", "self-written text",
        "tiny.bbbbbbbb", "tiny.bbbbbbbb",
    ]  # fmt: skip
    assert len(kept("tiny")) == 3
    remove(kept("tiny.cccccccc"))
    assert not (home / "converted" / other).exists() and (home / "converted" / CONVERSION).exists()
    remove(kept("qwen2.5-coder-1.5b.catalogue"))
    assert [one.name for one in kept("qwen2.5-coder-1.5b")] == ["qwen2.5-coder-1.5b"]


def test_a_file_that_is_being_written_stays(home: Path) -> None:
    fcntl = pytest.importorskip("fcntl")
    partial = home / "converted" / f".{CONVERSION}.partial"
    with partial.open("rb+") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        remove(kept())
    assert partial.exists()
    remove(kept())
    assert not partial.exists()


def test_downloads_go_and_what_others_fetched_stays(
    home: Path, hub_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Hub({"config.json": b"{}", "model.safetensors": b"weights", "LICENSE": b"text"}) as hub:
        monkeypatch.setattr(constants, "ENDPOINT", hub.address)
        snapshot = locate("org/name")
    repo = hub_cache / "models--org--name"
    (repo / "blobs" / "theirs").write_text("of another program")
    (snapshot / "theirs.txt").symlink_to("../../blobs/theirs")
    (hub_cache / "models--other--name").mkdir()
    (hub_cache / "models--other--name" / "x").touch()
    (repo / "blobs" / "ours.incomplete").touch()
    (home / "downloads" / "models--org--name.txt").open("a").write(f"{repo}/blobs/ours\n/etc/hosts\n{repo}/../x\n")
    (download,) = kept("org/name")
    assert (download.kind, download.bytes) == ("download", len(b"{}weightstext"))
    remove([download])
    assert files(hub_cache) - {name for name in files(hub_cache) if name.startswith(".locks")} == {
        "models--org--name/blobs/theirs", f"models--org--name/snapshots/{COMMIT}/theirs.txt",
        "models--org--name/refs/main", "models--other--name/x",
    }  # fmt: skip
    assert "org/name" not in {one.name for one in kept()}


def test_a_repo_of_ours_alone_goes_as_a_whole(home: Path, hub_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with Hub({"config.json": b"{}", "model.safetensors": b"weights"}) as hub:
        monkeypatch.setattr(constants, "ENDPOINT", hub.address)
        locate("org/name")
        remove(kept("org/name"))
        assert not (hub_cache / "models--org--name").exists()
        assert (locate("org/name") / "model.safetensors").read_bytes() == b"weights"
        assert kept("org/name")


def test_the_command(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    os.utime(home / "converted" / CONVERSION, (0, 0))
    models.command(cache=True)
    shown = capsys.readouterr().out
    assert "tiny" in shown and "last used 19" in shown and "in all" in shown
    models.command(cache=True, json=True)
    listed = json.loads(capsys.readouterr().out)
    assert listed["bytes"] == sum(one["bytes"] for one in listed["cache"]) == 40
    models.command("tiny", cache=True, clear=True)
    assert "Removed: tiny, conversion" in capsys.readouterr().out
    models.command(cache=True, clear=True, json=True)
    assert json.loads(capsys.readouterr().out)["cleared"]
    models.command(cache=True)
    assert "The cache is empty" in capsys.readouterr().out
