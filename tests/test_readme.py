"""The trees that the README and the page of the house draw are those of the repository."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.docs.pages import DOCS, ROOT, tree_of

TREES = (ROOT / "README.md", DOCS / "house.md")

_ENTRY = re.compile(r"( {0,10})(\S.*)")
_FILE = re.compile(r"[\w*.-]+\.(?:py|j2)\b|[\w-]+/")


def named_in_the_tree(tree: str) -> Iterator[tuple[str, list[Path]]]:
    """Every file and folder that the annotated tree names, with the folders where it may be."""
    folders: dict[int, Path] = {-2: ROOT}  # indentation → the folder whose contents stand below it
    scope = [ROOT]
    for line in tree.strip("\n").splitlines():
        if entry := _ENTRY.fullmatch(line):
            indent, name = len(entry[1]), entry[2].split()[0]
            parent = folders[max(depth for depth in folders if depth < indent)]
            folders = {depth: folder for depth, folder in folders.items() if depth < indent}
            if name.endswith("/"):
                folders[indent] = parent / name
            scope = [parent, parent / name]
            yield name.rstrip(","), [parent]
        for name in _FILE.findall(line):
            yield name, scope


@pytest.mark.parametrize("page", TREES, ids=lambda page: page.name)
def test_everything_in_the_tree_exists(page: Path) -> None:
    named = list(named_in_the_tree(tree_of(page)))
    assert len(named) > 50
    missing = [name for name, folders in named if not any(any(folder.glob(name)) for folder in folders)]
    assert not missing


def test_every_room_is_in_the_readme() -> None:
    rooms = {path.parent.name for path in (ROOT / "smidgen").glob("*/__init__.py")}
    assert rooms <= {name.rstrip("/") for name, _ in named_in_the_tree(tree_of(TREES[0]))}


def test_every_file_is_in_the_house() -> None:
    """But for the commands, which are a file each and named in `smidgen --help`."""
    named = {
        path.resolve()
        for name, folders in named_in_the_tree(tree_of(TREES[1]))
        for folder in folders
        for path in folder.glob(name)
    }
    files = {path for path in (ROOT / "smidgen").rglob("*.py") if path.name != "__init__.py"}
    files -= {path for path in (ROOT / "smidgen" / "cli").glob("*.py") if path.stem not in ("main", "options")}
    assert not sorted(str(path.relative_to(ROOT)) for path in files - named)
