"""The README is true: its table of families is the one that the tests make, and what it names is there."""

import re
from collections.abc import Iterator
from pathlib import Path

from tests.family_models import FAMILY_MODELS
from tests.family_table import COLUMNS, FAMILIES, README, ROOT, collected, current, replaced, table

_ENTRY = re.compile(r"( {0,6})(\S.*)")
_FILE = re.compile(r"[\w*.-]+\.(?:py|j2)\b|[\w-]+/")


def test_the_table_of_families_is_made_from_the_tests() -> None:
    made = table(collected())
    assert current(README.read_text(encoding="utf-8")) == made, "run: python -m tests.family_table --write"


def test_a_check_mark_needs_a_test() -> None:
    every = {f"{column.file}::{column.test}[{family}]" for column in COLUMNS for family in FAMILY_MODELS}
    row = next(line for line in table(every).splitlines() if line.startswith("| Gemma 2 "))
    assert row.count("✓") == 7 and row.count("–") == 1  # `every` has no chat template under its name
    without = table(every - {f"{FAMILIES}::test_cut[gemma2]"})
    row = next(line for line in without.splitlines() if line.startswith("| Gemma 2 "))
    assert row.count("✓") == 6 and "no test for it" in without


def test_the_table_goes_between_the_markers() -> None:
    text = "a\n<!-- families -->\nold\n<!-- /families -->\nb\n"
    assert current(text) == "old" and current("no markers") is None
    assert replaced(text, "new") == "a\n<!-- families -->\nnew\n<!-- /families -->\nb\n"


def named_in_the_tree(text: str) -> Iterator[tuple[str, list[Path]]]:
    """Every file and folder that the annotated tree names, with the folders where it may be."""
    block = text.split("## The tree", 1)[1].split("```", 2)[1]
    folders: dict[int, Path] = {-2: ROOT}  # indentation → the folder whose contents stand below it
    scope = [ROOT]
    for line in block.strip("\n").splitlines():
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


def test_everything_in_the_tree_exists() -> None:
    named = list(named_in_the_tree(README.read_text(encoding="utf-8")))
    assert len(named) > 50
    missing = [name for name, folders in named if not any(any(folder.glob(name)) for folder in folders)]
    assert not missing


def test_every_link_into_the_repository_leads_somewhere() -> None:
    text = README.read_text(encoding="utf-8")
    links = re.findall(r"\]\(([^)\s]+)\)", text) + re.findall(r"^\[[^]]+\]: (\S+)", text, re.MULTILINE)
    inside = [link.partition("#")[0] for link in links if "://" not in link and not link.startswith("#")]
    assert inside and not [link for link in inside if not (ROOT / link).exists()]
