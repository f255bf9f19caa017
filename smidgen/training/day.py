"""The day on which a training was begun, for chat templates that write today's date.

A training that goes on tomorrow, and each of its processes, has to see the same text. The date is one of the things
that a workspace is bound to (`Workspace.open`), and is found there again.
"""

from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

from smidgen.distillation.team.team import Team
from smidgen.formats.workspace import Workspace
from smidgen.model.chat import chat_template, chat_templates, writes_the_date

#: What a workspace calls it.
DATE = "date"


def day_of(folder: Path, resume: bool, team: Team) -> datetime:
    """The day of the unfinished work in a folder, if that is to go on; otherwise today, for all of a team."""
    begun = (Workspace(folder).load_json("fingerprint") or {}).get(DATE) if resume else None
    day = datetime.fromisoformat(begun) if begun else datetime.now().replace(microsecond=0)
    return datetime.fromtimestamp(team.same(day.timestamp()))


def bound_to(day: datetime, metadata: Mapping[str, Any]) -> dict[str, str]:
    """For the fingerprint of a workspace: the day, where the text of a model's chats depends on it."""
    dated = bool(chat_templates(metadata)) and writes_the_date(chat_template(metadata))
    return {DATE: day.isoformat()} if dated else {}
