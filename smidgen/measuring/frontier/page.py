"""The comparison of several cuts as a page: one HTML file that opens offline and runs no script.

It has the style of the report card (measuring/page/style.css). Every string from a card is escaped.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files

from jinja2 import Environment, FunctionLoader, StrictUndefined

from smidgen.measuring.figures import number, percent, size, whole
from smidgen.measuring.frontier import words
from smidgen.measuring.frontier.cards import ReadCard, Text
from smidgen.measuring.frontier.compare import Comparison, on_frontier, score_name
from smidgen.measuring.frontier.pictures import BOTTOM, HEIGHT, LEFT, RIGHT, WIDTH, Plot, Point, plot

_Figures = tuple[float, float | None, float | None]  # one, and the ends of its bar


@dataclass(frozen=True)
class Section:
    """Pictures that belong together.  words: below them."""

    name: str
    title: str
    intro: str
    plots: Sequence[Plot]
    words: Sequence[str]


def render(comparison: Comparison) -> str:
    """The page."""
    environment = Environment(
        loader=FunctionLoader(_template), autoescape=True, undefined=StrictUndefined, trim_blocks=True,
        lstrip_blocks=True,
    )  # fmt: skip
    environment.filters.update(size=size, number=number, percent=percent, whole=whole, score=score_name)
    geometry = {
        "width": WIDTH,
        "height": HEIGHT,
        "left": LEFT,
        "right": WIDTH - RIGHT,
        "foot": HEIGHT - BOTTOM,
    }
    return environment.get_template("frontier.html.j2").render(
        comparison=comparison, original=comparison.cards[0], headline=words.headline(comparison),
        advice=words.advice(comparison), steps=words.steps(comparison), beaten=words.beaten(comparison),
        letters=letters(comparison), sections=[section for section in _sections(comparison) if section is not None],
        notes=[*comparison.notes, *comparison.speeds.notes], **geometry,
    )  # fmt: skip


def _template(name: str) -> str:
    return files("smidgen.measuring").joinpath("page", name).read_text("utf-8")


def letters(comparison: Comparison) -> list[str]:
    """What each cut is called in the pictures."""
    return [chr(ord("A") + place) for place in range(len(comparison.cards))]


def _sections(comparison: Comparison) -> list[Section | None]:
    return [_quality(comparison), _tasks(comparison), _speed(comparison)]


def _quality(comparison: Comparison) -> Section:
    """KL, unless it would be over other tokens for each cut, and bits per byte, both on the text that decides."""
    texts = comparison.deciding
    kls = [_with_error(text) for text in texts]
    bits: list[_Figures] = [(text.bits, None, None) for text in texts]
    rule = texts[0].bits_before, f"original {number(texts[0].bits_before, 4)}"
    plots = [
        plot("Bits per byte (lower is better)", _points(comparison, bits, "bits per byte"), rule=rule),
    ]
    notes = [f"Both are on the text {comparison.text}, {whole(texts[0].tokens)} tokens."]
    if comparison.by_bits:
        notes.append(
            "KL divergence is not drawn: a cut here has fewer tokens than the original, and its KL is over those that "
            "it has. It does not compare with the others'."
        )
    else:
        title = "KL divergence, nats per token (lower is better)"
        plots.insert(0, plot(title, _points(comparison, kls, "KL"), logarithmic=_is_wide(comparison)))
        notes.append("Bars are one standard error of the mean KL to each side.")
    if len(comparison.texts) > 1:
        notes.append("It is the one on which most was lost; the others are in the table.")
    return Section(
        "quality", "Size and quality",
        "Each letter is a cut. Filled points are on the frontier: no other cut is as small and loses as little. "
        "Lower and further left is better.",
        plots, notes,
    )  # fmt: skip


def _with_error(text: Text) -> _Figures:
    """KL, and one standard error to each side."""
    error = text.standard_error
    return (text.kl, None, None) if error is None else (text.kl, text.kl - error, text.kl + error)


def _is_wide(comparison: Comparison) -> bool:
    """A logarithmic axis, unless a cut is its original, which such an axis cannot hold."""
    return min(text.kl for text in comparison.deciding) > 0


def _tasks(comparison: Comparison) -> Section | None:
    """Of each task and question of safety, the difference from the original in points of a hundred."""
    if not comparison.scores:
        return None
    plots = [
        plot(
            f"{score_name(name)}, difference from the original's {percent(scores[0].original)}",
            _points(
                comparison,
                [(100 * one.difference, 100 * one.interval[0], 100 * one.interval[1]) for one in scores],
                "points", frontier=False,
            ),
            rule=(0.0, "original"),
        )
        for name, scores in comparison.scores.items()
    ]  # fmt: skip
    return Section(
        "tasks", "Size and tasks",
        "Both models were asked the same items. Bars are 95% intervals of the paired difference, in points of a "
        "hundred: where one holds 0, the difference may be chance.",
        plots, words.scores(comparison),
    )  # fmt: skip


def _speed(comparison: Comparison) -> Section | None:
    """Speed and memory of those that were measured alike."""
    speeds = comparison.speeds
    if not speeds.rates:
        return None
    relative = speeds.relative
    title = "Writing speed, times the original's" if relative else "Writing speed, tokens per second"
    rates: dict[str, _Figures] = {key: (rate.value, rate.low, rate.high) for key, rate in speeds.rates.items()}
    plots = [
        plot(
            f"{title} (higher is better)", _of_some(comparison, rates, title),
            rule=(1.0, "original") if relative else None,
        )
    ]  # fmt: skip
    if len(speeds.resident) > 1:
        memory: dict[str, _Figures] = {key: (value / 1e6, None, None) for key, value in speeds.resident.items()}
        title = "Memory while it writes, MB (lower is better)"
        plots.append(plot(title, _of_some(comparison, memory, "MB")))
    return Section("speed", "Size, speed and memory", f"Measured with {speeds.how}.", plots, ())


def _points(comparison: Comparison, figures: Sequence[_Figures], what: str, frontier: bool = True) -> list[Point]:
    best = on_frontier([card.bytes for card in comparison.cards], [figure[0] for figure in figures])
    return [
        _point(letter, card, figure, what, is_best and frontier)
        for letter, card, figure, is_best in zip(letters(comparison), comparison.cards, figures, best, strict=True)
    ]


def _of_some(comparison: Comparison, figures: dict[str, _Figures], what: str) -> list[Point]:
    return [
        _point(letter, card, figures[card.sha256], what, False)
        for letter, card in zip(letters(comparison), comparison.cards, strict=True)
        if card.sha256 in figures
    ]


def _point(letter: str, card: ReadCard, figure: _Figures, what: str, best: bool) -> Point:
    return Point(letter, card.bytes, *figure, best, f"{card.name}: {size(card.bytes)}, {what} {number(figure[0])}")
