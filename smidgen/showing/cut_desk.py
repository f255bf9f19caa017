"""Where cuts are asked for: one at a time for the whole page, whoever asked for it, and what the page says of it.

A cut goes on when a window is closed: whoever opens the page sees it.
"""

import html
import threading
from collections.abc import Sequence
from pathlib import Path

from smidgen.closing import Closing
from smidgen.errors import SmidgenError, printable
from smidgen.showing.cut_process import CutProcess, CutWish
from smidgen.showing.cut_size import said_on_page
from smidgen.showing.models import Shelf
from smidgen.showing.settings import refuse_half_characters, whole_number
from smidgen.showing.words import status

_SHOWN_LINES = 8


class CutDesk(Closing):
    """Where cuts are asked for. place: the folder for results.  scratch: a private one for texts."""

    def __init__(self, shelf: Shelf, place: Path, scratch: Path) -> None:
        self._shelf, self.place, self._scratch = shelf, place, scratch
        self._lock = threading.Lock()
        self.run: CutProcess | None = None

    def begin(self, dry: bool, model: object, fit: object, name: object, *others: object) -> None:
        """Start `smidgen cut`. others: languages, text, tokens, card, resume, as in `CutWish`.

        Raises SmidgenError for a wish that is none, and while another cut runs.
        """
        given = self._shelf.to_cut().get(str(model))
        if given is None:
            raise SmidgenError("choose a model from the list.")
        languages, text, tokens, card, resume = others
        wish = CutWish.of_page(
            given, fit, name, self.place, languages=languages, text=refuse_half_characters(str(text or "")),
            tokens=whole_number("number of tokens", tokens), card=bool(card), resume=bool(resume),
            kv=self._shelf.kv,
        )  # fmt: skip
        with self._lock:
            if self.run is not None and self.run.state == "running":
                raise SmidgenError("a cut is running already; wait for it, or cancel it.")
            self.run = CutProcess(wish, dry=dry, scratch=self._scratch)

    def cancel(self) -> None:
        """End the cut that runs, if one does."""
        if self.run is not None:
            self.run.cancel()

    @property
    def running(self) -> bool:
        """Whether one runs."""
        return self.run is not None and self.run.state == "running"

    @property
    def finished(self) -> Path | None:
        """The folder of a cut that is done."""
        run = self.run
        return run.wish.folder if run is not None and run.state == "done" and not run.dry else None

    def close(self) -> None:
        """End what runs, and wait for that."""
        if self.run is not None:
            self.run.close()


def progress_of(run: CutProcess | None) -> str:
    """Where a cut is, as HTML."""
    if run is None:
        return ""
    what, seconds = "The plan" if run.dry else "The cut", f"{run.seconds:.0f} s"
    if run.state == "running":
        step = run.step
        if step is None:
            return status(f"{what} begins, {seconds}.") + _bar(None, "beginning") + _lines(run.last_lines(_SHOWN_LINES))
        line = status(f"{what} is being made, {seconds}: {step.label}, {step.seconds_left} s left of this step.")
        return line + _bar(step.done, step.label) + _lines(run.last_lines(_SHOWN_LINES))
    if run.state == "cancelled":
        kept = "" if run.dry else " What was done so far is kept: tick Go on to continue it."
        return status(f"{what} was cancelled after {seconds}.{kept}")
    if run.state == "failed":
        return status(f"{what} failed: {said_on_page(str(run.error))}", is_error=True)
    assert run.result is not None
    return status(f"{what} is ready, after {seconds}.") + _lines(_result_lines(run))


def _result_lines(run: CutProcess) -> Sequence[str]:
    """What the command's JSON says to a person."""
    result = run.result or {}
    lines = [*str(result.get("plan", "")).splitlines(), *map(str, result.get("notes") or [])]
    if run.dry:
        return [*lines, "Nothing was written yet: Cut carries it out."]
    card = result.get("card")
    verdict = card.get("verdict", {}).get("sentence") if isinstance(card, dict) else None
    written = f"{result.get('path')}: {result.get('bytes')} bytes"
    return [*lines, written, *([str(verdict)] if verdict else [])]


def _lines(lines: Sequence[str]) -> str:
    shown = "\n".join(html.escape(printable(line, 2000)) for line in lines)
    return f'<pre class="lines">{shown}</pre>' if lines else ""


def _bar(done: float | None, label: str) -> str:
    value = "" if done is None else f' value="{done:.3f}"'
    return f'<progress max="1"{value} aria-label="{html.escape(label, quote=True)}"></progress>'
