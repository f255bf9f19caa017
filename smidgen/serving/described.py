"""The endpoints, and what they answer, in words and as models. What they take is in requests/.

Answers may have more fields than are listed: other engines add their own.
"""

from dataclasses import dataclass
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict


class _Answer(BaseModel):
    model_config = ConfigDict(extra="allow", use_attribute_docstrings=True)


class ErrorObject(_Answer):
    message: str
    type: str
    param: str | None
    """The field that is at fault."""
    code: str | int | None


class ErrorAnswer(_Answer):
    """Every refusal, in OpenAI's shape."""

    error: ErrorObject


class Usage(_Answer):
    prompt_tokens: int
    completion_tokens: int
    total_tokens: int


class WrittenCallFunction(_Answer):
    name: str
    arguments: str


class WrittenCall(_Answer):
    id: str
    type: Literal["function"]
    function: WrittenCallFunction


class ChatMessage(_Answer):
    role: Literal["assistant"]
    content: str | None = None
    reasoning_content: str | None = None
    tool_calls: list[WrittenCall] | None = None


class ChatChoice(_Answer):
    index: int
    message: ChatMessage
    finish_reason: str
    logprobs: dict[str, Any] | None = None


class ChatCompletionAnswer(_Answer):
    id: str
    object: Literal["chat.completion"]
    created: int
    model: str
    choices: list[ChatChoice]
    usage: Usage


class ChatChunkChoice(_Answer):
    index: int
    delta: dict[str, Any]
    finish_reason: str | None = None
    logprobs: dict[str, Any] | None = None


class ChatCompletionChunk(_Answer):
    """One event of a stream; the last one is `[DONE]`."""

    id: str
    object: Literal["chat.completion.chunk"]
    created: int
    model: str
    choices: list[ChatChunkChoice]
    usage: Usage | None = None


class CompletionChoice(_Answer):
    index: int
    text: str
    finish_reason: str | None
    logprobs: dict[str, Any] | None = None


class CompletionAnswer(_Answer):
    """A text that goes on; of a stream, one event."""

    id: str
    object: Literal["text_completion"]
    created: int
    model: str
    choices: list[CompletionChoice]
    usage: Usage | None = None


class EmbeddingObject(_Answer):
    object: Literal["embedding"]
    index: int
    embedding: list[float] | str
    """Numbers, or their 32-bit form in base64."""


class EmbeddingUsage(_Answer):
    prompt_tokens: int
    total_tokens: int


class EmbeddingsAnswer(_Answer):
    object: Literal["list"]
    model: str
    data: list[EmbeddingObject]
    usage: EmbeddingUsage


class ModelObject(_Answer):
    id: str
    object: Literal["model"]


class ModelsAnswer(_Answer):
    object: Literal["list"]
    data: list[ModelObject]


class HealthAnswer(_Answer):
    status: str


class ResponseAnswer(_Answer):
    """As OpenAI's responses."""

    id: str
    object: Literal["response"]
    status: str
    output: list[dict[str, Any]]


class MessageAnswer(_Answer):
    """As Anthropic's messages."""

    id: str
    type: Literal["message"]
    role: Literal["assistant"]
    content: list[dict[str, Any]]
    stop_reason: str | None = None
    usage: dict[str, Any]


class CountAnswer(_Answer):
    input_tokens: int


class TokensAnswer(_Answer):
    tokens: list[int]


class ContentAnswer(_Answer):
    content: str


class PromptAnswer(_Answer):
    prompt: str


@dataclass(frozen=True)
class Endpoint:
    """One of them. answer, event: what comes back, whole and in a stream.  media: of an answer that has no model.

    parameters: each with its name, where it stands (`path` or `query`) and what it means.
    """

    method: str
    path: str
    name: str
    part: str
    summary: str
    returns: str
    answer: type[BaseModel] | None = None
    event: type[BaseModel] | None = None
    media: str | None = None
    parameters: tuple[tuple[str, str, str], ...] = ()


_WHICH = (("model", "query", "The name of a model; the first one where it is left out."),)
_ASK, _LOOK = "Ask", "Look"
ENDPOINTS = (
    Endpoint("post", "/v1/chat/completions", "chat", _ASK, "Answer a conversation.", "The answer, or its events.",
             ChatCompletionAnswer, ChatCompletionChunk),
    Endpoint("post", "/v1/completions", "complete", _ASK, "Continue a text, or score it (echo, logprobs).",
             "The text, or its events.", CompletionAnswer, CompletionAnswer),
    Endpoint("post", "/v1/responses", "respond", _ASK, "Answer a conversation, in the dialect of OpenAI's responses.",
             "The answer, or its events.", ResponseAnswer, ResponseAnswer),
    Endpoint("post", "/v1/messages", "message", _ASK, "Answer a conversation, in Anthropic's dialect.",
             "The answer, or its events.", MessageAnswer, MessageAnswer),
    Endpoint("post", "/v1/messages/count_tokens", "count", _ASK, "Count the tokens of a conversation.",
             "The count.", CountAnswer),
    Endpoint("post", "/v1/embeddings", "embed", _ASK, "Texts as vectors.", "A vector for each text.", EmbeddingsAnswer),
    Endpoint("post", "/infill", "infill", _ASK, "Fill in what stands between two texts.", "The text, or its events.",
             ContentAnswer, ContentAnswer),
    Endpoint("post", "/apply-template", "template", _ASK, "A conversation as the text that the model reads.",
             "The text.", PromptAnswer),
    Endpoint("post", "/tokenize", "tokenize", _ASK, "A text as tokens.", "Their ids.", TokensAnswer),
    Endpoint("post", "/detokenize", "detokenize", _ASK, "Tokens as a text.", "The text.", ContentAnswer),
    Endpoint("get", "/v1/models", "models", _LOOK, "The models that are served.",
             "Each with its size, context and licence.", ModelsAnswer),
    Endpoint("get", "/v1/models/{name}", "model", _LOOK, "One of them.", "The model.", ModelObject,
             parameters=(("name", "path", "As /v1/models has it."),)),
    Endpoint("get", "/card", "card", _LOOK, "The report card of a model, for people.", "A page.", media="text/html",
             parameters=_WHICH),
    Endpoint("get", "/card.json", "card_data", _LOOK, "The report card, for programs.", "Its data.",
             media="application/json", parameters=_WHICH),
    Endpoint("get", "/metrics", "metrics", _LOOK, "Figures of this server, for Prometheus.", "Text.",
             media="text/plain"),
    Endpoint("get", "/health", "health", _LOOK, "Whether the server is there. Needs no key.", "A word.", HealthAnswer),
    Endpoint("get", "/openapi.json", "openapi", _LOOK, "This description, for programs.", "OpenAPI 3.1.",
             media="application/json"),
    Endpoint("get", "/docs", "docs", _LOOK, "This description, for people.", "A page.", media="text/html"),
)  # fmt: skip
