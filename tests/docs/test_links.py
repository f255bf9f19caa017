"""Every link, anchor and path on the pages leads somewhere."""

from pathlib import Path

import pytest

from tests.docs.pages import PAGES, ROOT, anchors, files_named, links


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_and_anchors_lead_somewhere(page: Path) -> None:
    for link in links(page):
        if "://" in link:
            continue
        path, _, anchor = link.partition("#")
        target = page.parent / path if path else page
        assert target.exists(), f"{page.name} links to {link}"
        assert not anchor or anchor in anchors(target), (
            f"{page.name} links to {link}; {target.name} has no such heading"
        )


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_named_files_exist(page: Path) -> None:
    missing = [name for name in files_named(page) if not any(ROOT.glob(name))]
    assert not missing


def test_pages_of_the_site_link_to_pages_of_the_site() -> None:
    """What is outside of docs/ is not on the site, so a link to it would be dead there."""
    outside = [link for page in PAGES if page.parent.name == "docs" for link in links(page) if link.startswith("..")]
    assert not outside
