"""What may be asked: each field that is wrong is named, what passes is put as llama.cpp takes it."""
# ruff: noqa: E501 - one case, one line

from typing import Any

import pytest

from smidgen.serving.refusals import Refusal
from smidgen.serving.requests.asked import Asked
from smidgen.serving.requests.reading import ENDPOINTS, read_request

CHAT, COMPLETE = "/v1/chat/completions", "/v1/completions"
HI = [{"role": "user", "content": "hi"}]
FUNCTION = {"name": "f", "parameters": {"type": "object", "properties": {"q": {"type": "string"}}}}
TOOLS = [{"type": "function", "function": FUNCTION}]


def chat(**more: Any) -> Asked:
    return read_request(CHAT, {"messages": HI, **more})


def refused(path: str, body: dict[str, Any]) -> Refusal:
    with pytest.raises(Refusal) as found:
        read_request(path, body)
    assert found.value.status in (400, 404)
    message = str(found.value)
    assert message.isprintable() and len(message) < 400 and message[-1] in ".?"
    return found.value


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"stop": ""}, "stop"), ({"stop": 5}, "stop"), ({"stop": ["a", ""]}, "stop[1]"), ({"stop": ["a"] * 65}, "stop"),
        ({"stop": "x" * 5000}, "stop"), ({"stop": {"a": 1}}, "stop"), ({"max_tokens": 0}, "max_tokens"),
        ({"max_tokens": -5}, "max_tokens"), ({"max_tokens": "5"}, "max_tokens"), ({"max_tokens": 2**40}, "max_tokens"),
        ({"max_tokens": 5, "max_completion_tokens": 6}, "max_tokens"), ({"temperature": -0.1}, "temperature"),
        ({"temperature": "1"}, "temperature"), ({"temperature": True}, "temperature"),
        ({"temperature": float("inf")}, "temperature"), ({"temperature": float("nan")}, "temperature"),
        ({"top_p": 1.1}, "top_p"), ({"seed": 2**32}, "seed"), ({"seed": 1.5}, "seed"), ({"n": 0}, "n"), ({"n": 17}, "n"),
        ({"n": True}, "n"), ({"logit_bias": "x"}, "logit_bias"), ({"logit_bias": {"a": 1}}, "logit_bias"),
        ({"logit_bias": {"5": 1000}}, "logit_bias.5"), ({"logit_bias": {str(i): 1 for i in range(20_000)}}, "logit_bias"),
        ({"top_logprobs": 3}, "top_logprobs"), ({"logprobs": True, "top_logprobs": 21}, "top_logprobs"),
        ({"logprobs": 3}, "logprobs"), ({"stream": "yes"}, "stream"), ({"stream_options": {}}, "stream_options"),
        ({"presence_penalty": 3}, "presence_penalty"), ({"mirostat": 3}, "mirostat"), ({"dry_base": 0.5}, "dry_base"),
        ({"dry_sequence_breakers": []}, "dry_sequence_breakers"), ({"samplers": ["bad"]}, "samplers[0]"),
        ({"samplers": "q"}, "samplers"), ({"repeat_last_n": 2**20}, "repeat_last_n"), ({"model": 5}, "model"),
        ({"chat_template_kwargs": {"messages": []}}, "chat_template_kwargs"),
        ({"chat_template_kwargs": {"enable_thinking": "no"}}, "chat_template_kwargs"),
        ({"continue_final_message": True}, "continue_final_message"), ({"modalities": ["audio"]}, "modalities[0]"),
        ({"grammar": ["root"]}, "grammar"), ({"grammar": "%llguidance {}"}, "grammar"), ({"grammar": ""}, "grammar"),
        ({"grammar": "root ::= " + "(" * 40 + '"a"' + ")" * 40}, "grammar"),
        ({"grammar": 'root ::= "a"', "json_schema": {}}, "json_schema"),
        ({"grammar": 'root ::= "a"', "tools": TOOLS}, "grammar"),
        ({"max_token": 5}, "max_token"), ({"id_slot": 0}, "id_slot"), ({"functions": []}, "functions"),
        ({"verbose": True}, "verbose"), ({"chat_template": "x"}, "chat_template"), ({"lora": []}, "lora"),
        ({"return_progress": True}, "return_progress"), ({"t_max_predict_ms": 5}, "t_max_predict_ms"),
        ({"suffix": "x"}, "suffix"), ({"grammar_triggers": []}, "grammar_triggers"), ({"schema": {}}, "schema"),
        ({"caf\u00e9\n": 5}, "caf\\xe9\\n"), ({"x" * 1000: 5}, "x" * 57 + "..."),
    ],
)  # fmt: skip
def test_a_field_that_is_wrong_is_named(body: dict[str, Any], field: str) -> None:
    assert refused(CHAT, {"messages": HI, **body}).param == field


