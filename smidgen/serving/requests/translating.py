"""Checked requests, put as llama.cpp takes them. Every function here takes the endpoint's path and a checked body."""

from typing import Any

from smidgen.serving.refusals import Refusal
from smidgen.serving.requests import anthropic, conversations, responses
from smidgen.serving.requests.asked import Asked
from smidgen.serving.requests.bounds import LONGEST_LOOK_BACK
from smidgen.serving.requests.formats import pop_schema, refuse_beside_tools
from smidgen.serving.requests.tools import choose, in_chat_shape


def chat(path: str, body: dict[str, Any]) -> Asked:
    """/v1/chat/completions"""
    warnings: list[str] = []
    found = _of_templates(body, warnings)
    found |= _pop_common(body) | _pop_stream_options(body)
    limit = _pop_limit(body, "max_tokens", "max_completion_tokens")
    if limit is not None:
        body["max_tokens"] = limit
    logprobs = _pop_chat_logprobs(body)
    if logprobs is not None:
        if found["tools"]:
            raise Refusal("logprobs are not given with tools; leave one out.", param="logprobs")
        body |= {"logprobs": True, "top_logprobs": max(1, logprobs)}
    body.pop("modalities", None)
    echo = body.pop("echo", False)
    if _is_begun(found["messages"]):
        body["echo"] = echo
    return Asked(
        path,
        body,
        n=body.pop("n", 1),
        echo=echo,
        logprobs=logprobs,
        max_tokens=limit,
        warnings=tuple(warnings),
        **found,
    )


def template(path: str, body: dict[str, Any]) -> Asked:
    """/apply-template"""
    warnings: list[str] = []
    found = _of_templates(body, warnings)
    return Asked(path, body, body.pop("model", None), warnings=tuple(warnings), **found)


def completion(path: str, body: dict[str, Any]) -> Asked:
    """/v1/completions"""
    found = _pop_common(body) | _pop_stream_options(body)
    n, echo, limit = body.pop("n", 1), body.pop("echo", False), _pop_limit(body, "max_tokens")
    if body.pop("best_of", n) != n:
        raise Refusal(f"best_of must be the same as n, which is {n}: all answers are returned.", param="best_of")
    if limit == 0 and not echo:
        raise Refusal(
            "max_tokens is 0, so that there is nothing to write; add echo to score the prompt.", param="max_tokens"
        )
    if limit is not None:
        body["max_tokens"] = limit
    logprobs = body.pop("logprobs", None)
    if logprobs is not None:
        body["n_probs"] = max(1, logprobs)
    schema = pop_schema(body)
    prompts = _several(body["prompt"])
    return Asked(
        path, body, n=n, echo=echo, logprobs=logprobs, max_tokens=limit, prompts=prompts, schema=schema, **found
    )


def infill(path: str, body: dict[str, Any]) -> Asked:
    """/infill"""
    found = _pop_common(body)
    limit = _pop_limit(body, "max_tokens", "n_predict")
    if limit is not None:
        body["n_predict"] = limit
    schema = pop_schema(body)
    if "input_extra" in body:
        body["input_extra"] = [_without_nulls(one) for one in body["input_extra"]]
    prompts = (body["input_prefix"], body["input_suffix"])
    return Asked(path, body, max_tokens=limit, prompts=prompts, schema=schema, **found)


def embedding(path: str, body: dict[str, Any]) -> Asked:
    """/v1/embeddings"""
    inputs = _several(body["input"])
    if not all(inputs):
        raise Refusal("input has an empty text; give at least one character.", param="input")
    encoding, dimensions = body.pop("encoding_format", "float"), body.pop("dimensions", None)
    return Asked(path, body, body.pop("model", None), inputs=inputs, encoding_format=encoding, dimensions=dimensions)


def tokenization(path: str, body: dict[str, Any]) -> Asked:
    """/tokenize"""
    return Asked(path, body, body.pop("model", None))


detokenization = tokenization


