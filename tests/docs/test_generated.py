"""What programs write into the pages stands there as they write it today."""

import pytest

from benchmarks.marked import marked, replaced
from benchmarks.tables import PAGES, TABLES
from tests import family_table
from tests.docs.pages import text_of


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_tables_of_results_are_made_from_the_results(page) -> None:
    found = marked(text_of(page))
    assert found
    for name, table in found.items():
        assert table == TABLES[name](), "run: python -m benchmarks.tables --write"


def test_every_table_has_a_place() -> None:
    assert {name for page in PAGES for name in marked(text_of(page))} == TABLES.keys()


def test_the_table_of_families_is_made_from_the_tests() -> None:
    made = family_table.table(family_table.collected())
    assert marked(text_of(family_table.PAGE))[family_table.NAME] == made, "run: python -m tests.family_table --write"


def test_a_check_mark_needs_a_test() -> None:
    columns, families = family_table.COLUMNS, family_table.FAMILY_MODELS
    every = {f"{column.file}::{column.test}[{family}]" for column in columns for family in families}
    row = next(line for line in family_table.table(every).splitlines() if line.startswith("| Gemma 2 "))
    assert row.count("✓") == 7 and row.count("–") == 1  # `every` has no chat template under its name
    without = family_table.table(every - {f"{family_table.FAMILIES}::test_cut[gemma2]"})
    row = next(line for line in without.splitlines() if line.startswith("| Gemma 2 "))
    assert row.count("✓") == 6 and "no test for it" in without


def test_what_is_made_goes_between_its_markers() -> None:
    text = "a\n<!-- one -->\nold\n<!-- /one -->\nb\n<!-- two -->\nstays\n<!-- /two -->\n"
    assert marked(text) == {"one": "old", "two": "stays"} and marked("no markers") == {}
    assert marked(replaced(text, {"one": "new", "three": "nowhere"})) == {"one": "new", "two": "stays"}
    with pytest.raises(ValueError, match="no <!-- /one -->"):
        marked("<!-- one -->")
