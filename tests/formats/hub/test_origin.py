"""What a model is and where it is from: said alike by all who write about it, with names and never with paths."""

from pathlib import Path

import pytest

from smidgen.formats.hub.catalogue import CATALOGUE, origin_of
from smidgen.formats.hub.origin import Origin, is_hub_id
from smidgen.owned import claim, settle


def test_names_of_local_models_are_without_folders(tmp_path: Path) -> None:
    cut = tmp_path / "small"
    cut.mkdir()
    for path, name, file in (
        (cut / "model.gguf", "small", "model.gguf"),
        (cut, "small", "small"),
        (tmp_path / "some.Q4.GGUF", "some.Q4", "some.Q4.GGUF"),
    ):
        if path != cut:
            path.touch()
        origin = Origin.of_path(path)
        assert (origin.name, origin.file) == (name, file)
        assert origin.repository is origin.base_model({}) is None
    assert origin_of(str(cut)).given == str(cut)
    assert origin_of(origin_of(cut)) == origin_of(cut)


def test_a_folder_with_an_odd_name_has_a_printable_one(tmp_path: Path) -> None:
    odd = tmp_path / "a\n# b\x1b[2J\udcff"
    odd.mkdir()
    origin = Origin.of_path(odd)
    assert origin.name == origin.file == origin.title({}) == "a_# b_[2J_"
    assert Origin.of_path(Path("/")).name == "model"


def test_of_the_catalogue(gemma_path: Path) -> None:
    for name in ("gemma-3-270m", str(gemma_path)):
        origin = origin_of(name)
        assert (origin.name, origin.file, origin.licence) == ("gemma-3-270m", "gemma-3-270m", "Gemma Terms of Use")
        assert (
            origin.base_model({"general.base_model.0.repo_url": "https://huggingface.co/a/b"}) == "google/gemma-3-270m"
        )
    assert all(is_hub_id(entry.base) for entry in CATALOGUE.values())
    assert origin.title({"general.name": "Some Run Of A Trainer"}) == "gemma-3-270m"


def test_of_the_hubs_cache(tmp_path: Path) -> None:
    snapshot = tmp_path / "models--org--name" / "snapshots" / ("0" * 40)
    (snapshot / "Q4").mkdir(parents=True)
    (snapshot / "Q4" / "m.gguf").touch()
    for place in (snapshot, snapshot / "Q4" / "m.gguf"):
        origin = Origin.of_path(place)
        assert (origin.repository, origin.name, origin.revision) == ("org/name", "org/name", "0" * 40)
        assert origin.base_model({}) == "org/name"
        assert origin.folder == snapshot


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("https://huggingface.co/google/gemma-3-270m", "google/gemma-3-270m"),
        ("https://hf.co/org/name/", "org/name"),
        ("https://huggingface.co/org/name/tree/main", None),
        ("https://huggingface.co/org", None),
        ("https://huggingface.co/../x", None),
        ("https://example.com/org/name", None),
        ("/home/me/model", None),
        ("models/x.gguf", None),
        ("https://huggingface.co/org/name\nlicense: mit", None),
        (7, None),
    ],
)
def test_the_base_model_that_a_header_states(tmp_path: Path, url: object, expected: str | None) -> None:
    assert Origin.of_path(tmp_path).base_model({"general.base_model.0.repo_url": url}) == expected


def test_the_base_model_of_what_smidgen_made(tmp_path: Path) -> None:
    """Only of our own README.md: in another one it is the base of the base."""
    readme = tmp_path / "README.md"
    readme.write_text('---\nbase_model: "org/name"\n---\n')
    assert Origin.of_path(tmp_path).base_model({}) is None
    claim(tmp_path, ["README.md"])
    settle(tmp_path)
    assert Origin.of_path(tmp_path).base_model({}) == "org/name"
    readme.write_text('---\nbase_model: "./here"\n---\n')
    claim(tmp_path, ["README.md"])
    settle(tmp_path)
    assert Origin.of_path(tmp_path).base_model({}) is None


@pytest.mark.parametrize(
    ("said", "title"),
    [
        ("Gemma 3 270M", "Gemma 3 270M"),
        ("google/gemma", "google/gemma"),
        ("/home/me/secret/model", "model"),
        ("C:\\Users\\me\\model", "model"),
        ("../models/x/", "x"),
        ("a/b/c", "c"),
        ("", "own"),
        ("  ", "own"),
        (None, "own"),
        (["x"], "own"),
        ("a\n# b", "own"),
        ("a\u202eb", "own"),
    ],
)
def test_titles(tmp_path: Path, said: object, title: str) -> None:
    folder = tmp_path / "own"
    folder.mkdir()
    assert Origin.of_path(folder).title({"general.name": said}) == title
    assert len(Origin.of_path(folder).title({"general.name": "x" * 10_000})) <= 97
