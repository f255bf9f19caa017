"""Reads what the cards of several cuts say, for the comparison of these cuts. The cards may come from strangers.

Only the keys that are compared are read. Each of them is checked: its type, its range, its length. What a card does not
have (it was not measured, or another version wrote it) is None here.
"""

import json
import stat
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from smidgen.errors import BadFile, SmidgenError, printable
from smidgen.measuring.card import SCHEMA
from smidgen.measuring.frontier.fields import Fields

CARD = "card.json"
_MODEL = "model.gguf"
_LARGEST_CARD = 2**24  # bytes; read, lists take some twenty times as much
_MOST_TEXTS, _MOST_TASKS = 512, 256
_LONGEST_NAME = 64
_OF_REFUSALS = ("refused_unsafe", "refused_safe")
_OF_SAFETY = ("stereotypes", "bbq_ambiguous", "bbq_disambiguated")


@dataclass(frozen=True)
class Text:
    """What a cut lost on one text. standard_error: of `kl`, in nats as it is.  windows, bytes: of what was scored.

    seen: share of it that the cut was calibrated on.  trimmed: the cut has fewer tokens than the original.
    """

    name: str
    sha256: str
    tokens: int
    windows: int | None
    bytes: int | None
    kl: float
    standard_error: float | None
    same_top1: float
    bits_before: float
    bits: float
    tokens_per_byte: float | None
    seen: float
    trimmed: bool


@dataclass(frozen=True)
class Score:
    """One task or question of safety: the shares of both models, and the paired difference with its 95% interval."""

    original: float
    cut: float
    difference: float
    interval: tuple[float, float]
    items: int
    at_chance: bool
    seed: int | None


@dataclass(frozen=True)
class Speed:
    """The cut's figures, and how fast the original was that took turns with it. spread: slowest and fastest round.

    busy: the machine had other work, so the figures say little.
    """

    machine: str
    engine: str
    threads: int
    rate: float
    spread: tuple[float, float] | None
    resident: int | None
    original_rate: float | None
    original_spread: tuple[float, float] | None
    busy: bool


@dataclass(frozen=True)
class ReadCard:
    """What one card says. place: where it was read, for messages only.  no_speed: why `speed` is None.

    parameters: None where nobody can tell.
    """

    place: str
    name: str
    sha256: str
    bytes: int
    parameters: int | None
    original_name: str
    original_sha256: str
    original_bytes: int
    texts: tuple[Text, ...]
    scores: Mapping[str, Score]
    speed: Speed | None
    no_speed: str

    @property
    def bits_per_weight(self) -> float | None:
        return 8 * self.bytes / self.parameters if self.parameters else None


def read_card(path: Path) -> ReadCard:
    """The card in a folder that `cut` wrote, or at the path of a card.json.

    Raises BadFile, in one line, for a folder without a card, a card of a newer version, one that is damaged or no card,
    and one that is about another file than the model beside it.
    """
    file = path / CARD if path.is_dir() else path
    shown = printable(file)
    if path.is_dir() and not file.exists():
        advice = f"smidgen measure ORIGINAL {printable(path)} -o {shown}"
        raise BadFile(f"{printable(path)} has no {CARD}. Make one with: {advice}")
    card = Fields(_json(file), shown)
    if (schema := card.get("schema")) != SCHEMA:
        if isinstance(schema, int) and not isinstance(schema, bool) and schema > SCHEMA:
            raise BadFile(
                f"{shown} has schema {printable(schema, 20)}, and this smidgen reads {SCHEMA}. Install a newer one."
            )
        raise BadFile(f"{shown} is not a report card of smidgen: it does not say schema {SCHEMA}.")
    cut, original = card.part("cut"), card.part("original")
    named = cut.text("name", file.absolute().parent.name, _LONGEST_NAME)
    found = ReadCard(
        shown, named, cut.hash("sha256"), cut.count("bytes"), cut.maybe("parameters", int),
        original.text("name", "the original", _LONGEST_NAME), original.hash("sha256"), original.count("bytes"),
        _texts(card), _scores(card), *_speed(card),
    )  # fmt: skip
    model = file.parent / _MODEL
    if path.is_dir() and model.is_file() and model.stat().st_size != found.bytes:
        raise BadFile(
            f"{shown} is about a file of {found.bytes} bytes, but {_MODEL} beside it has {model.stat().st_size}: it "
            "was replaced since. Measure it again."
        )
    return found