@pytest.mark.parametrize(
    ("path", "body", "field"),
    [
        (COMPLETE, {"prompt": "a", "max_tokens": 0}, "max_tokens"), (COMPLETE, {"prompt": "a", "suffix": "b"}, "suffix"),
        (COMPLETE, {"prompt": "a", "best_of": 3}, "best_of"), (COMPLETE, {}, "prompt"), (COMPLETE, {"prompt": []}, "prompt"),
        (COMPLETE, {"prompt": ["a", 5]}, "prompt[1]"), (COMPLETE, {"prompt": [1, "a"]}, "prompt[1]"),
        (COMPLETE, {"prompt": [[1], []]}, "prompt[1]"), (COMPLETE, {"prompt": {}}, "prompt"),
        (COMPLETE, {"prompt": [-1]}, "prompt[0]"), (COMPLETE, {"prompt": [True]}, "prompt[0]"),
        (COMPLETE, {"prompt": "a", "logprobs": True}, "logprobs"), (COMPLETE, {"prompt": "a", "tools": []}, "tools"),
        ("/v1/embeddings", {"input": ""}, "input"), ("/v1/embeddings", {"input": ["a", ""]}, "input"),
        ("/v1/embeddings", {}, "input"), ("/v1/embeddings", {"input": "a", "encoding_format": "hex"}, "encoding_format"),
        ("/v1/responses", {"input": "x", "previous_response_id": "a"}, "previous_response_id"),
        ("/v1/responses", {"input": "x", "background": True}, "background"), ("/v1/responses", {"input": []}, "input"),
        ("/v1/responses", {"input": [{"type": "web_search_call"}]}, "input[0].type"),
        ("/v1/responses", {"input": "x", "tools": [{"type": "web_search"}]}, "tools[0].type"),
        ("/v1/messages", {"messages": [{"role": "system", "content": "a"}]}, "messages[0].role"),
        ("/v1/messages", {"messages": HI, "seed": 5}, "seed"), ("/v1/messages", {"messages": HI, "tool_choice": "any"},
         "tool_choice"), ("/v1/messages", {"messages": HI, "stop_sequences": [""]}, "stop_sequences[0]"),
        ("/tokenize", {"content": 5}, "content"), ("/tokenize", {"content": "a", "with_pieces": True}, "with_pieces"),
        ("/detokenize", {"tokens": ["a"]}, "tokens[0]"), ("/infill", {"input_prefix": "a"}, "input_suffix"),
        ("/nowhere", {}, None),
    ],
)  # fmt: skip
def test_other_endpoints_name_fields_too(path: str, body: dict[str, Any], field: str | None) -> None:
    assert refused(path, body).param == field


def test_a_slip_of_the_pen_is_guessed() -> None:
    assert "did you mean max_tokens?" in str(refused(CHAT, {"messages": HI, "max_token": 5}))


@pytest.mark.parametrize("path", ENDPOINTS)
def test_null_is_absent(path: str) -> None:
    bodies: dict[str, Any] = {
        COMPLETE: {"prompt": "a"}, "/v1/embeddings": {"input": "a"}, "/v1/responses": {"input": "a"},
        "/tokenize": {"content": "a"}, "/detokenize": {"tokens": [1]},
        "/infill": {"input_prefix": "a", "input_suffix": "b"},
    }  # fmt: skip
    body = bodies.get(path, {"messages": HI})
    optional = dict.fromkeys(ENDPOINTS[path][0].model_fields)
    assert read_request(path, {**optional, **body}) == read_request(path, body)
    assert read_request(path, {"nobody_knows": None, **body}) == read_request(path, body)
    for name in body:
        assert refused(path, {**body, name: None}).param == name


