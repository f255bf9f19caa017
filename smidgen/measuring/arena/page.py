"""A ranking as a page: one HTML file that opens offline and runs no script, in the style of the report card.

Every string from votes is escaped: names of models come from strangers.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

from jinja2 import Environment, FunctionLoader, StrictUndefined

from smidgen.atomic import refuse_unwritable
from smidgen.errors import SmidgenError, printable
from smidgen.measuring.arena.words import (
    anchor_words,
    headline,
    interval_words,
    judge_lines,
    points,
    reasons,
    shown_name,
    verdict,
    votes_lines,
)
from smidgen.measuring.figures import whole

_WIDTH = 200  # of the picture of an interval
_OWN = b'content="smidgen arena"'
_HEAD = 1024  # bytes at the beginning of a page in which that stands


@dataclass(frozen=True)
class Row:
    """One model. ends: of the line of its interval, and dot: of its score, in units of the picture."""

    rank: str
    name: str
    score: str
    interval: str
    ends: tuple[str, str] | None
    dot: str | None
    votes: str
    won: str
    tied: str
    lost: str
    rates: list[str]


def refuse_page(path: Path) -> None:
    """Raises SmidgenError where a page of this name cannot be written, or would replace what is no such page."""
    if path.suffix != ".html":
        raise SmidgenError(f"The page {printable(path)} must end in .html.")
    refuse_unwritable(path)
    if (path.exists() or path.is_symlink()) and not _is_own(path):
        raise SmidgenError(f"{printable(path)} is there, and smidgen did not write it; choose another name.")


def _is_own(path: Path) -> bool:
    try:
        if not path.is_file():
            return False
        with path.open("rb") as file:
            return _OWN in file.read(_HEAD)
    except OSError:
        return False


def render(ranking: Mapping[str, Any]) -> str:
    """The page for a ranking as `rank` makes it."""
    environment = Environment(
        loader=FunctionLoader(_template), autoescape=True, undefined=StrictUndefined, trim_blocks=True,
        lstrip_blocks=True,
    )  # fmt: skip
    ends = [end for one in ranking["models"] for end in (one["score"], *one["interval"]) if end is not None]
    power = ranking["power"]
    return environment.get_template("arena.html.j2").render(
        headline=headline(ranking), anchor=anchor_words(ranking), rows=_rows(ranking, min(ends), max(ends)),
        ends=[points(min(ends)), points(max(ends))], reasons=reasons(ranking), neighbours=_neighbours(ranking),
        sure=f"{power['confidence']:.0%} confidence and {power['power']:.0%} probability",
        judge=judge_lines(ranking.get("judge")), votes=votes_lines(ranking), method=ranking["method"],
        files=[
            f"{printable(file['name'])}: {whole(file['votes'])} votes, sha256 {file['sha256']}"
            for file in ranking["votes"]["files"]
        ],
    )  # fmt: skip


def _template(name: str) -> str:
    return files("smidgen.measuring").joinpath("page", name).read_text("utf-8")


def _rows(ranking: Mapping[str, Any], low: float, high: float) -> list[Row]:
    def across(value: float) -> str:
        return f"{4 + (value - low) / ((high - low) or 1.0) * (_WIDTH - 8):.1f}"

    rows = []
    for one, rates in zip(ranking["models"], ranking["win_rates"], strict=True):
        least, most, score = *one["interval"], one["score"]
        known = least is not None or most is not None
        ends = ("0" if least is None else across(least), str(_WIDTH) if most is None else across(most))
        rows.append(
            Row(
                rank="" if one["rank"] is None else str(one["rank"]),
                name=shown_name(one["model"]),
                score="?" if score is None else points(score),
                interval=interval_words(one),
                ends=ends if known else None,
                dot=None if score is None else across(score),
                votes=whole(one["votes"]), won=whole(one["won"]), tied=whole(one["tied"]), lost=whole(one["lost"]),
                rates=["" if rate is None else f"{rate:.0%}" for rate in rates],
            )
        )  # fmt: skip
    return rows


def _neighbours(ranking: Mapping[str, Any]) -> list[dict[str, str]]:
    return [
        {
            "names": f"{shown_name(pair['better'])} over {shown_name(pair['worse'])}",
            "difference": points(pair["difference"], signed=True),
            "interval": " to ".join(points(end, signed=True) for end in pair["interval"]),
            "verdict": verdict(pair),
        }
        for pair in ranking["neighbours"]
        if pair["told_apart"] is not None
    ]
