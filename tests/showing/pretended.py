"""Models that answer without an engine."""

import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, cast

from smidgen.engines.llama_cpp.engine import Message
from smidgen.engines.llama_cpp.reply import Reply
from smidgen.showing.models import ShownModel
from smidgen.showing.settings import Settings
from smidgen.showing.writing import Line, Writing


def reply_of(pieces: Sequence[str], go_on: threading.Event | None = None, end: Exception | None = None) -> Reply:
    """What llama.cpp would write. go_on: waited for after the first piece.  end: raised in place of the last event."""

    def events() -> Iterator[dict[str, Any]]:
        for number, piece in enumerate(pieces, 1):
            yield {"content": piece, "tokens_predicted": number, "tokens": [number]}
            if go_on is not None:
                go_on.wait(60)
        if end is not None:
            raise end
        yield {"content": "", "stop": True, "stop_type": "eos", "tokens_predicted": len(pieces), "tokens": []}

    return Reply(events(), 3, "max_tokens")


class PretendedModel:
    """Answers `NAME says: …` in the places of a real one."""

    def __init__(self, name: str, chats: bool = True) -> None:
        self.name, self.given, self.path = name, f"/models/{name}", Path(f"/models/{name}.gguf")
        self.chats, self.context, self.threads, self.sha256 = chats, 64, None, name[0] * 64
        self.asked: list[tuple[list[Message], Settings]] = []
        self.line = Line(1)

    def write(self, messages: Sequence[Message], settings: Settings) -> Writing:
        """As `ShownModel.write`."""
        self.asked.append((list(messages), settings))
        return Writing(lambda: reply_of([self.name, " says: ", messages[-1]["content"]]), self.line)


def pretended(name: str, chats: bool = True) -> ShownModel:
    """One that passes for a real one."""
    return cast(ShownModel, PretendedModel(name, chats))
