"""How a training begins: alone in its folder, on one day however long it takes, and so that it can be gone on with."""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from datetime import date
from pathlib import Path

from smidgen.alone import alone_in
from smidgen.distillation.team.team import Team
from smidgen.formats.workspace import Workspace
from smidgen.model.templates.clock import held_on
from smidgen.publishing.companions import WORK
from smidgen.stopping import resumable


@contextmanager
def begun(output: Path, team: Team, resume: bool) -> Iterator[str]:
    """Hold the folder of a result while the block runs. Gives the day for templates that write a date: that on which
    the work began, which belongs into its fingerprint under the name `day`.

    Raises SmidgenError where another command works in that folder; Stopped where somebody ends the work.
    """
    work = Workspace(output / WORK)
    with resumable(work.holds_work), alone_in(output) if team.writes else nullcontext():
        day = day_of(output, resume)
        day = date.fromordinal(int(team.same(float(day.toordinal()))))
        with held_on(day):
            yield day.isoformat()


def day_of(output: Path, resume: bool) -> date:
    """On which the work in a folder began, or begins now."""
    known = Workspace(output / WORK).begun_with("day") if resume else None
    return date.today() if known is None else date.fromisoformat(known)
