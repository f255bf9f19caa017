"""The models on the page: told apart by name, called by what the page offers only."""

from pathlib import Path
from shutil import copyfile

import pytest

from smidgen.errors import SmidgenError
from smidgen.showing.models import Shelf
from tests.tiny_models import write_llama


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path]:
    """Two folders, each with a model.gguf."""
    one, other = tmp_path / "one", tmp_path / "other"
    for folder in (one, other):
        folder.mkdir()
        write_llama(folder / "model.gguf")
    return one, other


def shelf_of(*models: Path) -> Shelf:
    return Shelf([str(model) for model in models], None, 1, 1)


def test_folders_of_cuts_have_their_folders_names(folders: tuple[Path, Path]) -> None:
    shelf = shelf_of(*(folder / "model.gguf" for folder in folders))
    assert shelf.names == ["one", "other"]
    assert not shelf.given[0].chats and len(shelf.given[0].sha256) == 64


def test_two_of_one_name_are_called_by_their_paths(folders: tuple[Path, Path]) -> None:
    one, other = (copyfile(folder / "model.gguf", folder / "same.gguf") for folder in folders)
    assert shelf_of(one, other).names == [str(one), str(other)]


def test_one_model_is_not_compared_with_itself(folders: tuple[Path, Path]) -> None:
    file = folders[0] / "model.gguf"
    with pytest.raises(SmidgenError, match="two different ones"):
        shelf_of(file, file)


def test_a_model_that_the_page_does_not_offer_is_none(folders: tuple[Path, Path]) -> None:
    shelf = shelf_of(folders[0] / "model.gguf")
    for name in (None, "", str(folders[1] / "model.gguf"), "other", ["one"]):
        with pytest.raises(SmidgenError, match="not shown"):
            shelf.find(name)


def test_a_cut_is_shown_in_place_of_an_earlier_one(folders: tuple[Path, Path], tmp_path: Path) -> None:
    shelf = shelf_of(folders[0] / "model.gguf")
    for name in ("first", "second"):
        (tmp_path / name).mkdir()
        copyfile(folders[1] / "model.gguf", tmp_path / name / "model.gguf")
        shelf.show_cut(tmp_path / name)
    assert shelf.names == ["one", "second"]
    assert shelf.show_cut(folders[0]).name == "one (new)"


def test_a_card_is_a_file_beside_the_model(folders: tuple[Path, Path]) -> None:
    shelf = shelf_of(folders[0] / "model.gguf")
    assert shelf.given[0].card is None
    (folders[0] / "card.html").mkdir()
    assert shelf.given[0].card is None
    (folders[0] / "card.html").rmdir()
    (folders[0] / "card.html").write_text("<p>A card</p>")
    assert shelf.given[0].card == folders[0] / "card.html"
