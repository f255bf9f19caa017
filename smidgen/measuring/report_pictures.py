"""The pictures of the report, geometry only: the type of each weight matrix, the damage in each layer, and what became
of each language.

The first two have one line for each layer, at the same heights, so that they can be read side by side. The template
draws them as SVG in units of CSS pixels, narrow enough for a phone at full size.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

_ROLES = ("query", "key", "value", "output", "gate", "up", "down")
_ATTENTION = frozenset(_ROLES[:4])
# Background of each type, under near-black text: warm for few bits, cool for many; types of like size differ in hue.
COLOURS = {
    "Q2_K": "#f19a8e", "Q3_K": "#f5b17d", "Q4_0": "#f6ca6c", "Q4_1": "#dfcf57", "Q4_K": "#f3e08a", "IQ4_NL": "#f0c3d8",
    "IQ4_XS": "#d9b8e8", "Q5_0": "#b9dc8c", "Q5_1": "#9fd39b", "Q5_K": "#d3e8a8", "Q6_K": "#8fd6c4", "Q8_0": "#9cc7f0",
    "F16": "#b9bfd9", "BF16": "#c8c2dc", "F32": "#d0d4da",
}  # fmt: skip
_OTHER_COLOUR = "#cfcfcf"
_LABEL, _CELL, _LINE, _TOP, _GAP = 34, 44, 20, 22, 2
_WIDTH = _LABEL + _CELL * len(_ROLES)
_BAR_START, _BAR_LONGEST = 34, 210
_NAME, _NAME_LETTERS, _PAIR_LINE, _PAIR_BAR, _PAIR_LONGEST = 92, 14, 26, 8, 150


@dataclass(frozen=True)
class Cell:
    """A rectangle with a word in it. about: what it says when pointed at."""

    x: float
    y: float
    width: float
    height: float
    colour: str
    word: str
    about: str


@dataclass(frozen=True)
class Line:
    """One line of both pictures: a layer, or the embedding, or the head."""

    label: str
    y: float
    middle: float
    layer: int | None
    names: tuple[str, ...]


@dataclass(frozen=True)
class TypePicture:
    width: float
    height: float
    columns: tuple[tuple[float, str], ...]
    lines: tuple[Line, ...]
    cells: tuple[Cell, ...]
    legend: tuple[tuple[str, str, float], ...]  # type, colour, bits per weight


@dataclass(frozen=True)
class Bar:
    """Damage of one line: attention's (or the whole of an end's) part, then the feed-forward's."""

    y: float
    middle: float
    height: float
    first: float
    second: float
    label: str
    total: float
    about: str


@dataclass(frozen=True)
class DamagePicture:
    width: float
    height: float
    start: float
    bars: tuple[Bar, ...]
    total: float


@dataclass(frozen=True)
class Pair:
    """Two bars of one text, original above cut, and their figures."""

    label: str
    y: float
    middle: float
    before: float
    after: float
    asked: bool
    about: str
    figures: tuple[float, float]


@dataclass(frozen=True)
class PairPicture:
    title: str
    width: float
    height: float
    start: float
    thickness: float
    pairs: tuple[Pair, ...]


def pair_picture(title: str, texts: Sequence[tuple[str, Mapping[str, Any]]], key: str) -> PairPicture:
    """Bars for `key`_original and `key`_cut of each (name, text)."""
    figures = [(float(text[f"{key}_original"]), float(text[f"{key}_cut"])) for _, text in texts]
    longest = max((figure for pair in figures for figure in pair), default=0.0) or 1.0
    pairs = tuple(
        Pair(
            name if len(name) <= _NAME_LETTERS else f"{name[: _NAME_LETTERS - 1]}…",
            _PAIR_LINE * place + 2, _PAIR_LINE * place + 2 + _PAIR_BAR, before / longest * _PAIR_LONGEST,
            after / longest * _PAIR_LONGEST, bool(text.get("asked", True)),
            f"{name}: {before:.3f} before, {after:.3f} after", (before, after),
        )
        for place, ((name, text), (before, after)) in enumerate(zip(texts, figures, strict=True))
    )  # fmt: skip
    return PairPicture(title, _WIDTH, _PAIR_LINE * len(pairs), _NAME, _PAIR_BAR, pairs)


