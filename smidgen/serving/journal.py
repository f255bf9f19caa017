"""A line for each request, for who runs the server. Texts are in it only where that was asked for."""

import json
import sys
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TextIO

import anyio

from smidgen.errors import SmidgenError, printable


@dataclass
class Entry:
    """What is known of a request while it is answered.

    key: the name of the key that it came with.  prompt, answer: texts, for the journals that keep them.
    """

    endpoint: str
    model: str | None = None
    key: str | None = None
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    prompt: Any = None
    answer: Any = None


class Journal:
    """file: where lines are added, `-` for stderr, None for nowhere.  texts: whether prompts and answers are in them.

    redact: what is done to texts first, in a thread.  Raises SmidgenError for a file that cannot be written.
    """

    def __init__(
        self, file: str | None = None, texts: bool = False, redact: Callable[[str], str] | None = None
    ) -> None:
        self.texts, self._redact = texts and file is not None, redact
        self._file: TextIO | None = None
        if file == "-":
            self._file = sys.stderr
        elif file is not None:
            try:
                self._file = Path(file).open("a", encoding="utf-8", errors="backslashreplace")
            except OSError as error:
                raise SmidgenError(f"the log {printable(file)} cannot be written: {error.strerror}.") from error

    async def write(self, entry: Entry, status: int, seconds: float) -> None:
        """Add a line. A disk that is full loses it, not the request."""
        if self._file is None:
            return
        line: dict[str, Any] = {
            "time": datetime.now(UTC).isoformat(timespec="milliseconds"), "endpoint": entry.endpoint, "status": status,
            "seconds": round(seconds, 3), "model": entry.model, "key": entry.key, "prompt_tokens": entry.prompt_tokens,
            "completion_tokens": entry.completion_tokens,
        }  # fmt: skip
        if self.texts:
            texts = {"prompt": entry.prompt, "answer": entry.answer}
            line |= texts if self._redact is None else await anyio.to_thread.run_sync(self._redacted, texts)
        with suppress(OSError, ValueError):
            print(json.dumps(line, ensure_ascii=False), file=self._file, flush=True)

    def _redacted(self, value: Any) -> Any:
        """The same with every text in it redacted."""
        if isinstance(value, str) and self._redact is not None:
            return self._redact(value)
        if isinstance(value, list | tuple):
            return [self._redacted(one) for one in value]
        if isinstance(value, dict):
            return {key: self._redacted(one) for key, one in value.items()}
        return value
