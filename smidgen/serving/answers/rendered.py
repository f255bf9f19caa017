"""Conversations that are rendered and encoded here, by the template and tokenizer that the model was measured with.

So a control token that a person spells stays text, and no text reaches llama.cpp's own tokenizer, which long runs of
equal letters can end. llama.cpp's own rendering is needed where it reads an answer with the same template: calls of
tools, and what a model thinks aloud. There, texts that spell control tokens are refused.
"""

import re
from collections.abc import AsyncGenerator
from contextlib import aclosing
from functools import partial
from typing import Any

import anyio

from smidgen.engines.llama_cpp.engine import conversation_ids
from smidgen.serving.answers.events import Event, events_of, too_long
from smidgen.serving.answers.model import AnsweringModel
from smidgen.serving.refusals import Refusal
from smidgen.serving.requests.asked import Asked

_THINKS = re.compile(r"think|reasoning|<\|channel\|>")  # in a template: the answer has parts that llama.cpp tells apart
_READS_PARTS = re.compile(r"""['"]text['"]|\.text\b""")  # in a template: what it shows of a part
_LLAMA_CPPS = frozenset({
    "chat_template_kwargs", "enable_thinking", "reasoning_effort", "add_generation_prompt", "continue_final_message",
    "reasoning_format", "thinking_budget_tokens",
})  # fmt: skip
_OF_CHATS = frozenset({
    "messages", "tools", "tool_choice", "parallel_tool_calls", "response_format", "reasoning_format", "max_tokens",
    "timings_per_token", "stream_options",
    "logprobs", "top_logprobs",
})  # fmt: skip
# llama.cpp's tokenizer calls itself for each character that one of its patterns goes on with, and ends the process
# after some 23,000 of them.
_ENDLESS = re.compile(r"[^\W\d_]{10000}|\d{10000}|\s{10000}|(?:[^\w\s]|_){10000}")
_ENCODING = anyio.CapacityLimiter(1)  # pure Python keeps other threads waiting


def is_rendered_here(model: AnsweringModel, asked: Asked) -> bool:
    """Whether nothing of llama.cpp's reading is needed for the answer."""
    messages = asked.messages or []
    return (
        model.facts.tokenizer is not None
        and model.template is not None
        and model.upstream.dialect == "llama.cpp"
        and not asked.tools
        and not _THINKS.search(model.template)
        and _LLAMA_CPPS.isdisjoint(asked.body.keys() - ({"reasoning_format"} if asked.schema is not None else set()))
        and messages[-1]["role"] != "assistant"
        and not any(message["role"] == "tool" or message.get("tool_calls") for message in messages)
    )


def refuse_unsafe(model: AnsweringModel, asked: Asked) -> None:
    """Raises Refusal for texts that llama.cpp, where it renders and encodes, would take for something else."""
    for place, message in enumerate(asked.messages or []):
        for text in texts_of(message):
            _refuse_control(model, text, f"message {place + 1}", f"messages[{place}].content")
            refuse_endless(text, f"message {place + 1}", f"messages[{place}].content")
        _refuse_inside(model, {**message, "content": None}, f"message {place + 1}", f"messages[{place}]")
    for name in ("tools", "chat_template_kwargs"):
        _refuse_inside(model, asked.tools if name == "tools" else asked.body.get(name), name, name)
    if asked.path == "/infill":
        for name in ("input_prefix", "input_suffix", "prompt", "input_extra"):
            _refuse_inside(model, asked.body.get(name), name, name, control=False)  # which llama.cpp takes as letters


def _refuse_inside(model: AnsweringModel, value: Any, name: str, param: str, control: bool = True) -> None:
    """The same of texts wherever they stand in a value, the names of its fields among them."""
    if isinstance(value, str):
        if control:
            _refuse_control(model, value, name, param)
        refuse_endless(value, name, param)
    elif isinstance(value, list):
        for inner in value:
            _refuse_inside(model, inner, name, param, control)
    elif isinstance(value, dict):
        for key, inner in value.items():
            _refuse_inside(model, key, name, param, control)
            _refuse_inside(model, inner, name, param, control)


