"""An answer on a terminal as rendered Markdown, while it is written.

A block (a paragraph, a list, a table, a piece of code) is rendered in place until the next one begins; then it is
printed once more, for good, and never touched again. So what scrolls away is whole and rendered, whatever its length,
and only the open block is drawn anew: its last lines, where it is longer than the screen.

Nothing of the text is left out: tags, links, images and definitions of links stay as they were written, line ends are
line ends, and what cannot be rendered is printed as text.
"""

import time
from typing import TextIO

from markdown_it import MarkdownIt
from markdown_it.rules_inline import StateInline, escape
from markdown_it.token import Token
from rich.console import Console, ConsoleOptions, RenderResult
from rich.live import Live
from rich.markdown import CodeBlock, Heading, Markdown
from rich.segment import Segment, SegmentLines
from rich.syntax import Syntax
from rich.text import Text

from smidgen.errors import harmless

_SECONDS_BETWEEN_DRAWINGS = 0.08
_SHARE_FOR_DRAWING = 0.1  # of the time; the rest is for the model, which computes on the same processor
_LEFT_AS_WRITTEN = ["html_block", "html_inline", "entity", "link", "image", "autolink", "reference"]
_FORMULAS = ("\\(", "\\)", "\\[", "\\]")  # around formulas, as models write them


def can_render(file: TextIO) -> bool:
    """Whether it is a terminal that can draw a block anew."""
    console = Console(file=file)
    return console.is_terminal and not console.is_dumb_terminal


class RenderedMarkdown:
    """One answer."""

    def __init__(self, file: TextIO) -> None:
        self._console = Console(file=file, highlight=False)
        self._live = Live(
            console=self._console, auto_refresh=False, transient=True, redirect_stdout=False, redirect_stderr=False
        )
        self._open = ""  # the block that may go on, and what follows it
        self._printed_any = False
        self._next_drawing = 0.0

    def piece(self, text: str) -> None:
        """Show what came."""
        self._open += harmless(text)
        if "\n" in text:
            self._print(_length_of_finished(self._open))
        if time.monotonic() >= self._next_drawing:
            self._draw()

    def end(self) -> None:
        """No more comes."""
        self._live.update(Text(""))
        self._live.stop()
        self._print(len(self._open))
        if self._printed_any:
            self._console.print()

    def _print(self, length: int) -> None:
        """Print so much of the text for good."""
        lines = self._lines(self._open[:length])
        self._open = self._open[length:]
        if lines:
            self._live.update(Text(""))
            self._console.print(SegmentLines(lines, new_lines=True), end="")
            self._printed_any = True

    def _draw(self) -> None:
        began = time.monotonic()
        shown = self._lines(self._open)[-max(1, self._console.height - 2) :]
        self._live.start()
        self._live.update(SegmentLines(shown, new_lines=True) if shown else Text(""), refresh=True)
        now = time.monotonic()
        self._next_drawing = now + max(_SECONDS_BETWEEN_DRAWINGS, (now - began) / _SHARE_FOR_DRAWING)

    def _lines(self, text: str) -> list[list[Segment]]:
        """The text rendered, without blank lines around it; after something else, one before it."""
        try:
            lines = self._console.render_lines(_Rendered(text), self._console.options.update(height=None), pad=False)
        except Exception:  # whatever a renderer may trip over, the text is shown
            lines = self._console.render_lines(Text(text), pad=False)
        written = [number for number, line in enumerate(lines) if any(segment.text.strip() for segment in line)]
        lines = lines[written[0] : written[-1] + 1] if written else []
        return [[], *lines] if lines and self._printed_any else lines


def _length_of_finished(text: str) -> int:
    """Characters of the blocks that no further text can change: all but the last one that has a whole line."""
    whole = text[: text.rfind("\n") + 1]
    begins = [token.map[0] for token in _parser.parse(whole) if token.level == 0 and token.nesting >= 0 and token.map]
    if len(begins) < 2:
        return 0
    return sum(len(line) for line in whole.split("\n")[: begins[-1]]) + begins[-1]


class _Rendered(Markdown):
    """Markdown by our parser, with code that can be copied."""

    elements = Markdown.elements

    def __init__(self, text: str) -> None:
        super().__init__("", hyperlinks=False)
        self.parsed = _with_line_ends(_parser.parse(text))


class _Code(CodeBlock):
    """Code without a frame of blanks."""

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        yield Syntax(str(self.text).rstrip("\n"), self.lexer_name, theme="ansi_dark", word_wrap=True)


class _Heading(Heading):
    """A heading that begins where all lines begin."""

    LEVEL_ALIGN = dict.fromkeys(Heading.LEVEL_ALIGN, "left")  # pyright: ignore[reportAssignmentType]


_Rendered.elements = {**Markdown.elements, "fence": _Code, "code_block": _Code, "heading_open": _Heading}


def _with_line_ends(tokens: list[Token]) -> list[Token]:
    """Line ends within paragraphs are kept: models write verses, addresses and lists of figures."""
    for token in tokens:
        for child in token.children or []:
            if child.type == "softbreak":
                child.type = "hardbreak"
    return tokens


def _make_parser() -> MarkdownIt:
    parser = MarkdownIt().enable(["strikethrough", "table"]).disable(_LEFT_AS_WRITTEN)
    parser.inline.ruler.at("escape", lambda state, silent: not _begins_formula(state) and escape(state, silent))
    return parser


def _begins_formula(state: StateInline) -> bool:
    """Whether a backslash is to stay, which Markdown would take away."""
    return state.src.startswith(_FORMULAS, state.pos)


_parser = _make_parser()