def response(path: str, body: dict[str, Any]) -> Asked:
    """/v1/responses"""
    found = _pop_common(body)
    messages = responses.messages_of(body)
    _refuse_odd_end(messages)
    warnings: list[str] = []
    tools, choice, name = choose(in_chat_shape(body.pop("tools", None), warnings), body.pop("tool_choice", None))
    if tools:
        if body.get("parallel_tool_calls") is False:
            raise Refusal(
                "parallel_tool_calls: false is not carried out by responses; use /v1/chat/completions.",
                param="parallel_tool_calls",
            )
        body |= {"tools": [{"type": "function", **tool["function"]} for tool in tools], "tool_choice": choice}
    text, reasoning = body.pop("text", None) or {}, body.pop("reasoning", None) or {}
    warnings += _nested_warnings("text", text, ("verbosity",))
    warnings += _nested_warnings("reasoning", reasoning, ("summary", "generate_summary"))
    if text.get("format") is not None:
        body["response_format"] = text["format"]
    schema = pop_schema(body, "text.format")
    refuse_beside_tools(body, schema, tools, choice, "text.format")
    if reasoning.get("effort") is not None:
        body["reasoning"] = {"effort": reasoning["effort"]}
    limit = _pop_limit(body, "max_output_tokens")
    if limit is not None:
        body["max_output_tokens"] = limit
    for key in ("truncation", "background"):
        body.pop(key, None)
    body["input"] = responses.for_llama_cpp(body["input"])
    if _is_begun(messages) and isinstance(body["input"], list):
        responses.join_last(body["input"])
    return Asked(
        path, body, max_tokens=limit, messages=messages, tools=tools or None, tool_choice=choice, tool_name=name,
        schema=schema, warnings=tuple(warnings), **found,
    )  # fmt: skip


def messages(path: str, body: dict[str, Any]) -> Asked:
    """/v1/messages"""
    warnings: list[str] = []
    found = _of_anthropic(body, warnings)
    stop = tuple(body.get("stop_sequences", ()))
    _count_from_zero(body)
    limit = _pop_limit(body, "max_tokens")
    if limit is not None:
        body["max_tokens"] = limit
    return Asked(
        path, body, stream=body.get("stream", False), max_tokens=limit, stop=stop, warnings=tuple(warnings), **found
    )  # fmt: skip


def counted(path: str, body: dict[str, Any]) -> Asked:
    """/v1/messages/count_tokens"""
    warnings: list[str] = []
    found = _of_anthropic(body, warnings)
    return Asked(path, body, warnings=tuple(warnings), **found)


def _of_templates(body: dict[str, Any], warnings: list[str]) -> dict[str, Any]:
    """Messages, tools and formats of a chat; the body is left with them as llama.cpp takes them."""
    messages = conversations.for_llama_cpp(body["messages"], warnings)
    _refuse_odd_end(messages)
    if body.get("continue_final_message"):
        if messages[-1]["role"] != "assistant":
            raise Refusal(
                "continue_final_message is true, but the last message is not the assistant's.",
                param="continue_final_message",
            )
        if body.get("add_generation_prompt"):
            raise Refusal(
                "add_generation_prompt and continue_final_message cannot both be true.", param="add_generation_prompt"
            )
    if _is_begun(messages) and isinstance(messages[-1].get("content"), list):
        messages[-1]["content"] = "".join(part["text"] for part in messages[-1]["content"])  # as it is echoed
    tools, choice, name = choose(in_chat_shape(body.pop("tools", None), warnings), body.pop("tool_choice", None))
    body["messages"] = messages
    if tools:
        body |= {"tools": tools, "tool_choice": choice}
    if name is not None:
        body.setdefault("parallel_tool_calls", False)  # as OpenAI: one call of the tool that was named
    schema = pop_schema(body)
    refuse_beside_tools(body, schema, tools, choice, "response_format")
    if schema is not None:
        body["reasoning_format"] = "none"  # all of the answer is what the schema describes
    thinking = body.pop("enable_thinking", None)
    if thinking is not None:
        body["chat_template_kwargs"] = body.get("chat_template_kwargs", {}) | {"enable_thinking": thinking}
    if "reasoning_effort" in body or "chat_template_kwargs" in body:
        warnings.append(
            "reasoning_effort and chat_template_kwargs have an effect where the model's template reads them"
        )
    return {
        "messages": messages, "tools": tools or None, "tool_choice": choice, "tool_name": name, "schema": schema,
    }  # fmt: skip


