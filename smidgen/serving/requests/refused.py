"""Fields that are not taken, and how a field that is wrong is told."""

import difflib
from collections.abc import Iterable
from typing import Any

from pydantic import BaseModel, ValidationError

from smidgen.serving.refusals import Refusal
from smidgen.serving.requests.conversations import shown

_SERVERS_OWN = "is the server's own matter"
_ONE_MODEL = "would change what others get"
_WHY = {
    "id_slot": _SERVERS_OWN, "n_keep": _SERVERS_OWN, "n_discard": _SERVERS_OWN, "n_cache_reuse": _SERVERS_OWN,
    "slot_id": _SERVERS_OWN, "lora": _ONE_MODEL, "verbose": "would show the server's state",
    "timings_per_token": "would show the server's state", "return_progress": "would show the server's state",
    "chat_template": "is the model's own here", "grammar_lazy": _SERVERS_OWN, "grammar_triggers": _SERVERS_OWN,
    "grammar_type": _SERVERS_OWN, "preserved_tokens": _SERVERS_OWN, "generation_prompt": _SERVERS_OWN,
    "chat_parser": _SERVERS_OWN, "chat_format": _SERVERS_OWN, "parse_tool_calls": _SERVERS_OWN,
    "backend_sampling": _SERVERS_OWN, "t_max_predict_ms": "is not carried out here; use max_tokens",
    "functions": "is the older way; use tools", "function_call": "is the older way; use tools and tool_choice",
    "suffix": "is not carried out by completions; use /infill", "n_probs": "is llama.cpp's name; use logprobs",
    "n_predict": "is llama.cpp's name; use max_tokens", "audio": "is not carried out: this model writes text only",
    "web_search_options": "is not carried out: nothing here searches the web",
    "previous_response_id": "is not carried out: nothing is kept here; send the whole conversation",
    "conversation": "is not carried out: nothing is kept here; send the whole conversation",
    "mcp_servers": "is not carried out: nothing here calls others",
    "container": "is not carried out: nothing here runs programs",
    "context_management": "is not carried out: nothing is dropped here",
    "output_config": "is not carried out by messages; use /v1/chat/completions with response_format",
    "output_format": "is not carried out by messages; use /v1/chat/completions with response_format",
    "repetition_penalty": "is called repeat_penalty here", "max_new_tokens": "is called max_tokens here",
    "guided_json": "is called json_schema here", "guided_grammar": "is called grammar here",
    "stop_token_ids": "is not carried out here; use stop",
}  # fmt: skip


def refuse_unknown(body: dict[str, Any], model: type[BaseModel]) -> None:
    """Raises Refusal for the first field that a request of this kind does not have; null counts as absent."""
    known = model.model_fields
    for name, value in body.items():
        if name not in known and value is not None:
            why = f"{_WHY[name]}; leave it out." if name in _WHY else _unknown(name, known)
            raise Refusal(f"{shown(name)} {why}", param=shown(name), code="unknown_field")


def _unknown(name: str, known: Iterable[str]) -> str:
    close = difflib.get_close_matches(name[:64].lower(), known, 1, 0.7)
    return f"is not known here; did you mean {close[0]}?" if close else "is not known here; leave it out."


def as_refusal(error: ValidationError, body: Any) -> Refusal:
    """The first thing that is wrong, by its field in the body."""
    found = error.errors(include_url=False, include_input=False)[0]
    where, value = _placed(found, body)
    if found["type"].startswith("union_tag"):
        where += "." + found.get("ctx", {})["discriminator"].strip("'")
    said = _said(found, value)
    return Refusal(f"{where} {said}." if where else f"the request {said}.", param=where or None)


def _placed(found: Any, body: Any) -> tuple[str, Any]:
    """A field as people write it (`messages[2].content`), and its value. Names of alternatives are no part of it."""
    where, value, parts = "", body, found["loc"]
    for place, part in enumerate(parts):
        is_missing = place == len(parts) - 1 and found["type"] == "missing"
        if isinstance(part, int):
            where, value = f"{where}[{part}]", value[part] if isinstance(value, list) else None
        elif isinstance(value, dict) and (part in value or is_missing):
            where, value = f"{where}.{shown(part)}".lstrip("."), value.get(part)
    return where, value


def _said(found: Any, value: Any) -> str:
    """What is wrong, without the value: it may be a person's text."""
    kind, context = found["type"], found.get("ctx", {})
    match kind:
        case "missing":
            return "is missing"
        case "kind" | "value_error":
            return str(context["error"]) if kind == "value_error" else found["msg"]
        case "string_type":
            return "must be a text"
        case "int_type":
            return "must be a whole number"
        case "float_type":
            return "must be a number"
        case "bool_type":
            return "must be true or false"
        case "list_type":
            return "must be a list"
        case "dict_type" | "model_type" | "model_attributes_type":
            return "must be an object"
        case "finite_number":
            return "must be a finite number"
        case "greater_than_equal":
            return f"must be at least {context['ge']:g}"
        case "greater_than":
            return f"must be above {context['gt']:g}"
        case "less_than_equal":
            return f"must be at most {context['le']:.10g}"
        case "too_short":
            return f"needs at least {context['min_length']} {_entries(context['min_length'])}"
        case "too_long":
            return f"has more than {context['max_length']} entries"
        case "string_too_short":
            return "must not be empty"
        case "string_too_long":
            return f"has more than {context['max_length']} characters"
        case "string_pattern_mismatch":
            return "must be a name of letters, digits and the signs _ . : / -"
        case "extra_forbidden":
            return "is not known here; leave it out"
        case "literal_error":
            return _bad_word(context["expected"], value)
        case "union_tag_not_found":
            return "is missing"
        case "union_tag_invalid":
            return _bad_tag(context)
        case _:
            return f"is wrong: {found['msg'][:1].lower()}{found['msg'][1:]}"


def _entries(count: int) -> str:
    return "entry" if count == 1 else "entries"


def _bad_word(expected: str, value: Any) -> str:
    """Of a field that has one of a few words. It is no text of a person, so that it may be shown."""
    listed = {"False": "false", "True": "true"}.get(expected, expected).replace("'", "")
    given = f"is {shown(str(value))!r}, but " if isinstance(value, str) else ""
    return f"{given}must be {listed}"


def _bad_tag(context: dict[str, Any]) -> str:
    """Of a role, or of a kind of part."""
    given, listed = shown(str(context["tag"])), context["expected_tags"].replace("'", "")
    hint = "; this model reads text only" if _is_media(given) else ""
    return f"is {given!r}, but must be {listed.replace(', ', ' or ')}{hint}"


def _is_media(kind: str) -> bool:
    return any(word in kind for word in ("image", "audio", "video", "file", "document"))
