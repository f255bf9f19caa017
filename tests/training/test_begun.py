"""A training begins on one day, and a resumed one is still of that day."""

from datetime import date
from pathlib import Path

import pytest

from smidgen.distillation.team.team import Alone
from smidgen.errors import SmidgenError
from smidgen.formats.workspace import Workspace
from smidgen.model.chat import render_chat
from smidgen.training.begun import begun, day_of

DATED = "{{ strftime_now('%d %B %Y') }}{% for message in messages %}{{ message.content }}{% endfor %}"


def rendered() -> str:
    return render_chat(DATED, [{"role": "user", "content": "!"}], {})


def test_a_template_that_writes_the_date_gets_that_of_the_beginning(tmp_path: Path) -> None:
    Workspace.start(tmp_path / "work", {"day": "2026-02-28"}).save_json("figures", {})
    with begun(tmp_path, Alone(), resume=True) as day:
        assert day == "2026-02-28" and rendered() == "28 February 2026!"
    assert day_of(tmp_path, resume=False) == date.today()
    with begun(tmp_path / "other", Alone(), resume=True) as day:
        assert day == date.today().isoformat()
    assert rendered() == date.today().strftime("%d %B %Y!")


def test_two_trainings_in_one_folder_are_refused(tmp_path: Path) -> None:
    with begun(tmp_path, Alone(), resume=False):
        with pytest.raises(SmidgenError, match="Another smidgen .* is writing to"), begun(tmp_path, Alone(), True):
            pass
