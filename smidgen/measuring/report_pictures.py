"""The pictures of the report, geometry only: the type of each tensor, the damage in each layer, and what became of each
language.

The first two have one line for each layer, at the same heights, so that they can be read side by side. The template
draws them as SVG in units of CSS pixels, narrow enough for a phone at full size.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

_ROLES = ("query", "key", "value", "output", "gate", "up", "down")
_ATTENTION = frozenset(_ROLES[:4])
_ENDS = ("embedding", "head")
_OTHERS = "others"
# Background of each type, under near-black text: warm for few bits, cool for many; types of like size differ in hue.
COLOURS = {
    "Q2_K": "#f19a8e", "Q3_K": "#f5b17d", "Q4_0": "#f6ca6c", "Q4_1": "#dfcf57", "Q4_K": "#f3e08a", "IQ4_NL": "#f0c3d8",
    "IQ4_XS": "#d9b8e8", "Q5_0": "#b9dc8c", "Q5_1": "#9fd39b", "Q5_K": "#d3e8a8", "Q6_K": "#8fd6c4", "Q8_0": "#9cc7f0",
    "F16": "#b9bfd9", "BF16": "#c8c2dc", "F32": "#d0d4da",
}  # fmt: skip
_OTHER_COLOUR = "#cfcfcf"
_WIDTH = 342
_LABEL, _LONG_LABEL, _LINE, _TOP, _GAP = 34, 48, 20, 22, 2
_AFTER_BAR = 98  # for the figure
_MOST_OF_LAYERS, _LAYERS_SHARE = 4, 0.6  # a bar longer than 4 times the layers' longest is broken; that is 0.6 of it
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
    """One line of both pictures: a layer, or the embedding, or the head, or all tensors that have no cell there."""

    label: str
    y: float
    middle: float
    layer: int | None
    tensors: tuple[Mapping[str, Any], ...]


@dataclass(frozen=True)
class TypePicture:
    """start: where the cells begin, right of the labels.  renumbered: the labels say the original's numbers too."""

    width: float
    height: float
    start: float
    renumbered: bool
    columns: tuple[tuple[float, str], ...]
    lines: tuple[Line, ...]
    cells: tuple[Cell, ...]
    legend: tuple[tuple[str, str, float], ...]  # type, colour, bits per weight


@dataclass(frozen=True)
class Bar:
    """Damage of one line: attention's (or the whole of an end's) part, then the feed-forward's.

    broken: shorter than it should be, since the layers could not be told apart beside it.
    """

    y: float
    middle: float
    height: float
    first: float
    second: float
    label: str
    total: float
    about: str
    broken: bool


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
    """Layer by role; the embedding and the head are lines of their own, before and after the layers.

    What has no place there (norms, biases, routers, and whatever is not known) is one more line: nothing is left out.
    """
    renumbered = any(tensor.get("original_layer", tensor["layer"]) != tensor["layer"] for tensor in tensors)
    start = _LONG_LABEL if renumbered else _LABEL
    wide = (_WIDTH - start) / len(_ROLES)
    lines = _lines(tensors, renumbered)
    cells: list[Cell] = []
    for line in lines:
        if line.layer is None:
            cells.append(_whole_line(line, start))
        else:
            cells += [_cell(tensor, line, start, wide) for tensor in line.tensors]
    kinds = {tensor["kind"]: float(tensor["bits_per_weight"]) for tensor in tensors}
    legend = tuple((kind, _colour(kind), bits) for kind, bits in sorted(kinds.items(), key=lambda pair: pair[1]))
    columns = tuple((start + wide * (place + 0.5), role) for place, role in enumerate(_ROLES))
    height = _TOP + _LINE * len(lines) + _GAP
    return TypePicture(_WIDTH, height, start, renumbered, columns, lines, tuple(cells), legend)


def damage_picture(picture: TypePicture, damage: Mapping[str, float]) -> DamagePicture:
    """Bars as long as the damage, on the lines of the picture of types; none for a line that was not estimated."""
    sums: list[tuple[Line, float, float]] = []
    for line in picture.lines:
        parts = [0.0, 0.0]
        for tensor in line.tensors:
            feeds_forward = line.layer is not None and not _ATTENTION.intersection(_roles(tensor))
            parts[feeds_forward] += damage.get(tensor["name"], 0.0)
        if any(tensor["name"] in damage for tensor in line.tensors):
            sums.append((line, parts[0], parts[1]))
    room = _WIDTH - picture.start - _AFTER_BAR
    layers = max((first + second for line, first, second in sums if line.layer is not None), default=0.0)
    longest = max((first + second for _, first, second in sums), default=0.0) or 1.0
    breaks = 0 < _MOST_OF_LAYERS * layers < longest
    scale = _LAYERS_SHARE * room / layers if breaks else room / longest
    bars = tuple(
        Bar(
            line.y + 3, line.middle, _LINE - 6, min(first * scale, room), min(second * scale, room), line.label,
            first + second, _about_damage(line, first, second), (first + second) * scale > room,
        )
        for line, first, second in sums
    )  # fmt: skip
    return DamagePicture(_WIDTH, picture.height, picture.start, bars, sum(bar.total for bar in bars))


