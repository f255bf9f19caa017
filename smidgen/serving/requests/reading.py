"""A request is read: checked as a whole, then put as llama.cpp takes it.

Each endpoint has a model that says what its body may hold, which `/openapi.json` shows too. What passes is carried out;
what has no effect here is named in a warning; everything else is refused by its name.
"""

from collections.abc import Callable
from typing import Any

from pydantic import BaseModel

from smidgen.serving.requests.anthropic import AnthropicMessages, CountedMessages
from smidgen.serving.requests.asked import Asked
from smidgen.serving.requests.chat import ChatCompletion, Template
from smidgen.serving.requests.completions import Completion, Detokenization, Embedding, Infill, Tokenization
from smidgen.serving.requests.responses import Response
from smidgen.serving.requests.translating import (
    chat,
    completion,
    counted,
    detokenization,
    embedding,
    infill,
    messages,
    response,
    template,
    tokenization,
)  # fmt: skip

Reader = Callable[[str, dict[str, Any]], Asked]
ENDPOINTS: dict[str, tuple[type[BaseModel], Reader]] = {
    "/v1/chat/completions": (ChatCompletion, chat),
    "/v1/completions": (Completion, completion),
    "/v1/embeddings": (Embedding, embedding),
    "/v1/responses": (Response, response),
    "/v1/messages": (AnthropicMessages, messages),
    "/v1/messages/count_tokens": (CountedMessages, counted),
    "/tokenize": (Tokenization, tokenization),
    "/detokenize": (Detokenization, detokenization),
    "/apply-template": (Template, template),
    "/infill": (Infill, infill),
}
ALIASES = {
    "/chat/completions": "/v1/chat/completions", "/completions": "/v1/completions", "/embeddings": "/v1/embeddings",
    "/responses": "/v1/responses",
}  # fmt: skip
