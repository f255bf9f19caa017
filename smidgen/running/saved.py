"""Conversations as files: JSON, which is read back, and Markdown, to read.

    {"schema": 1, "model": "smollm2-135m-instruct", "messages": [{"role": "user", "content": "…"}, …]}

The messages are those of OpenAI's API. A file that is there already is never replaced.
"""

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from smidgen.errors import BadFile, SmidgenError, printable
from smidgen.formats.hf.json_text import read_json
from smidgen.model.chat import Message

_SCHEMA = 1
_SAVED = "/load reads what `/save FILE.json` wrote"
_HEADINGS = {"system": "System", "user": "You", "assistant": "Model"}


def save_conversation(path: Path, model: str, messages: Sequence[Message]) -> None:
    """Write a conversation to a new file, as JSON or Markdown by the ending of its name.

    Raises SmidgenError for another ending, for a file that is there, and where it cannot be written.
    """
    written = {".json": _as_json, ".md": _as_markdown}.get(path.suffix.lower())
    shown = printable(path)
    if written is None:
        raise SmidgenError(f"{shown} must end in .json (to go on from later) or .md (to read).")
    data = written(model, messages).encode("utf-8", "replace")
    try:
        with path.open("xb") as file:
            try:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            except BaseException:
                path.unlink(missing_ok=True)
                raise
    except FileExistsError:
        raise SmidgenError(f"{shown} is there already; choose another name.") from None
    except OSError as error:
        raise SmidgenError(f"{shown} cannot be written: {error.strerror}.") from error


def load_conversation(path: Path) -> list[Message]:
    """The messages of a conversation that was saved as JSON: questions and answers in turn, ending in an answer.

    Raises BadFile for anything else.
    """
    shown = printable(path)
    try:
        found = read_json(path)
    except BadFile as error:
        raise BadFile(f"{shown} {_why_not(error.__cause__)}; {_SAVED}.") from error
    messages = found.get("messages") if isinstance(found, dict) else None
    if not isinstance(messages, list) or not all(_is_message(message) for message in messages):
        raise BadFile(f"{shown} is not a saved conversation; {_SAVED}.")
    roles = [message["role"] for message in messages]
    turns = roles[1:] if roles[:1] == ["system"] else roles
    if turns != ["user", "assistant"] * (len(turns) // 2):
        raise BadFile(f"{shown} is not questions and answers in turn, which a conversation must be.")
    return [{"role": message["role"], "content": message["content"]} for message in messages]


def _why_not(cause: BaseException | None) -> str:
    """What is wrong with a file that is not JSON. cause: what Python said of it, if anything."""
    if isinstance(cause, FileNotFoundError):
        return "does not exist"
    if isinstance(cause, OSError):
        return f"cannot be read ({cause.strerror})"
    return "is not a saved conversation" + (f" ({printable(cause)})" if isinstance(cause, ValueError) else "")


def _is_message(message: Any) -> bool:
    return isinstance(message, dict) and message.get("role") in _HEADINGS and isinstance(message.get("content"), str)


def _as_json(model: str, messages: Sequence[Message]) -> str:
    kept = {"schema": _SCHEMA, "model": model, "messages": list(messages)}
    return json.dumps(kept, indent=1, ensure_ascii=False) + "\n"


def _as_markdown(model: str, messages: Sequence[Message]) -> str:
    parts = [f"# A conversation with {printable(model)}"]
    for message in messages:
        parts += [f"## {_HEADINGS[message['role']]}", message["content"].strip("\n")]
    return "\n\n".join(parts) + "\n"
