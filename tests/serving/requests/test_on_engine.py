"""What a request asks of llama.cpp happens there: on a model with random weights, which keeps to nothing by itself."""
# ruff: noqa: E501 - one case, one line

import json
from dataclasses import replace
from datetime import datetime, time
from typing import Any

import jsonschema
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from smidgen.engines.llama_cpp.server import LlamaServer
from smidgen.serving.refusals import Refusal
from smidgen.serving.requests.asked import Asked
from smidgen.serving.requests.forcing import PROBE, begun_with, opening_of_calls
from smidgen.serving.requests.reading import read_request
from smidgen.serving.requests.schemas import grammar_of

CHECKER = jsonschema.FormatChecker(["date", "email", "ipv4", "uuid"])
for _name, _read in (("date-time", datetime.fromisoformat), ("time", time.fromisoformat)):
    CHECKER.checks(_name, ValueError)(lambda text, read=_read: not isinstance(text, str) or bool(read(text)))
ASKED = [{"role": "user", "content": "Hi"}]
TOOLS = [
    {
        "type": "function",
        "function": {
            "name": name,
            "parameters": {
                "type": "object",
                "properties": {"city": {"type": "string", "maxLength": 5}, "days": {"enum": [1, 2]}},
                "required": ["city", "days"],
            },
        },
    }
    for name in ("weather", "news")
]
RANDOM = {"temperature": 5, "samplers": ["temperature"]}
# Bytes that end texts and lists are likelier, so that answers come to an end.
ENDS = {str(4 + ord(sign)): 4 for sign in '"]}0123456789'}
# A control token within a text counts for llama.cpp's grammars with its name, and is then not shown; no trained model
# writes one there.
NO_CONTROL = {"2": -1000, "3": -1000}


def written(engine: LlamaServer, grammar: str, seed: int) -> str | None:
    """A text of the grammar; None for one that is cut off, or has bytes that are no text (the model knows only bytes)."""
    body = {
        "prompt": [1, 2],
        "grammar": grammar,
        "n_predict": 600,
        "seed": seed,
        "logit_bias": ENDS | NO_CONTROL,
        **RANDOM,
    }
    answer = engine.call("/completion", body)
    return None if answer["stop_type"] != "eos" or "\ufffd" in answer["content"] else answer["content"]


NAMES = st.sampled_from(["a", "ab", "b", 'q"', "\u00e9", "a b"])
FORMATS = st.sampled_from(["date", "time", "date-time", "uuid", "ipv4", "email", "hostname"])
PATTERNS = st.sampled_from(
    ["^a+$", "a", "^[a-c]{2,4}$", "^(x|yz)?$", r"^\d{3}-\d+$", r'^[^a]"\\?$', r"^\w.\s$", "b$", "^[^\\d]{2}", r"^\t\.$"]
)  # fmt: skip


@st.composite
def _numbers(draw: st.DrawFn) -> dict[str, Any]:
    kind = draw(st.sampled_from(["integer", "number"]))
    low, size = draw(st.integers(-1200, 1200)), draw(st.integers(1, 400))
    least = draw(st.sampled_from([{}, {"minimum": low}, {"exclusiveMinimum": low}]))
    most = draw(st.sampled_from([{}, {"maximum": low + size}, {"exclusiveMaximum": low + size + 1}]))
    return {"type": kind, **least, **most}


def _texts() -> st.SearchStrategy[dict[str, Any]]:
    sizes = st.tuples(st.integers(0, 3), st.integers(3, 6)).map(lambda two: {"minLength": two[0], "maxLength": two[1]})
    bounds = st.one_of(
        sizes, FORMATS.map(lambda one: {"format": one}), PATTERNS.map(lambda one: {"pattern": one}), st.just({})
    )
    return bounds.map(lambda one: {"type": "string", **one})


