"""What strangers say of their models, made harmless where we write it: in Markdown, and in front matter. Torch-free.

A name, a licence or a file's name comes from a file of somebody else. In a README.md it stays text: no heading, no
HTML, no link, no fence, no second line of front matter. Whatever is written there goes through one of these functions.
"""

import json
import math
import re
from collections.abc import Collection
from typing import Any

from smidgen.errors import printable
from smidgen.formats.hub.notices import Licence

_LONGEST = 300
# What is markup in Markdown, and the beginnings of bare links. What could be read as HTML, a link or code even by a
# program that knows no backslash before it becomes an entity.
_MARKS = re.compile(r"[\\*_{}#|!~@$]|[&<>\[\]`]|(?<=:)/(?=/)|(?<=\bwww)\.", re.IGNORECASE)
_ENTITIES = {mark: f"&#{ord(mark)};" for mark in "&<>[]`"}
_LINK = re.compile(r"https?://[a-z0-9.-]+(:\d+)?(/[\w./~%#?=&+,@:-]*)?", re.IGNORECASE | re.ASCII)
_NOT_IN_A_NAME, _LONGEST_NAME = re.compile(r"[^\w.,()/+:-]+"), 96
_IDENTIFIER = re.compile(r"[a-z0-9][a-z0-9.+-]{0,63}")


def in_markdown(text: object, longest: int = _LONGEST) -> str:
    """Text from outside inside a line of Markdown: it shows as it is, on one line, and is never markup or a link."""
    return _MARKS.sub(lambda mark: _ENTITIES.get(mark[0], f"\\{mark[0]}"), printable(text, longest))


def front_matter(front: dict[str, Any]) -> list[str]:
    """The YAML that Hugging Face reads, and an empty line."""
    return ["---", *(front_line(key, value) for key, value in front.items()), "---", ""]


def front_line(key: str, value: Any) -> str:
    """One key of it. JSON's values are YAML's, on one line each; but YAML reads numbers like 1e-05 as text."""
    return f"{key}: {_value(value)}"


def _value(value: Any) -> str:
    if isinstance(value, list):
        return f"[{', '.join(map(_value, value))}]"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{json.dumps(key)}: {_value(part)}" for key, part in value.items()) + "}"
    if isinstance(value, float):
        return f"{value:.6f}".rstrip("0").removesuffix(".") if math.isfinite(value) else "null"
    return json.dumps(printable(value, _LONGEST) if isinstance(value, str) else value, ensure_ascii=False)


def plain_name(text: str) -> str:
    """A name for the front matter, of letters, digits and a few marks: no program takes it for HTML, a link or code."""
    return " ".join(_NOT_IN_A_NAME.sub(" ", text).split())[:_LONGEST_NAME]


def licence_in_words(licence: Licence) -> str:
    """A licence as the model states it, inside a line of Markdown; with its address where that is one of the web."""
    known = licence.name if licence.identifier in (None, "other") and licence.name else licence.identifier
    link = f"<{licence.link}>" if licence.link and _LINK.fullmatch(licence.link) else ""
    if known is None:
        return link
    return f"{in_markdown(known)} ({link})" if link else in_markdown(known)


def licence_in_front(licence: Licence, files: Collection[str]) -> dict[str, str]:
    """A licence in the front matter: Hugging Face's identifier, or "other" with a name.

    files: names of the licence files that go along, which a link may lead to.
    """
    identifier, name = licence.identifier, licence.name
    if identifier is not None and not _IDENTIFIER.fullmatch(identifier):
        identifier, name = None, name or identifier
    if identifier is None and not name:
        return {"license": "unknown"}
    found = {"license": identifier or "other"}
    if plain := plain_name(name or ""):
        found["license_name"] = plain
    if licence.link and (_LINK.fullmatch(licence.link) or licence.link in files):
        found["license_link"] = licence.link
    return found
