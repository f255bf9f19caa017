"""What can be asked, for programs (OpenAPI 3.1) and for people (a page), made of the models that check requests.

Specification: https://spec.openapis.org/oas/v3.1.0
"""

from collections.abc import Sequence
from typing import Any

from pydantic import BaseModel
from pydantic.json_schema import GenerateJsonSchema, models_json_schema

from smidgen.serving.described import ENDPOINTS, Endpoint, ErrorAnswer
from smidgen.serving.docs import docs_page as docs_page
from smidgen.serving.requests.reading import ENDPOINTS as REQUESTS
from smidgen.version import __version__

_REFERENCES = "#/components/schemas/{model}"
_REFUSED = {
    "400": "Something in the request cannot be carried out; `param` names the field.",
    "401": "A key is needed, or this one is not known.",
    "403": "The host, the page or the key may not do this.",
    "404": "There is no such model or endpoint.",
    "405": "The endpoint takes another method.",
    "408": "The request did not come in time.",
    "413": "The request is too large.",
    "415": "The request is compressed or not JSON.",
    "429": "The line is full, or the key has used its tokens; `Retry-After` says when to come back.",
    "500": "A fault of the server.",
    "501": "This model cannot do this.",
    "503": "The engine ended or is not ready; try again.",
    "504": "The answer took longer than it may.",
}
_PUBLIC = "/health"


class _Untitled(GenerateJsonSchema):
    """Names of fields say enough."""

    def field_title_should_be_set(self, schema: Any) -> bool:
        return False


def openapi(models: Sequence[str] = ()) -> dict[str, Any]:
    """The document. models: the names that requests may give."""
    bodies = {path: model for path, (model, _) in REQUESTS.items()}
    answers = dict.fromkeys([ErrorAnswer, *(m for one in ENDPOINTS for m in (one.answer, one.event) if m is not None)])
    wanted = [(model, "validation") for model in [*bodies.values(), *answers]]
    _, definitions = models_json_schema(wanted, ref_template=_REFERENCES, schema_generator=_Untitled)  # pyright: ignore[reportArgumentType]
    schemas = definitions["$defs"]
    for model in bodies.values():
        if models and "model" in model.model_fields:
            schemas[model.__name__]["properties"]["model"]["examples"] = list(models)
    paths: dict[str, Any] = {}
    for one in ENDPOINTS:
        paths.setdefault(one.path, {})[one.method] = _operation(one, bodies.get(one.path))
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "smidgen", "version": __version__,
            "description": "A model on this machine, for programs that speak OpenAI's or Anthropic's dialect.",
        },
        "paths": paths,
        "components": {
            "schemas": schemas,
            "securitySchemes": {"key": {"type": "http", "scheme": "bearer"}},
        },
        "security": [{"key": []}, {}],
    }  # fmt: skip


def _operation(one: Endpoint, body: type[BaseModel] | None) -> dict[str, Any]:
    content: dict[str, Any] = {}
    if one.answer is not None:
        content["application/json"] = {"schema": _reference(one.answer)}
    elif one.media is not None:
        content[one.media] = {"schema": {"type": "string"} if one.media != "application/json" else {"type": "object"}}
    if one.event is not None:
        content["text/event-stream"] = {"x-event": _reference(one.event)}  # 3.1 has no schema of single events
    operation: dict[str, Any] = {
        "operationId": one.name, "summary": one.summary, "tags": [one.part],
        "responses": {"200": {"description": one.returns, "content": content}}
        | {status: _refusal(said) for status, said in _REFUSED.items()},
    }  # fmt: skip
    if one.path == _PUBLIC:
        operation["security"] = []
    if body is not None:
        operation["requestBody"] = {"required": True, "content": {"application/json": {"schema": _reference(body)}}}
        operation["responses"]["200"]["headers"] = {
            "X-Smidgen-Warning": {"description": "Fields that had no effect.", "schema": {"type": "string"}}
        }
    parameters = [
        {"name": name, "in": where, "required": where == "path", "schema": {"type": "string"}, "description": said}
        for name, where, said in one.parameters
    ]
    return operation | ({"parameters": parameters} if parameters else {})


def _reference(model: type[BaseModel]) -> dict[str, str]:
    return {"$ref": _REFERENCES.format(model=model.__name__)}


def _refusal(said: str) -> dict[str, Any]:
    return {
        "description": said,
        "content": {"application/json": {"schema": {"$ref": _REFERENCES.format(model="ErrorAnswer")}}},
    }