def type_picture(tensors: Sequence[Mapping[str, Any]]) -> TypePicture:
    """Layer by role, the embedding and the head as lines of their own, before and after the layers."""
    lines = _lines(tensors)
    by_name = {tensor["name"]: tensor for tensor in tensors}
    cells: list[Cell] = []
    for line in lines:
        for name in line.names:
            cells.append(_cell(by_name[name], line))
    kinds = {tensor["kind"]: float(tensor["bits_per_weight"]) for tensor in tensors}
    legend = tuple((kind, _colour(kind), bits) for kind, bits in sorted(kinds.items(), key=lambda pair: pair[1]))
    columns = tuple((_LABEL + _CELL * (place + 0.5), role) for place, role in enumerate(_ROLES))
    return TypePicture(_WIDTH, _TOP + _LINE * len(lines) + _GAP, columns, lines, tuple(cells), legend)


def damage_picture(picture: TypePicture, damage: Mapping[str, float]) -> DamagePicture:
    """Bars as long as the damage, on the lines of the picture of types."""
    sums = []
    for line in picture.lines:
        parts = [0.0, 0.0]
        for name in line.names:
            feeds_forward = line.layer is not None and _role(name) not in _ATTENTION
            parts[feeds_forward] += damage.get(name, 0.0)
        sums.append(parts)
    longest = max((first + second for first, second in sums), default=0.0) or 1.0
    bars = tuple(
        Bar(
            line.y + 3, line.middle, _LINE - 6, first / longest * _BAR_LONGEST, second / longest * _BAR_LONGEST,
            line.label, first + second, _about_damage(line, first, second),
        )
        for line, (first, second) in zip(picture.lines, sums, strict=True)
    )  # fmt: skip
    return DamagePicture(_WIDTH, picture.height, _BAR_START, bars, sum(bar.total for bar in bars))


def type_shares(tensors: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Bytes and weights of each type in the cut file's matrices, largest first."""
    shares: dict[str, dict[str, Any]] = {}
    for tensor in tensors:
        share = shares.setdefault(
            tensor["kind"],
            {"kind": tensor["kind"], "bits": tensor["bits_per_weight"], "bytes": 0, "parameters": 0, "matrices": 0},
        )
        share["bytes"] += tensor["bytes"]
        share["parameters"] += tensor["parameters"]
        share["matrices"] += 1
    return sorted(shares.values(), key=lambda share: -share["bytes"])


def _lines(tensors: Sequence[Mapping[str, Any]]) -> tuple[Line, ...]:
    layers = sorted({tensor["layer"] for tensor in tensors if tensor["layer"] is not None})
    groups: list[tuple[str, int | None, tuple[str, ...]]] = []
    for end in ("embedding", "head"):
        names = tuple(tensor["name"] for tensor in tensors if tensor["layer"] is None and tensor["role"] == end)
        if names:
            groups.append((end, None, names))
    inside = [
        (str(layer), layer, tuple(tensor["name"] for tensor in tensors if tensor["layer"] == layer)) for layer in layers
    ]
    groups[1:1] = inside
    return tuple(
        Line(label, _TOP + _LINE * place, _TOP + _LINE * (place + 0.5), layer, names)
        for place, (label, layer, names) in enumerate(groups)
    )


def _cell(tensor: Mapping[str, Any], line: Line) -> Cell:
    kind, before = tensor["kind"], tensor.get("original_kind")
    changed = "" if before is None else (" (as in the original)" if before == kind else f" (was {before})")
    about = f"{tensor['name']}: {kind}{changed}, {tensor['bytes'] / 1e6:.2f} MB"
    if line.layer is None:
        word, x, width = f"{line.label}: {kind}, {tensor['bytes'] / 1e6:.1f} MB", _LABEL, _CELL * len(_ROLES)
    else:
        place = _ROLES.index(tensor["role"]) if tensor["role"] in _ROLES else len(_ROLES) - 1
        word, x, width = kind, _LABEL + _CELL * place, _CELL
    return Cell(x + _GAP / 2, line.y + _GAP / 2, width - _GAP, _LINE - _GAP, _colour(kind), word, about)


def _colour(kind: str) -> str:
    return COLOURS.get(kind, _OTHER_COLOUR)


def _role(name: str) -> str:
    return name.removesuffix(".weight").rsplit(".", 1)[-1]


def _about_damage(line: Line, first: float, second: float) -> str:
    if line.layer is None:
        return f"{line.label}: {first:.6f}"
    return f"layer {line.label}: attention {first:.6f}, feed-forward {second:.6f}"
