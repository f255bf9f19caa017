"""A verb replaces only what a verb wrote."""

import json
from pathlib import Path

import pytest

from smidgen.errors import SmidgenError
from smidgen.owned import MANIFEST, claim, refuse_others, renew, settle

NAMES = ("model.gguf", "README.md")


def written(folder: Path) -> Path:
    claim(folder, [*NAMES, "NOTICE"])
    for name in NAMES:
        (folder / name).write_text(f"ours: {name}")
    settle(folder)
    return folder


def test_ours_may_be_replaced(tmp_path: Path) -> None:
    refuse_others(tmp_path / "new", NAMES)
    refuse_others(written(tmp_path), NAMES)
    assert list(json.loads((tmp_path / MANIFEST).read_text())["files"]) == ["README.md", "model.gguf"]


def test_anothers_may_not(tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text("about my project")
    with pytest.raises(SmidgenError, match="README.md is there, and smidgen did not write it"):
        refuse_others(tmp_path, NAMES)


def test_changed_since_is_not_ours_any_more(tmp_path: Path) -> None:
    (written(tmp_path) / "README.md").write_text("with my notes")
    with pytest.raises(SmidgenError, match="was changed since smidgen wrote it"):
        refuse_others(tmp_path, NAMES)


def test_an_interrupted_run_may_be_replaced(tmp_path: Path) -> None:
    claim(tmp_path, NAMES)
    (tmp_path / "model.gguf").write_text("whole, but without its card")
    refuse_others(tmp_path, NAMES)


def test_links_that_lead_nowhere_are_somebodys_too(tmp_path: Path) -> None:
    (tmp_path / "README.md").symlink_to(tmp_path / "gone")
    with pytest.raises(SmidgenError, match="smidgen did not write it"):
        refuse_others(tmp_path, NAMES)


def test_a_card_measured_in_the_middle_lets_go_of_nothing(tmp_path: Path) -> None:
    claim(tmp_path, [*NAMES, "card.json"])
    (tmp_path / "card.json").write_text("{}")
    renew(tmp_path, ["card.json"])
    for name in NAMES:
        (tmp_path / name).write_text("later")
    settle(tmp_path)
    refuse_others(tmp_path, [*NAMES, "card.json"])


def test_a_card_measured_anew_stays_ours(tmp_path: Path) -> None:
    written(tmp_path)
    (tmp_path / "card.json").write_text("{}")
    renew(tmp_path, ["card.json"])
    refuse_others(tmp_path, [*NAMES, "card.json"])
    other = tmp_path / "other"
    other.mkdir()
    renew(other, ["card.json"])
    assert not any(other.iterdir())


@pytest.mark.parametrize("text", ["", "[]", "null", '{"schema": 1}', '{"schema": 1, "files": 3}', "[" * 100_000])
def test_a_damaged_list_owns_nothing(text: str, tmp_path: Path) -> None:
    (written(tmp_path) / MANIFEST).write_text(text)
    with pytest.raises(SmidgenError, match="smidgen did not write it"):
        refuse_others(tmp_path, NAMES)