def _refuse_control(model: AnsweringModel, text: str, name: str, param: str) -> None:
    tokenizer = model.facts.tokenizer
    if tokenizer is not None and tokenizer.disarm(text) != text:
        raise Refusal(
            f"{name} spells a control token of this model; with tools, reasoning or a begun answer it would become "
            "that token.", param=param,
        )  # fmt: skip


def refuse_endless(text: str, name: str, param: str) -> None:
    """Raises Refusal for a text that could end llama.cpp's tokenizer."""
    if _ENDLESS.search(text):
        raise Refusal(f"{name} has more than 10000 characters of one kind without a break.", param=param)


def texts_of(message: dict[str, Any]) -> list[str]:
    """What a message says, in one part or several."""
    content = message.get("content")
    if isinstance(content, list):
        return [part["text"] for part in content if isinstance(part, dict) and isinstance(part.get("text"), str)]
    return [content] if isinstance(content, str) else []


async def ids_of_conversation(model: AnsweringModel, asked: Asked) -> list[int]:
    """The conversation as token ids, of a model for which `is_rendered_here`."""
    assert model.facts.tokenizer is not None and model.template is not None
    messages = _as_it_reads(model.template, asked.messages or [])
    encode = partial(conversation_ids, model.facts.tokenizer, model.template, messages)
    return await anyio.to_thread.run_sync(encode, limiter=_ENCODING)


def _as_it_reads(template: str, messages: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Texts in parts as one text, joined as llama.cpp joins them, for a template that knows of no parts."""
    if _READS_PARTS.search(template):
        return messages
    return [
        {**message, "content": "\n".join(texts_of(message))} if isinstance(message.get("content"), list) else message
        for message in messages
    ]


async def rendered_events(model: AnsweringModel, asked: Asked, body: dict[str, Any]) -> AsyncGenerator[Event]:
    """The events of one answer as llama.cpp's `/v1/chat/completions` has them, from token ids.

    body: what is asked of it.  Raises as `events_of`, and Refusal for a conversation that does not fit the context.
    """
    assert model.facts.tokenizer is not None
    ids = await ids_of_conversation(model, asked)
    room = model.upstream.context - len(ids)
    if room < 1:
        raise too_long(len(ids), model.upstream.context, "messages")
    request = {key: value for key, value in body.items() if key not in _OF_CHATS}
    request |= {
        "prompt": ids, "return_tokens": True,
        "n_predict": room if asked.max_tokens is None else min(room, asked.max_tokens),
    }  # fmt: skip
    if asked.logprobs is not None:
        request["n_probs"] = max(1, asked.logprobs)
    ends = model.facts.tokenizer.eos_ids
    events = events_of(model.upstream, "/completion", request, is_last=lambda event: bool(event.get("stop")))
    async with aclosing(events) as found:
        async for event in found:
            ended = not ends.isdisjoint(event.get("tokens") or ())  # one that llama.cpp does not know
            yield _as_chat(event, ended, len(ids))
            if ended:
                return


def _as_chat(event: Event, ended: bool, prompt_tokens: int) -> Event:
    """One of `/completion`'s events as one of a chat."""
    probabilities = event.get("completion_probabilities")
    choice = {
        "index": 0,
        "delta": {} if ended else {"content": event["content"]},
        "logprobs": {"content": probabilities} if probabilities and not ended else None,
        "finish_reason": "stop" if ended else None,
    }
    shown: Event = {"choices": [choice]}
    if event.get("stop"):
        choice["finish_reason"] = "length" if event["stop_type"] == "limit" else "stop"
    if "tokens_predicted" in event:
        shown["timings"] = {"predicted_n": event["tokens_predicted"], "cache_n": 0, "prompt_n": prompt_tokens}
    if event.get("stop") or ended:
        shown["usage"] = {"prompt_tokens": prompt_tokens, "completion_tokens": event["tokens_predicted"]}
    return shown
