"""The page /docs: every endpoint with its fields, made of the OpenAPI document.

It needs nothing from elsewhere: no script, no font, no other request.
"""

import json
from html import escape
from typing import Any

_STYLE = """
:root { color-scheme: light dark; --line: color-mix(in srgb, currentColor 18%, transparent);
        --soft: color-mix(in srgb, currentColor 6%, transparent);
        --quiet: color-mix(in srgb, currentColor 66%, transparent) }
* { box-sizing: border-box }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 54rem; margin: 0 auto; padding: 1rem;
       background: Canvas; color: CanvasText }
h1 { margin: .5rem 0 } h2 { margin: 2rem 0 .5rem } p { margin: .5rem 0 }
code, pre { font: 14px/1.45 ui-monospace, monospace }
pre { background: var(--soft); padding: .75rem; border-radius: 6px; white-space: pre-wrap; overflow-wrap: anywhere }
details { border: 1px solid var(--line); border-radius: 6px; margin: .5rem 0; padding: 0 .75rem }
summary { padding: .6rem 0; cursor: pointer; overflow-wrap: anywhere }
summary b { display: inline-block; min-width: 3.2rem; text-transform: uppercase; font-size: 12px;
            color: var(--quiet) }
dl { margin: 0 0 .75rem }
dt { margin-top: .5rem; overflow-wrap: anywhere } dd { margin: 0 0 0 1rem; color: var(--quiet) }
small { color: var(--quiet) } nav { overflow-wrap: anywhere }
"""
_EXAMPLE = {"messages": [{"role": "user", "content": "Why is the sky blue?"}], "max_tokens": 100}


def docs_page(document: dict[str, Any], address: str) -> str:
    """The page of an OpenAPI document of ours.  address: of the server, `http://host:port`."""
    schemas = document["components"]["schemas"]
    parts = [_head(document, address)]
    for part in dict.fromkeys(one["tags"][0] for _, _, one in _operations(document)):
        parts.append(f"<h2>{escape(part)}</h2>")
        parts += [
            _endpoint(method, path, operation, schemas)
            for method, path, operation in _operations(document)
            if operation["tags"][0] == part
        ]
    parts.append("<h2>Objects</h2>")
    parts += [_object(name, schema, schemas) for name, schema in sorted(schemas.items())]
    body = "\n".join(parts)
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>smidgen serves</title><style>{_STYLE}</style></head>\n<body>{body}</body></html>\n"
    )


def _head(document: dict[str, Any], address: str) -> str:
    info = document["info"]
    example = (
        f"curl -s {address}/v1/chat/completions -H 'Content-Type: application/json' \\\n  -d '{json.dumps(_EXAMPLE)}'"
    )
    return (
        f"<h1>smidgen {escape(info['version'])}</h1><p>{escape(info['description'])}</p>"
        "<p>Where the server has keys, add "
        "<code>-H 'Authorization: Bearer KEY'</code>. Programs read "
        '<a href="/openapi.json">openapi.json</a>.</p>'
        f"<pre>{escape(example)}</pre>"
        "<p>A field that is null counts as absent. A field that is not listed is refused by its name. A field that has "
        "no effect here is named in the header <code>X-Smidgen-Warning</code>.</p>"
    )


def _operations(document: dict[str, Any]) -> list[tuple[str, str, dict[str, Any]]]:
    return [(method, path, one) for path, methods in document["paths"].items() for method, one in methods.items()]


def _endpoint(method: str, path: str, operation: dict[str, Any], schemas: dict[str, Any]) -> str:
    inner = [f"<p>{escape(operation['summary'])} {escape(operation['responses']['200']['description'])}</p>"]
    for parameter in operation.get("parameters", []):
        inner.append(f"<p><code>{escape(parameter['name'])}</code>: {escape(parameter['description'])}</p>")
    body = operation.get("requestBody")
    if body is not None:
        inner.append(_fields(_resolved(body["content"]["application/json"]["schema"], schemas)))
    answered = operation["responses"]["200"]["content"].get("application/json", {}).get("schema", {})
    if "$ref" in answered:
        inner.append(f"<p>It answers with {_kind(answered)}.</p>")
    return (
        f"<details><summary><b>{escape(method)}</b> <code>{escape(path)}</code> "
        f"<small>{escape(operation['summary'])}</small></summary>{''.join(inner)}</details>"
    )


def _object(name: str, schema: dict[str, Any], schemas: dict[str, Any]) -> str:
    said = f"<p>{escape(schema['description'])}</p>" if "description" in schema else ""
    return (
        f'<details id="{escape(name)}"><summary><code>{escape(name)}</code></summary>{said}{_fields(schema)}</details>'
    )


def _fields(schema: dict[str, Any]) -> str:
    required = schema.get("required", [])
    found = [
        f"<dt><code>{escape(name)}</code> <small>{_kind(field)}{', required' if name in required else ''}</small></dt>"
        f"<dd>{escape(field.get('description', ''))}</dd>"
        for name, field in schema.get("properties", {}).items()
    ]
    return f"<dl>{''.join(found)}</dl>" if found else ""


def _resolved(schema: dict[str, Any], schemas: dict[str, Any]) -> dict[str, Any]:
    return schemas[schema["$ref"].rpartition("/")[2]] if "$ref" in schema else schema


def _kind(field: dict[str, Any]) -> str:
    """In words: which values a field has."""
    if "$ref" in field:
        name = escape(field["$ref"].rpartition("/")[2])
        return f'<a href="#{name}">{name}</a>'
    for key in ("anyOf", "oneOf"):
        if key in field:
            return " or ".join(dict.fromkeys(_kind(one) for one in field[key] if one.get("type") != "null"))
    if "const" in field:
        return escape(json.dumps(field["const"]))
    if "enum" in field:
        return " or ".join(escape(json.dumps(one)) for one in field["enum"])
    kind = field.get("type", "anything")
    if kind == "array":
        return f"list of {_kind(field.get('items', {}))}"
    words = {"string": "text", "integer": "whole number", "boolean": "true or false"}
    return words.get(kind, escape(str(kind))) + _range(field)


def _range(field: dict[str, Any]) -> str:
    low, high = field.get("minimum", field.get("exclusiveMinimum")), field.get("maximum")
    if low is None and high is None:
        return ""
    return f", {low:g} to {high:g}" if low is not None and high is not None else f", from {low or 0:g}"