def type_shares(tensors: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Bytes and weights of each type in the cut file's tensors, largest first."""
    shares: dict[str, dict[str, Any]] = {}
    for tensor in tensors:
        share = shares.setdefault(
            tensor["kind"],
            {"kind": tensor["kind"], "bits": tensor["bits_per_weight"], "bytes": 0, "parameters": 0, "tensors": 0},
        )
        share["bytes"] += tensor["bytes"]
        share["parameters"] += tensor["parameters"]
        share["tensors"] += 1
    return sorted(shares.values(), key=lambda share: -share["bytes"])


def _lines(tensors: Sequence[Mapping[str, Any]], renumbered: bool) -> tuple[Line, ...]:
    layers: dict[int, list[Mapping[str, Any]]] = {}
    rest: dict[str, list[Mapping[str, Any]]] = {}
    for tensor in tensors:
        roles = _roles(tensor)
        if tensor["layer"] is not None and roles and all(role in _ROLES for role in roles):
            layers.setdefault(tensor["layer"], []).append(tensor)
        else:
            is_end = tensor["layer"] is None and tensor["role"] in _ENDS
            rest.setdefault(tensor["role"] if is_end else _OTHERS, []).append(tensor)
    groups: list[tuple[str, int | None, list[Mapping[str, Any]]]] = [
        (_numbers(layer, layers[layer][0], renumbered), layer, layers[layer]) for layer in sorted(layers)
    ]
    if "embedding" in rest:
        groups.insert(0, ("embedding" if "head" in rest else "embedding and head", None, rest["embedding"]))
    groups += [(name, None, rest[name]) for name in ("head", _OTHERS) if name in rest]
    return tuple(
        Line(label, _TOP + _LINE * place, _TOP + _LINE * (place + 0.5), layer, tuple(members))
        for place, (label, layer, members) in enumerate(groups)
    )


def _numbers(layer: int, tensor: Mapping[str, Any], renumbered: bool) -> str:
    """A layer's number and, where layers were taken out, the one that it had before; "?" where that is not known."""
    if not renumbered:
        return str(layer)
    before = tensor.get("original_layer")
    return f"{layer} ({'?' if before is None else before})"


def _roles(tensor: Mapping[str, Any]) -> list[str]:
    return tensor["role"].split("+") if tensor["role"] else []


def _cell(tensor: Mapping[str, Any], line: Line, start: float, wide: float) -> Cell:
    """A matrix of a layer; several that are stacked in one tensor take the place of all."""
    kind, places = tensor["kind"], [_ROLES.index(role) for role in _roles(tensor)]
    x, width = start + wide * min(places), wide * (max(places) - min(places) + 1)
    about = f"{_about_type(tensor)}, {_megabytes(tensor['bytes'])}"
    return Cell(x + _GAP / 2, line.y + _GAP / 2, width - _GAP, _LINE - _GAP, _colour(kind), kind, about)


def _whole_line(line: Line, start: float) -> Cell:
    """A cell from one end of the line to the other."""
    kinds = list(dict.fromkeys(tensor["kind"] for tensor in line.tensors))
    nbytes = _megabytes(sum(tensor["bytes"] for tensor in line.tensors))
    name = f"{len(line.tensors)} others" if line.label == _OTHERS else line.label
    word = f"{name}: {' and '.join(kinds) if len(kinds) < 3 else f'{len(kinds)} types'}, {nbytes}"
    about = "; ".join(map(_about_type, line.tensors))
    colour = _colour(kinds[0]) if len(kinds) == 1 else _OTHER_COLOUR
    return Cell(
        start + _GAP / 2, line.y + _GAP / 2, _WIDTH - start - _GAP, _LINE - _GAP, colour, word, f"{about}, {nbytes}"
    )


def _about_type(tensor: Mapping[str, Any]) -> str:
    kind, before = tensor["kind"], tensor.get("original_kind")
    changed = "" if before is None else (" (as in the original)" if before == kind else f" (was {before})")
    return f"{tensor['name']}: {kind}{changed}"


def _megabytes(nbytes: int) -> str:
    return f"{nbytes / 1e6:.1f} MB" if nbytes >= 1e5 else f"{nbytes / 1e3:.1f} kB"


def _colour(kind: str) -> str:
    return COLOURS.get(kind, _OTHER_COLOUR)


def _about_damage(line: Line, first: float, second: float) -> str:
    if line.layer is None:
        return f"{line.label}: {first:.6f}"
    return f"layer {line.label}: attention {first:.6f}, feed-forward {second:.6f}"
