"""Parts of a page that a program writes: what stands between `<!-- NAME -->` and `<!-- /NAME -->`."""

import re
import sys
from collections.abc import Mapping
from pathlib import Path

_BEGIN = re.compile(r"<!-- ([a-z][\w-]*) -->")


def marked(text: str) -> dict[str, str]:
    """Name → what stands between its two markers, without the blank lines around it. Raises ValueError for a begin
    without its end."""
    found: dict[str, str] = {}
    for begin in _BEGIN.finditer(text):
        inside, end, _ = text[begin.end() :].partition(f"<!-- /{begin[1]} -->")
        if not end:
            raise ValueError(f"the marker {begin[0]} has no <!-- /{begin[1]} --> after it")
        found[begin[1]] = inside.strip()
    return found


def replaced(text: str, made: Mapping[str, str]) -> str:
    """A page with what was made between its markers; markers of other names stay as they are."""
    for name in marked(text).keys() & made.keys():
        begin, end = f"<!-- {name} -->", f"<!-- /{name} -->"
        before, _, rest = text.partition(begin)
        text = f"{before}{begin}\n\n{made[name]}\n\n{end}{rest.partition(end)[2]}"
    return text


def write(page: Path, made: Mapping[str, str]) -> int:
    """Put what was made into a page; the exit code of a command that does so: 1 where none of it has a place there."""
    text = page.read_text(encoding="utf-8")
    if not marked(text).keys() & made.keys():
        print(f"{page.name} has no markers for {', '.join(made)}; nothing was written", file=sys.stderr)
        return 1
    page.write_text(replaced(text, made), encoding="utf-8")
    return 0
