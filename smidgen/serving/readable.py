"""Whether a model can read a conversation: by its chat template, before any engine sees it.

llama.cpp renders what a template leaves out without a word: tools, and calls of earlier messages. Such a request is
refused here.
"""

import anyio

from smidgen.engines.llama_cpp.engine import require_chat_template
from smidgen.model.chat import refuse_hostile_chat, shows_calls
from smidgen.serving.answers.rendered import texts_of
from smidgen.serving.hosting import Hosted
from smidgen.serving.refusals import Refusal
from smidgen.serving.requests.asked import Asked


async def check_chat(model: Hosted, asked: Asked) -> None:
    """Raises Refusal for what the template would not show, SmidgenError for messages that make it run without end."""
    if not model.facts.has_chat_template:
        raise Refusal(
            f"{model.name} is a base model without a chat template: it continues texts (/v1/completions), and "
            "does not answer messages.", param="model",
        )  # fmt: skip
    template = require_chat_template(model.facts, model.template)
    tokenizer = model.facts.tokenizer
    longest = model.longest_text
    size = sum(len(text.encode(errors="replace")) for message in asked.messages or () for text in texts_of(message))
    if size > longest:
        raise Refusal(
            f"the messages have {size} bytes of text: more than a context of {model.context} tokens can hold.",
            param="messages", code="context_length_exceeded",
        )  # fmt: skip
    specials = {} if tokenizer is None else tokenizer.special_texts
    messages = [{"content": "", **message} for message in asked.messages or ()]  # as llama.cpp reads one without
    seen = await anyio.to_thread.run_sync(lambda: refuse_hostile_chat(template, messages, specials, asked.tools))
    calls = any(message["role"] == "tool" or message.get("tool_calls") for message in messages)
    if calls and not shows_calls(template):
        raise Refusal(
            "this model's chat template has no place for calls of tools, so the model would not see those of "
            "earlier messages.", param="messages",
        )  # fmt: skip
    if asked.tools and not seen and asked.tool_choice != "none":
        raise Refusal(
            "this model's chat template has no place for tools, so the model would not see them.", param="tools"
        )
