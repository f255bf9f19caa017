"""Chat completions, as OpenAI has them, and the texts that templates make of them."""

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field

from smidgen.serving.requests.bounds import MOST_ENTRIES
from smidgen.serving.requests.conversations import Messages
from smidgen.serving.requests.fields import (
    Alternatives,
    Answers,
    Body,
    Limit,
    LimitOrNone,
    Metadata,
    Name,
    Stop,
    TextOrObject,
    Unused,
)  # fmt: skip
from smidgen.serving.requests.sampling import Sampling
from smidgen.serving.requests.tools import NamedTool, Tools

_OWN_NAMES = {
    "messages", "tools", "bos_token", "eos_token", "add_generation_prompt", "documents", "raise_exception",
    "strftime_now", "tojson",
}  # fmt: skip
Effort = Literal["none", "minimal", "low", "medium", "high", "xhigh", "max"]


def _checked_names(given: dict[str, Any]) -> dict[str, Any]:
    for name in given:
        if not name.isidentifier() or len(name) > 64:
            raise ValueError("has a key that is no name")
        if name in _OWN_NAMES:
            raise ValueError(f"may not have {name}, which the server sets itself")
    if not isinstance(given.get("enable_thinking", True), bool | None):
        raise ValueError("has an enable_thinking that is neither true nor false")
    return given


TemplateNames = Annotated[
    dict[str, Any], Field(max_length=MOST_ENTRIES["chat_template_kwargs"]), AfterValidator(_checked_names)
]


class StreamOptions(Body):
    include_usage: bool | None = None
    include_obfuscation: Unused[bool] = None
    continuous_usage_stats: Unused[bool] = None  # vLLM's, which tools that measure send


class JsonSchema(Body):
    name: str | None = None
    description: str | None = None
    schema_: Annotated[Any, Field(alias="schema")]
    strict: bool | None = None
    """Answers always follow the schema here."""


class ResponseFormat(Body):
    """What the answer is made of: any text, any JSON object, or what a JSON schema allows."""

    type: Literal["text", "json_object", "json_schema"]
    json_schema: JsonSchema | None = None
    schema_: Annotated[Any, Field(alias="schema")] = None


class OfTemplates(Body):
    """What chat templates are given."""

    model: Name | None = None
    messages: Messages
    tools: Tools | None = None
    tool_choice: TextOrObject[Literal["none", "auto", "required"], NamedTool] | None = None
    parallel_tool_calls: bool | None = None
    response_format: ResponseFormat | None = None
    chat_template_kwargs: TemplateNames | None = None
    """Values for the model's chat template."""
    enable_thinking: bool | None = None
    reasoning_effort: Effort | None = None
    add_generation_prompt: bool | None = None
    continue_final_message: bool | None = None
    """Whether the last message, which is the assistant's, goes on."""


class ChatCompletion(OfTemplates, Sampling):
    """The body of POST /v1/chat/completions."""

    max_tokens: Limit | None = None
    max_completion_tokens: Limit | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    n: Answers | None = None
    stop: Stop | None = None
    logprobs: bool | None = None
    top_logprobs: Alternatives | None = None
    echo: bool | None = None
    """Whether a last message of the assistant, which the answer goes on with, is part of the answer."""
    reasoning_format: Literal["none", "auto", "deepseek", "deepseek-legacy"] | None = None
    thinking_budget_tokens: LimitOrNone | None = None
    modalities: list[Literal["text"]] | None = None

    user: Unused[str] = None
    store: Unused[bool] = None
    metadata: Unused[Metadata] = None
    service_tier: Unused[str] = None
    safety_identifier: Unused[str] = None
    prompt_cache_key: Unused[str] = None
    prompt_cache_retention: Unused[str] = None
    verbosity: Unused[str] = None
    prediction: Unused[dict[str, Any]] = None


class Template(OfTemplates):
    """The body of POST /apply-template."""