def _of_anthropic(body: dict[str, Any], warnings: list[str]) -> dict[str, Any]:
    messages = anthropic.messages_of(body)
    _refuse_odd_end(messages)
    tools, choice, name = choose(in_chat_shape(body.pop("tools", None), warnings), body.pop("tool_choice", None))
    if tools:
        body["tools"] = [_anthropic_tool(tool["function"]) for tool in tools]
        body["tool_choice"] = {"type": "any" if choice == "required" else "auto"}
    body["messages"] = anthropic.for_llama_cpp(body["messages"])
    if _is_begun(messages):
        anthropic.join_last(body["messages"])
    thinking = body.pop("thinking", None)
    if thinking is not None:
        if thinking["type"] == "disabled":
            body["chat_template_kwargs"] = body.get("chat_template_kwargs", {}) | {"enable_thinking": False}
        elif thinking.get("budget_tokens") is not None:
            body["thinking"] = {"type": "enabled", "budget_tokens": thinking["budget_tokens"]}
    return {
        "model": body.pop("model", None), "messages": messages, "tools": tools or None, "tool_choice": choice,
        "tool_name": name,
    }  # fmt: skip


def _anthropic_tool(function: dict[str, Any]) -> dict[str, Any]:
    described = {"description": function["description"]} if "description" in function else {}
    return {"name": function["name"], **described, "input_schema": function["parameters"]}


def _refuse_odd_end(messages: list[dict[str, Any]]) -> None:
    """An answer may go on where the assistant's last message ends; not behind a call, nor behind two messages."""
    if not _is_begun(messages):
        return
    if messages[-1].get("tool_calls"):
        raise Refusal("the last message calls a tool; add a message with what the tool returned.", param="messages")
    if len(messages) > 1 and messages[-2]["role"] == "assistant":
        raise Refusal("the last two messages are the assistant's; make them one.", param="messages")


def _is_begun(messages: list[dict[str, Any]]) -> bool:
    return bool(messages) and messages[-1]["role"] == "assistant"


def _pop_common(body: dict[str, Any]) -> dict[str, Any]:
    """What all that write have in common."""
    stop = body.get("stop")
    stops = (stop,) if isinstance(stop, str) else tuple(stop or ())
    seed = body.pop("seed", None)
    if seed == -1:
        seed = None
    if seed is not None:
        body |= {"seed": seed, "cache_prompt": False}
    _count_from_zero(body)
    return {"model": body.pop("model", None), "stream": body.get("stream", False), "seed": seed, "stop": stops}


def _count_from_zero(body: dict[str, Any]) -> None:
    """-1 is all tokens elsewhere; in llama.cpp it is 0 for `top_k`, and nothing for those that look back."""
    for name, all_tokens in (
        ("top_k", 0),
        ("repeat_last_n", LONGEST_LOOK_BACK),
        ("dry_penalty_last_n", LONGEST_LOOK_BACK),
    ):
        if body.get(name) == -1:
            body[name] = all_tokens


def _pop_stream_options(body: dict[str, Any]) -> dict[str, Any]:
    options = body.pop("stream_options", None)
    if options is not None and not body.get("stream"):
        raise Refusal("stream_options need stream to be true.", param="stream_options")
    return {"include_usage": bool((options or {}).get("include_usage"))}


def _pop_limit(body: dict[str, Any], *names: str) -> int | None:
    """The most tokens to write, under whichever name; None for no limit."""
    given = {name: body.pop(name) for name in names if name in body}
    if len(set(given.values())) > 1:
        raise Refusal(f"{' and '.join(given)} say different numbers; give one of them.", param=next(iter(given)))
    limit = next(iter(given.values()), None)
    return None if limit == -1 else limit


def _pop_chat_logprobs(body: dict[str, Any]) -> int | None:
    wanted, top = body.pop("logprobs", False), body.pop("top_logprobs", None)
    if not wanted and top:
        raise Refusal("top_logprobs needs logprobs to be true.", param="top_logprobs")
    return (top or 0) if wanted else None


def _several(given: Any) -> tuple[Any, ...]:
    """Each of several texts or lists of ids; one alone is one."""
    return (given,) if isinstance(given, str) or isinstance(given[0], int) else tuple(given)


def _without_nulls(given: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in given.items() if value is not None}


def _nested_warnings(where: str, given: dict[str, Any], names: tuple[str, ...]) -> list[str]:
    return [f"{where}.{name} has no effect here" for name in names if given.get(name) is not None]
