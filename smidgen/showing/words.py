"""What the page says about answers: how one ended, how quick it was, what it takes of the context."""

import html

from smidgen.showing.models import ShownModel
from smidgen.showing.settings import Settings
from smidgen.showing.writing import Writing


def status(text: str, is_error: bool = False) -> str:
    """A line of the page as HTML, for Gradio's Markdown (its HTML evaluates templates). Text may be a stranger's.

    An error begins with a capital here, unless it begins with a name such as llama.cpp.
    """
    first = text.partition(" ")[0]
    if is_error and first.isalpha() and first.islower():
        text = text[0].upper() + text[1:]
    role = "alert" if is_error else "status"
    return (
        f'<p class="{"wrong" if is_error else "said"}" role="{role}">{html.escape(" ".join(text.split()))}</p>'
        if text
        else ""
    )


def while_written(writing: Writing) -> str:
    """How it goes."""
    if writing.state == "waiting":
        return "Waiting: the model is reading, or at work for somebody else."
    reply = writing.reply
    if reply is None or not reply.generated_tokens:
        return "Reading…"
    rate = "" if reply.tokens_per_s is None else f", {reply.tokens_per_s:.1f} tokens/s"
    return f"Writing… {_tokens(reply.generated_tokens)}{rate}."


def when_ended(writing: Writing, model: ShownModel, settings: Settings) -> str:
    """Length, speed, context, and why it ended where that was not by itself."""
    reply = writing.reply
    if reply is None:
        return "Stopped before the first word."
    rate = "" if reply.tokens_per_s is None else f", {reply.tokens_per_s:.1f} tokens/s"
    used = reply.prompt_tokens + reply.generated_tokens
    said = f"{_tokens(reply.generated_tokens)}{rate}. Context: {used} of {model.context} tokens."
    if writing.state == "stopped":
        return f"Stopped. {said}"
    if reply.stop == "context":
        return f"{said} The answer ends here because the context is full; clear the conversation to start over."
    if reply.stop == "max_tokens":
        return f"{said} It ends at the longest answer of {settings.max_tokens} tokens (see Settings)."
    return said


def about_kind(model: ShownModel) -> str:
    """What to know before writing to a base model; nothing for one that chats."""
    if model.chats:
        return ""
    return (
        f"{model.name} is a base model without a chat template: it continues your text instead of answering it. Each "
        "message stands alone, and the system message is not used."
    )


def _tokens(number: int) -> str:
    return f"{number} token{'' if number == 1 else 's'}"
