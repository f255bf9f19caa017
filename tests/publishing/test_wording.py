"""What strangers say of their models stays text where we write it."""

import json
import re

import pytest

from smidgen.formats.hub.notices import Licence
from smidgen.publishing.wording import front_matter, in_markdown, licence_in_front, licence_in_words

HOSTILE = [
    "a\n# heading", "# heading", "a\r\n---\nlicense: mit\n---", "---", "```\nrm -rf ~\n```", "`rm -rf ~`",
    "[x](javascript:alert(1))", "![x](https://example.com/x.png)", "<script>alert(1)</script>", "<!-- ", "a|b|c",
    "*b* _i_ ~~s~~", "https://example.com/x", "www.example.com", "&lt;script&gt;", "$x$ @someone", "\\", "a\x1b[2Jb",
    "a\x00b", "a\u202eb", "a\u2066b", "a\u2028b", "a\x85b", "a\u200bb", "a\ud800b", "x" * 100_000,
]  # fmt: skip


@pytest.mark.parametrize("text", HOSTILE, ids=ascii)
def test_in_markdown_it_is_text_on_one_line(text: str) -> None:
    shown = in_markdown(text)
    assert shown.isprintable() and len(shown) < 700
    shown.encode()
    # An entity is text in CommonMark, and so is punctuation behind a backslash.
    unmarked = re.sub(r"&#\d+;|\\[!-/:-@\[-`{-~]", "", shown)
    assert not set(unmarked) & set("\\`*_[]<>#|!&~@$"), shown
    assert "://" not in shown and "www." not in shown


def test_names_that_people_give_stay_as_they_are() -> None:
    assert in_markdown("Gemma 3 270M (it), Q4.1 – größer") == "Gemma 3 270M (it), Q4.1 – größer"


@pytest.mark.parametrize("text", HOSTILE, ids=ascii)
def test_front_matter_has_one_line_for_each_key(text: str) -> None:
    lines = front_matter({"license": "other", "license_name": text, "tags": [text, "gguf"]})
    assert (lines[0], len(lines), lines[-2:]) == ("---", 6, ["---", ""])
    for line in lines[1:4]:
        assert line.isprintable()
        assert json.loads(line.partition(": ")[2])


def test_licences() -> None:
    good = Licence("other", "qwen", "https://example.com/LICENSE")
    assert licence_in_words(good) == "qwen (<https://example.com/LICENSE>)"
    assert licence_in_front(good, []) == {
        "license": "other", "license_name": "qwen", "license_link": "https://example.com/LICENSE",
    }  # fmt: skip
    assert licence_in_front(Licence("other", "x", "LICENSE"), ["LICENSE"])["license_link"] == "LICENSE"
    assert licence_in_front(Licence("apache-2.0"), []) == {"license": "apache-2.0"}
    assert licence_in_front(Licence(), []) == {"license": "unknown"}


@pytest.mark.parametrize(
    "link",
    ["javascript:alert(1)", "javascript://x%0aalert(1)", "../LICENSE", "https://x.y/a b", "https://x.y/>\n", "x"],
)
def test_links_of_a_licence_lead_to_the_web_or_to_its_file(link: str) -> None:
    assert "license_link" not in licence_in_front(Licence("other", "x", link), ["LICENSE"])
    assert licence_in_words(Licence("other", "x", link)) == "x"
    assert licence_in_words(Licence(None, None, link)) == ""


def test_a_name_in_front_is_plain() -> None:
    assert licence_in_front(Licence("other", "Llama 3.1 (Meta)"), [])["license_name"] == "Llama 3.1 (Meta)"
    shown = licence_in_front(Licence("other", "<b>`x`</b>\n# y" + "z" * 999), [])["license_name"]
    assert shown.startswith("b x /b y") and len(shown) == 96


def test_an_identifier_that_is_none_becomes_a_name() -> None:
    assert licence_in_front(Licence("MIT or\nso"), []) == {"license": "other", "license_name": "MIT or so"}