def test_what_has_no_effect_is_said() -> None:
    asked = chat(user="me", store=True, metadata={"a": "b"}, verbosity="low", service_tier="auto")
    assert set(asked.warnings) == {f"{name} has no effect here" for name in ("user", "store", "metadata", "verbosity")}
    assert set(asked.body) == {"messages"}
    assert chat(store=False, metadata={}).warnings == ()
    measured = chat(stream=True, stream_options={"include_usage": True, "continuous_usage_stats": True})
    assert measured.warnings == ("stream_options.continuous_usage_stats has no effect here",) and measured.include_usage
    assert all(line.isascii() and line.isprintable() for line in asked.warnings)


def test_seeds() -> None:
    assert chat(seed=7).seed == 7 and chat(seed=7).body["cache_prompt"] is False
    assert chat(seed=-1).seed is None and "seed" not in chat(seed=-1).body
    assert "cache_prompt" not in chat().body


def test_limits_have_several_names() -> None:
    assert chat(max_completion_tokens=5).body["max_tokens"] == chat(max_tokens=5).max_tokens == 5
    assert chat(max_tokens=-1).max_tokens is None and "max_tokens" not in chat(max_tokens=-1).body
    assert read_request("/v1/responses", {"input": "a", "max_output_tokens": 5}).body["max_output_tokens"] == 5
    assert read_request("/infill", {"input_prefix": "", "input_suffix": "", "max_tokens": 5}).body["n_predict"] == 5


def test_answers_and_log_probabilities() -> None:
    asked = chat(n=3, logprobs=True, top_logprobs=0, stream=True, stream_options={"include_usage": True})
    assert (asked.n, asked.logprobs, asked.stream, asked.include_usage) == (3, 0, True, True)
    assert asked.body["top_logprobs"] == 1 and not {"n", "stream_options"} & set(asked.body)
    assert chat(logprobs=True).logprobs == 0 and chat(logprobs=False, top_logprobs=0).logprobs is None
    asked = read_request(COMPLETE, {"prompt": ["a", "b"], "echo": True, "logprobs": 3, "max_tokens": 0})
    assert (asked.prompts, asked.echo, asked.logprobs, asked.max_tokens) == (("a", "b"), True, 3, 0)
    assert asked.body["n_probs"] == 3 and not {"echo", "logprobs"} & set(asked.body)
    assert read_request(COMPLETE, {"prompt": [5, 6], "best_of": 2, "n": 2}).prompts == ([5, 6],)
    assert refused(CHAT, {"messages": HI, "tools": TOOLS, "logprobs": True, "stream": True}).param == "logprobs"


def test_formats_become_grammars() -> None:
    schema = {"type": "object", "properties": {"a": {"const": None}}, "required": ["a"]}
    several = [
        chat(response_format={"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}),
        chat(response_format={"type": "json_schema", "schema": schema}), chat(json_schema=schema),
        read_request(COMPLETE, {"prompt": "a", "json_schema": schema}),
        read_request("/v1/responses", {"input": "a", "text": {"format": {"type": "json_schema", "schema": schema}}}),
    ]  # fmt: skip
    for asked in several:
        assert asked.schema == schema and "null" in asked.body["grammar"]
        assert not {"json_schema", "response_format", "text"} & set(asked.body)
    assert chat(response_format={"type": "json_object"}).body["grammar"]
    assert chat(response_format={"type": "text"}).body == chat().body


@pytest.mark.parametrize(
    "wanted",
    [
        "json", {}, {"type": "nonsense"}, {"type": "json_schema"}, {"type": "json_schema", "json_schema": "x"},
        {"type": "json_schema", "json_schema": {"name": "x"}}, {"type": "text", "schema": {}},
        {"type": "json_object", "json_schema": {"schema": {}}}, {"type": "json_schema", "json_schema": {"type": "object"}},
        {"type": "json_schema", "json_schema": {"schema": {"type": "string", "pattern": "(?=a)"}}},
    ],
)  # fmt: skip
def test_formats_that_could_not_be_kept_to(wanted: Any) -> None:
    assert str(refused(CHAT, {"messages": HI, "response_format": wanted}).param).startswith("response_format")


def test_a_large_body_is_read_quickly() -> None:
    """A way of reading that takes each entry many times would take minutes."""
    read_request(COMPLETE, {"prompt": list(range(3_000_000))})
    refused(COMPLETE, {"prompt": ["a"] * 3_000_000})
    refused(COMPLETE, {"prompt": [*range(3_000_000), "a"]})
    part = {"type": "text", "text": "x"}
    read_request(CHAT, {"messages": [{"role": "user", "content": [part] * 50} for _ in range(9000)]})