def read_cards(paths: list[Path]) -> list[ReadCard]:
    """The cards of several cuts, in the order of their sizes, with names that differ.

    Raises SmidgenError for the same cut twice; BadFile as `read_card`.
    """
    cards: list[ReadCard] = []
    for path in paths:
        card = read_card(path)
        if twin := next((other for other in cards if other.sha256 == card.sha256), None):
            same = "given twice" if twin.place == card.place else f"of the same file as {twin.place}"
            raise SmidgenError(f"{card.place} is {same} (sha256 {card.sha256[:12]}). Give each cut once.")
        cards.append(card)
    cards.sort(key=lambda card: (card.bytes, card.name, card.sha256))
    names = [card.name for card in cards]
    return [
        replace(card, name=f"{card.name} ({names[:place].count(card.name) + 1})")
        if names.count(card.name) > 1
        else card
        for place, card in enumerate(cards)
    ]


def _json(file: Path) -> Any:
    shown = printable(file)
    try:
        if not stat.S_ISREG(file.stat().st_mode):
            raise BadFile(f"{shown} is not a regular file. Give a folder that `smidgen cut` wrote, or its {CARD}.")
        with file.open("rb") as opened:
            raw = opened.read(_LARGEST_CARD + 1)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or printable(error)
        raise BadFile(f"{shown} cannot be read ({reason}). Give a folder that `smidgen cut` wrote.") from error
    if len(raw) > _LARGEST_CARD:
        raise BadFile(f"{shown} is larger than {_LARGEST_CARD >> 20} MiB, which no card is.")
    try:
        return json.loads(raw.decode("utf-8"), parse_constant=_not_a_number)
    except (ValueError, RecursionError) as error:
        raise BadFile(f"{shown} is not valid JSON ({printable(error)}). Measure again, or copy it again.") from error


def _not_a_number(name: str) -> float:
    raise ValueError(f"{name} is not a number of JSON")


def _texts(card: Fields) -> tuple[Text, ...]:
    """Texts of `fidelity`, then languages that are not among them."""
    asked = card.entries("fidelity", _MOST_TEXTS)
    languages = card.part("languages", {}).parts(_MOST_TEXTS)
    found: dict[str, Text] = {}
    for entry in (*asked, *languages.values()):
        text = _text(entry)
        found.setdefault(text.sha256, text)
    return tuple(found.values())


def _text(entry: Fields) -> Text:
    name = entry.text("text", None, _LONGEST_NAME)
    return Text(
        name, entry.hash("sha256"), entry.count("tokens"), entry.maybe("windows", int), entry.maybe("bytes", int),
        entry.number("kl_mean", -1e-3), entry.maybe("kl_standard_error", float), entry.number("same_top1", 0, 1),
        entry.number("bits_per_byte_original", 0), entry.number("bits_per_byte_cut", 0),
        entry.maybe("tokens_per_byte_original", float), entry.maybe("seen_in_calibration", float) or 0.0,
        bool(entry.maybe("dropped_mass", float) or entry.maybe("tokens_dropped", float)),
    )  # fmt: skip


def _scores(card: Fields) -> dict[str, Score]:
    """Tasks by their names, and questions of safety; what was not measured is left out."""
    safety = card.part("safety", {})
    asked = card.part("tasks", {}).parts(_MOST_TASKS)
    refusals = safety.part("refusals", {})
    asked |= {name: refusals.part(name) for name in _OF_REFUSALS if refusals.get(name) is not None}
    asked |= {name: safety.part(name) for name in _OF_SAFETY if safety.get(name) is not None}
    return {
        printable(name, _LONGEST_NAME): Score(
            score.number("original", 0, 1), score.number("cut", 0, 1), score.number("difference", -1, 1),
            score.pair("interval", -1, 1), score.count("items"), score.get("at_chance") is True,
            score.maybe("seed", int),
        )
        for name, score in asked.items()
        if score.get("difference") is not None
    }  # fmt: skip


def _speed(card: Fields) -> tuple[Speed | None, str]:
    speed = card.part("speed", {})
    if speed.get("decode_tokens_per_s") is None:
        return None, speed.text("reason", "not measured", 200)
    original = speed.part("original", {})
    found = Speed(
        speed.text("machine", "a machine without a name", 120), speed.text("engine", "an engine without a name", 120),
        speed.count("threads"),
        speed.number("decode_tokens_per_s", 1e-9), speed.maybe_pair("decode_tokens_per_s_range"),
        speed.maybe("resident_bytes", int), original.maybe("decode_tokens_per_s", float),
        original.maybe_pair("decode_tokens_per_s_range"), bool(speed.get("busy")),
    )  # fmt: skip
    return found, ""
