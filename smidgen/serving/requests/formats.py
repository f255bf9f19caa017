"""What the answer must be made of: a JSON schema or a grammar, wherever the request says so.

A schema becomes a grammar here (see schemas.py), and llama.cpp is told of that alone: given the schema itself, it wraps
the answer into what the model's template is used to, and fails at an answer that is cut off.
"""

from typing import Any

from smidgen.serving.refusals import Refusal
from smidgen.serving.requests.schemas import grammar_of

_ANY_OBJECT = {"type": "object"}


def pop_schema(body: dict[str, Any], name: str = "response_format") -> Any:
    """Take the schema out of a checked body and put its grammar in. None where there is no schema.

    name: the field that has the response format. Raises Refusal for two that contradict each other, and for a schema
    that cannot be enforced.
    """
    wanted = body.pop("response_format", None)
    given = [key for key in ("json_schema", "grammar") if key in body]
    if wanted is not None and wanted["type"] != "text":
        given.append(name)
    if len(given) > 1:
        raise Refusal(f"{' and '.join(given)} cannot both be followed; give one of them.", param=given[0])
    if "json_schema" in body:
        schema, where = body.pop("json_schema"), "json_schema"
    elif wanted is not None:
        schema, where = _schema_of(wanted, name)
    else:
        return None
    if schema is not None:
        body["grammar"] = grammar_of(schema, where)
    return schema


def _schema_of(wanted: dict[str, Any], name: str) -> tuple[Any, str]:
    """The schema of a response format, and its place."""
    kind, inner, schema = wanted["type"], wanted.get("json_schema"), wanted.get("schema")
    if inner is not None and kind != "json_schema":
        raise Refusal(f"{name} has a json_schema, but its type is {kind}; make it json_schema.", param=f"{name}.type")
    if kind == "text":
        if schema is not None:
            raise Refusal(f"{name} has a schema, but its type is text; make it json_schema.", param=f"{name}.type")
        return None, name
    where = f"{name}.schema"
    if inner is not None:
        schema, where = inner.get("schema"), f"{name}.json_schema.schema"
    if schema is None and kind == "json_schema":
        raise Refusal(f"{name} of type json_schema needs a schema.", param=where)
    return (_ANY_OBJECT, name) if schema is None else (schema, where)


def refuse_beside_tools(body: dict[str, Any], schema: Any, tools: list[Any], choice: str, name: str) -> None:
    """Raises Refusal for what llama.cpp cannot hold an answer to where the model may also call tools.

    Where it must call one, a schema has nothing to say, and goes.
    """
    if not tools or "grammar" not in body:
        return
    if schema is not None and choice == "required":
        del body["grammar"]
        return
    field = "grammar" if schema is None else name
    raise Refusal(
        f"{field} cannot be enforced where the model may also call tools; leave the tools out, or make tool_choice "
        "none or required.",
        param=field,
    )