VALUES = st.sampled_from([None, True, 0, -3, 1.5, "a", 'x"\\\n', [1], {"k": "v"}])
SIMPLE = st.one_of(
    _texts(), _numbers(), st.sampled_from([{"type": "null"}, {"type": "boolean"}, {"type": ["boolean", "null"]}]),
    st.lists(VALUES, min_size=1, max_size=3).map(lambda values: {"enum": values}),
    VALUES.map(lambda value: {"const": value}),
)  # fmt: skip


def _deeper(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    counts = st.tuples(st.integers(0, 2), st.integers(2, 3))
    lists = st.tuples(inner, counts).map(
        lambda both: {"type": "array", "items": both[0], "minItems": both[1][0], "maxItems": both[1][1]}
    )
    tuples = st.lists(inner, min_size=1, max_size=3).map(lambda few: {"type": "array", "prefixItems": few})
    members = st.dictionaries(NAMES, inner, max_size=3)
    objects = st.tuples(
        members, st.lists(NAMES, max_size=2, unique=True), st.sampled_from([None, False, inner])
    ).flatmap(
        lambda all: (st.just(None) if all[2] is None else st.just(False) if all[2] is False else inner).map(
            lambda extra: (
                {"type": "object", "properties": all[0], "required": all[1]}
                | ({} if extra is None else {"additionalProperties": extra})
            )
        )
    )
    several = st.lists(inner, min_size=1, max_size=3)
    return st.one_of(
        lists, tuples, objects, several.map(lambda few: {"anyOf": few}), several.map(lambda few: {"oneOf": few}),
        st.lists(objects, min_size=2, max_size=2).map(lambda two: {"allOf": two}),
    )  # fmt: skip


@settings(max_examples=100, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.recursive(SIMPLE, _deeper, max_leaves=6), st.integers(0, 1000))
def test_what_is_written_follows_the_schema(engine: LlamaServer, schema: dict[str, Any], seed: int) -> None:
    try:
        grammar = grammar_of(schema, "response_format")
    except Refusal:
        assume(False)
        return
    text = written(engine, grammar, seed)
    if text is not None:
        jsonschema.validate(json.loads(text), schema, format_checker=CHECKER)


def required(tool_choice: Any, **more: Any) -> Asked:
    body = {"messages": ASKED, "tools": TOOLS, "tool_choice": tool_choice, "max_tokens": 500, "seed": 1, **more}
    return read_request("/v1/chat/completions", body)


@pytest.fixture(scope="module")
def opening(engine: LlamaServer) -> str:
    found = opening_of_calls(engine.call("/v1/chat/completions", PROBE))
    assert found is not None and found.startswith("<tool_call>")
    return found


@pytest.mark.parametrize("seed", range(3))
def test_a_named_tool_is_called(engine: LlamaServer, opening: str, seed: int) -> None:
    asked = begun_with(required({"type": "function", "function": {"name": "news"}}, parallel_tool_calls=False), opening)
    [choice] = engine.call("/v1/chat/completions", {**asked.body, "seed": seed, "logit_bias": ENDS})["choices"]
    assert not choice["message"]["content"]
    for call in choice["message"]["tool_calls"]:
        assert call["function"]["name"] == "news"
    arguments = json.loads(choice["message"]["tool_calls"][0]["function"]["arguments"])
    assert len(arguments["city"]) <= 5 and arguments["days"] in (1, 2)


def test_some_tool_is_called(engine: LlamaServer, opening: str) -> None:
    asked = begun_with(required("required"), opening)
    [choice] = engine.call("/v1/chat/completions", {**asked.body, "logit_bias": ENDS})["choices"]
    assert choice["message"]["tool_calls"][0]["function"]["name"] in ("weather", "news")


def test_a_named_tool_is_called_in_the_other_dialects(engine: LlamaServer, opening: str) -> None:
    tools = [{"type": "function", **tool["function"]} for tool in TOOLS]
    asked = read_request(
        "/v1/responses",
        {
            "input": "Hi",
            "tools": tools,
            "tool_choice": {"type": "function", "name": "news"},
            "logit_bias": ENDS,
            "seed": 2,
        },
    )
    answer = engine.call("/v1/responses", begun_with(asked, opening).body)
    assert [one["name"] for one in answer["output"] if one["type"] == "function_call"][0] == "news"
    tools = [{"name": one["name"], "input_schema": one["parameters"]} for one in tools]
    body = {"messages": ASKED, "tools": tools, "tool_choice": {"type": "tool", "name": "news"}, "max_tokens": 1000}
    asked = begun_with(read_request("/v1/messages", body), opening)
    rendered = engine.call("/v1/messages/count_tokens", {key: asked.body[key] for key in ("messages", "tools")})
    assert rendered["input_tokens"] > len(opening) and asked.body["messages"][-1]["content"] == opening


def test_other_requests_stay_as_they_are(opening: str) -> None:
    for asked in (required("auto"), required("none"), replace(required("required"), tools=None)):
        assert begun_with(asked, opening) is asked


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/completions", "/v1/responses"])
@pytest.mark.parametrize("limit", [3, 500])
def test_a_schema_is_kept_to_wherever_it_stands(engine: LlamaServer, path: str, limit: int) -> None:
    schema = {"type": "object", "properties": {"name": {"pattern": "^[a-z]{4}$"}}, "required": ["name"]}
    wanted = {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}
    bodies = {
        "/v1/chat/completions": {"messages": ASKED, "response_format": wanted, "max_tokens": limit, "seed": 1},
        "/v1/completions": {"prompt": "Hi", "response_format": wanted, "max_tokens": limit, "seed": 1},
        "/v1/responses": {
            "input": "Hi", "text": {"format": {"type": "json_schema", "name": "x", "schema": schema}},
            "max_output_tokens": limit, "seed": 1,
        },
    }  # fmt: skip
    answer = engine.call(path, read_request(path, bodies[path]).body)
    if path == "/v1/responses":
        text = "".join(part["text"] for one in answer["output"] if one["type"] == "message" for part in one["content"])
    else:
        [choice] = answer["choices"]
        text = choice["text"] if "text" in choice else choice["message"]["content"]
    assert text.startswith("{")
    if limit > 3:
        jsonschema.validate(json.loads(text), schema)


def test_every_sampler_is_known_to_llama_cpp(engine: LlamaServer) -> None:
    body = {
        "messages": ASKED, "max_tokens": 2, "temperature": 0.7, "top_p": 0.9, "seed": 5, "presence_penalty": 0.5,
        "frequency_penalty": 0.5, "logit_bias": {"5": -100}, "top_k": -1, "min_p": 0.1, "typical_p": 0.9, "top_n_sigma": 1,
        "xtc_probability": 0.1, "xtc_threshold": 0.2, "dynatemp_range": 0.1, "dynatemp_exponent": 1.5,
        "repeat_penalty": 1.1, "repeat_last_n": 64, "dry_multiplier": 0.5, "dry_base": 1.75, "dry_allowed_length": 2,
        "dry_penalty_last_n": 64, "dry_sequence_breakers": ["\n"], "mirostat": 0, "mirostat_tau": 5, "mirostat_eta": 0.1,
        "adaptive_target": -1, "adaptive_decay": 0.9, "min_keep": 1, "samplers": ["dry", "top_k", "typ_p", "xtc"],
        "ignore_eos": True, "stop": ["zzz"], "logprobs": True, "top_logprobs": 2,
    }  # fmt: skip
    asked = read_request("/v1/chat/completions", body)
    told = engine.call("/v1/chat/completions", {**asked.body, "verbose": True})["__verbose"]["generation_settings"]
    for name, value in body.items():
        if name in told and name not in ("top_k", "logit_bias", "samplers", "stop", "seed"):
            assert told[name] == pytest.approx(value), name
    assert told["seed"] == 5 and told["top_k"] == 0 and told["samplers"] == ["dry", "top_k", "typ_p", "xtc"]
    for repeats in (-1, 0):
        back = read_request("/v1/chat/completions", {"messages": ASKED, "max_tokens": 1, "repeat_last_n": repeats}).body
        engine.call("/v1/chat/completions", back)
