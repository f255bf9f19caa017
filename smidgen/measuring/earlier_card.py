"""A cut that is measured anew keeps what its card knows of how it was made.

`smidgen measure ORIGINAL DIR -o DIR/card.json` replaces the card that `cut` wrote. The steps, what was learned from and
what that cost are known to that card alone, and without them a text that the cut was calibrated on would look unseen.
They are taken over where the card to be replaced is about the very same two files.
"""

import json
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from smidgen.measuring.card import SCHEMA, in_words
from smidgen.measuring.report import render
from smidgen.progress import say

_KEYS: Mapping[str, type] = {"steps": list, "calibration": list, "cost": dict}
_LARGEST_CARD = 2**24  # bytes


def with_its_making(card: dict[str, Any], replaced: Path) -> dict[str, Any]:
    """`card` with steps, calibration and cost of the card at `replaced`, where that is about the same files.

    That card may come from a stranger. What cannot be shown is left out, and said.
    """
    earlier = _read(replaced)
    known = {key: earlier[key] for key, kind in _KEYS.items() if isinstance(earlier.get(key), kind) and earlier[key]}
    if not known or earlier.get("schema") != SCHEMA or _files(earlier) != _files(card):
        return card
    try:
        whole = in_words(card | known)
        json.dumps(whole, allow_nan=False)
        render(whole)
    except Exception:  # whatever the page's templates raise where values are not of the kind that they show
        say("The card that is replaced says how the cut was made in a way that cannot be read: it is left out.")
        return card
    return whole


def _files(card: Mapping[str, Any]) -> tuple[Any, ...]:
    sides = card.get("original"), card.get("cut")
    return tuple(side.get("sha256") if isinstance(side, Mapping) else None for side in sides)


def _read(path: Path) -> dict[str, Any]:
    """A card, or nothing where there is none."""
    try:
        found = path.stat()
        if not stat.S_ISREG(found.st_mode) or found.st_size > _LARGEST_CARD:
            return {}
        card: Any = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return card if isinstance(card, dict) else {}
