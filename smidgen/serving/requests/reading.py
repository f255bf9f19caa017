"""A request is read: checked as a whole, then put as llama.cpp takes it.

Each endpoint has a model that says what its body may hold, which `/openapi.json` shows too. What passes is carried out;
what has no effect here is named in a warning; everything else is refused by its name.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from pydantic import BaseModel, ValidationError

from smidgen.serving.refusals import Refusal
from smidgen.serving.requests import responses
from smidgen.serving.requests.anthropic import AnthropicMessages, CountedMessages
from smidgen.serving.requests.asked import Asked
from smidgen.serving.requests.chat import ChatCompletion, StreamOptions, Template
from smidgen.serving.requests.completions import Completion, Detokenization, Embedding, Infill, Tokenization
from smidgen.serving.requests.fields import NO_EFFECT
from smidgen.serving.requests.refused import as_refusal, refuse_unknown
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
_MOST_WARNINGS, _LONGEST_WARNING = 16, 200
_AS_IF_ABSENT = (
    False,
    None,
    "auto",
    "default",
    "",
    [],
    {},
)  # of fields without effect: then that is what was asked for


def read_request(path: str, body: dict[str, Any]) -> Asked:
    """What a request to `path` asks for.

    Raises Refusal, which names the field, for what could not be carried out as it is asked, and of status 404 for
    another path.
    """
    path = ALIASES.get(path, path)
    if path not in ENDPOINTS:
        raise Refusal("there is no such endpoint here.", 404)
    model, translated = ENDPOINTS[path]
    refuse_unknown(body, model)
    given = {name: value for name, value in body.items() if value is not None}
    if model is Response:
        given["input"] = responses.with_types(given.get("input"))
    try:
        model.model_validate(given)
    except ValidationError as error:
        raise as_refusal(error, given) from None
    warnings = _pop_without_effect(given, model)
    if isinstance(options := given.get("stream_options"), dict):
        given["stream_options"] = options = dict(options)
        warnings += [f"stream_options.{line}" for line in _pop_without_effect(options, StreamOptions)]
    asked = translated(path, given)
    return replace(asked, warnings=_for_a_header([*warnings, *asked.warnings]))


def _pop_without_effect(body: dict[str, Any], model: type[BaseModel]) -> list[str]:
    """Take out the fields that do nothing here, and say so."""
    warnings = []
    for name, field in model.model_fields.items():
        extra = field.json_schema_extra
        if name in body and isinstance(extra, dict) and NO_EFFECT in extra:
            if body.pop(name) not in _AS_IF_ABSENT:
                warnings.append(f"{name} has no effect here")
    return warnings


def _for_a_header(warnings: list[str]) -> tuple[str, ...]:
    """Warnings as a header can carry them: in ASCII, and not too many."""
    shown = [line.encode("ascii", "backslashreplace").decode()[:_LONGEST_WARNING] for line in warnings[:_MOST_WARNINGS]]
    more = len(warnings) - len(shown)
    return (*shown, f"and {more} more") if more else tuple(shown)
