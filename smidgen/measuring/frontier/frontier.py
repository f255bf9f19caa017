"""Several cuts of one original compared by their cards: what is behind `smidgen measure --compare`."""

from collections.abc import Sequence
from pathlib import Path

from smidgen.atomic import refuse_unwritable, write_whole
from smidgen.errors import SmidgenError, printable
from smidgen.measuring.frontier.cards import read_cards
from smidgen.measuring.frontier.compare import Comparison, compare_cards, refuse_count
from smidgen.measuring.frontier.page import render

PAGE = "frontier.html"
_OWN_PAGE = b'<meta name="generator" content="smidgen measure --compare">'  # as in page/frontier.html.j2
_HEAD_OF_PAGE = 2**12  # bytes


def compare(paths: Sequence[Path]) -> Comparison:
    """Folders that `cut` wrote, or paths of cards. Raises SmidgenError as `read_cards` and `compare_cards`."""
    refuse_count(len(paths))
    return compare_cards(read_cards(list(paths)))


def page_path(output: Path) -> Path:
    """Where to write the page; in a folder, `frontier.html`.

    Raises SmidgenError where it cannot be written, or would replace what is no page of smidgen. Writes nothing.
    """
    path = output / PAGE if output.is_dir() else output
    if path.suffix != ".html":
        raise SmidgenError(f"The comparison {printable(path)} must end in .html: it is a page.")
    refuse_unwritable(path)
    if (path.exists() or path.is_symlink()) and not _is_own_page(path):
        shown = printable(path)
        raise SmidgenError(f"{shown} is there, and is no comparison by smidgen. Choose another name with -o.")
    return path


def _is_own_page(path: Path) -> bool:
    try:
        if not path.is_file():
            return False
        with path.open("rb") as page:
            return _OWN_PAGE in page.read(_HEAD_OF_PAGE)
    except OSError:
        return False


def write_page(comparison: Comparison, path: Path) -> None:
    """The page appears whole or not at all."""
    write_whole(path, render(comparison))
