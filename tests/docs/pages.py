"""The pages that people read, and what stands in them."""

import re
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent
DOCS = ROOT / "docs"
PAGES = tuple(sorted([*ROOT.glob("*.md"), *DOCS.glob("*.md"), ROOT / "benchmarks" / "README.md"]))

_FENCE = re.compile(r"^( *)```[^\n]*\n(.*?)^\1```$", re.MULTILINE | re.DOTALL)
_CODE = re.compile(r"``.+?``|`[^`\n]+`")
_HEADING = re.compile(r"^#{1,6} (.+)$", re.MULTILINE)
_LINK = re.compile(r"\]\(([^)\s]+)\)")


def text_of(page: Path) -> str:
    """A page as it stands in the file."""
    return page.read_text(encoding="utf-8")


def code_blocks(page: Path) -> list[str]:
    """What stands between its fences."""
    return [block[2] for block in _FENCE.finditer(text_of(page))]


def prose(page: Path) -> str:
    """A page without its fenced blocks."""
    return _FENCE.sub("", text_of(page))


def code_spans(page: Path) -> list[str]:
    """What stands between backticks in the prose."""
    return [span.strip("`").strip() for span in _CODE.findall(prose(page))]


def links(page: Path) -> list[str]:
    """Where its links and pictures lead, as written."""
    return _LINK.findall(_CODE.sub("", prose(page)))


def anchors(page: Path) -> set[str]:
    """The names of its headings, as the site's builder makes them."""
    names: set[str] = set()
    for heading in _HEADING.findall(prose(page)):
        plain = re.sub(r"[^\w\s-]", "", re.sub(r"[`*]", "", heading).lower()).strip()
        names.add(re.sub(r"[-\s]+", "-", plain))
    return names


def tree_of(page: Path) -> str:
    """The block that draws the tree of the repository."""
    return next(block for block in code_blocks(page) if block.startswith("smidgen/\n"))


def files_named(page: Path) -> Iterator[str]:
    """Paths in backticks that begin at one of the repository's folders, such as `smidgen/quantization/survey.py`.

    NAME stands for a file that a reader is about to write."""
    for span in code_spans(page):
        if re.fullmatch(r"(smidgen|tests|benchmarks|docs)/[\w./*-]+", span) and "NAME" not in span:
            yield span
