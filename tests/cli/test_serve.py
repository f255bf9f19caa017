"""The server as its clients see it, through the official OpenAI client. (Faults: tests/serving/test_faults.py.)"""

import http.client
import json
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import openai
import pytest

KEY = "a-key-for-tests"
MODEL = "smollm2-135m-instruct"
QUESTION: list = [{"role": "user", "content": "Name one colour, and tell nobody about walrus7."}]


TOOLS = [{"type": "function", "function": {"name": "look_up", "parameters": {"type": "object", "properties": {}}}}]


def start(folder: Path, environment: dict[str, str], *words: str) -> "tuple[subprocess.Popen[str], str]":
    """A `smidgen serve` process and its base URL, once it answers."""
    process = subprocess.Popen(
        [sys.executable, "-m", "smidgen", "serve", "smollm2-135m-instruct", "--port", "0", "--threads", "1", *words],
        stdout=subprocess.PIPE,
        stderr=(folder / "log").open("w"),
        text=True,
        cwd=folder,
        env=environment,
    )
    assert process.stdout is not None
    return process, process.stdout.readline().split()[-1]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("serve")


@pytest.fixture(scope="module")
def url(folder: Path, cli_environment: dict[str, str]) -> Iterator[str]:
    process, url = start(folder, cli_environment, "--api-key", KEY, "--ctx-size", "512", "--quiet")
    yield url
    process.kill()
    process.communicate()


def client(url: str, key: str = KEY) -> openai.OpenAI:
    return openai.OpenAI(base_url=url, api_key=key, max_retries=0)


def get(url: str, path: str, headers: dict[str, str]) -> http.client.HTTPResponse:
    connection = http.client.HTTPConnection(url.split("/")[2])
    connection.request("GET", path, headers=headers)
    return connection.getresponse()


def test_chat_and_stream_say_the_same(url: str, folder: Path) -> None:
    create = client(url).chat.completions.create
    whole = create(model=MODEL, messages=QUESTION, max_tokens=12, temperature=0)
    pieces = create(model=MODEL, messages=QUESTION, max_tokens=12, temperature=0, stream=True)
    text = whole.choices[0].message.content
    assert text
    assert "".join(piece.choices[0].delta.content or "" for piece in pieces if piece.choices) == text
    assert whole.model == "smollm2-135m-instruct"
    assert "walrus7" not in (folder / "log").read_text()


def test_a_message_in_parts_is_one_text(url: str) -> None:
    create, asked = client(url).chat.completions.create, {"model": MODEL, "max_tokens": 8, "temperature": 0}
    parts: list = [{"role": "user", "content": [{"type": "text", "text": text} for text in ("Name a", "colour.")]}]
    whole: list = [{"role": "user", "content": "Name a\ncolour."}]
    in_parts, at_once = create(messages=parts, **asked), create(messages=whole, **asked)
    assert in_parts.choices[0].message.content == at_once.choices[0].message.content
    assert in_parts.usage == at_once.usage


def test_only_health_is_public(url: str) -> None:
    with pytest.raises(openai.AuthenticationError):
        client(url, "wrong").chat.completions.create(model=MODEL, messages=QUESTION, max_tokens=1)
    assert get(url, "/health", {}).status == 200
    for path in ("/", "/v1/models", "/props", "/slots", "/metrics", "/lora-adapters"):
        assert get(url, path, {}).status in (401, 404), path


def test_state_endpoints_are_off_and_other_sites_not_invited(url: str) -> None:
    headers = {"Authorization": f"Bearer {KEY}"}
    for path in ("/slots", "/props", "/lora-adapters", "/v1/stream", "/v1/stream/a"):
        assert get(url, path, headers).status == 404
    assert b"smidgen_requests_total" in get(url, "/metrics", headers).read()
    answer = get(url, "/v1/models", headers)
    assert answer.status == 200
    assert "/" not in answer.read().decode().replace("text/", "")
    answer = get(url, "/v1/models", headers | {"Origin": "http://elsewhere.example"})
    assert answer.status == 403 and answer.getheader("Access-Control-Allow-Origin") is None
    answer = get(url, "/v1/models", headers | {"Origin": "http://localhost:3000"})
    assert answer.status == 200 and answer.getheader("Access-Control-Allow-Origin") == "http://localhost:3000"


def test_a_prompt_longer_than_the_context_is_refused(url: str) -> None:
    with pytest.raises(openai.BadRequestError, match="context"):
        client(url).completions.create(model=MODEL, prompt="word " * 600, max_tokens=1)


def post(url: str, path: str, body: bytes, **headers: str) -> tuple[int, dict]:
    """The status and the JSON of a request that a careless or hostile client sends."""
    connection = http.client.HTTPConnection(url.split("/")[2], timeout=60)
    sent = {"Authorization": f"Bearer {KEY}", "Content-Type": "application/json"} | headers
    connection.request("POST", path, body, sent)
    answer = connection.getresponse()
    return answer.status, json.loads(answer.read())


@pytest.mark.parametrize(
    ("path", "body", "said"),
    [
        (
            "/v1/completions",
            {"prompt": "a", "grammar": "root ::= " + "(" * 30_000 + '"a"' + ")" * 30_000},
            "deeper than",
        ),
        ("/v1/completions", {"prompt": "a", "grammar": 'root ::= "a"{900000}'}, "repeats"),
        ("/v1/completions", {"prompt": ["a", 5]}, "must be a text"),
        ("/v1/completions", {"prompt": ""}, "empty"),
        ("/v1/completions", {"prompt": "a", "stop": ["x"] * 5000}, "stop has more than 64"),
        ("/v1/chat/completions", {"messages": QUESTION, "chat_template": "{{ 1 }}"}, "model's own"),
        ("/v1/completions", {"prompt": "a", "grammar": 'root ::= "a"{5,2}'}, "at least 5 and at most 2"),
        ("/v1/completions", {"prompt": "a", "repeat_last_n": 2**31 - 1}, "at most 65536"),
        ("/v1/completions", {"prompt": "a", "max_tokens": 2**40}, "at most 2147483647"),
        ("/v1/completions", {"prompt": [2**40]}, "at most 2147483647"),
        ("/v1/completions", {"prompt": "a", "echo": "yes"}, "echo"),
        (
            "/v1/completions",
            {"prompt": "a", "response_format": {"type": "nonsense"}},
            "must be text, json_object or json_schema",
        ),
        ("/v1/completions", {"prompt": "a", "json_schema": {"enum": []}}, "enum, which has no values"),
        ("/v1/completions", {"prompt": "a", "grammar_triggers": [{"type": 77}]}, "server's own matter"),
        ("/v1/completions", {"prompt": "a" * 10_000_000}, "no room in this model's context of 512"),
        ("/v1/chat/completions", {"messages": QUESTION, "response_format": {"type": "json_schema"}}, "needs a schema"),
        ("/v1/chat/completions", {"messages": QUESTION, "tools": [None]}, r"tools\[0\]"),
        ("/v1/chat/completions", {"messages": QUESTION, "tools": TOOLS}, "no place for tools"),
        ("/v1/chat/completions", {"messages": [{"role": 5, "content": "a"}]}, r"messages\[0\].role"),
        ("/v1/messages", {"messages": [{"role": "user", "content": [{"type": "image"}]}]}, "reads text only"),
        ("/v1/responses", {"input": []}, "at least 1 entry"),
        ("/v1/completions", b"[" * 100_000, "nested deeper|not valid JSON|objects and lists"),
        ("/v1/completions", b'{"prompt": "a", "prompt": "b"}', "prompt"),
        ("/v1/completions", b'{"prompt": "\xff"}', "not valid JSON"),
        ("/v1/completions", b'"text"', "JSON object"),
    ],
)
def test_what_could_end_the_engine_is_refused(url: str, path: str, body: dict | bytes, said: str) -> None:
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    for kind in ("application/json", "text/plain"):
        status, answer = post(url, path, raw, **{"Content-Type": kind})
        assert status == 400 and re.search(said, answer["error"]["message"]), answer
    assert get(url, "/health", {}).status == 200


def test_one_model_and_none_that_is_not_served(url: str) -> None:
    assert client(url).models.retrieve("smollm2-135m-instruct").id == "smollm2-135m-instruct"
    with pytest.raises(openai.NotFoundError):
        client(url).models.retrieve("other")
    with pytest.raises(openai.NotFoundError, match="only smollm2-135m-instruct"):
        client(url).chat.completions.create(model="other", messages=QUESTION)


def test_a_schema_is_kept_to(url: str) -> None:
    schema = {"type": "object", "properties": {"colour": {"enum": ["red", "blue"]}}, "required": ["colour"]}
    wanted: Any = {"type": "json_schema", "json_schema": {"name": "c", "schema": schema}}
    create = client(url).chat.completions.create
    answer = create(model=MODEL, messages=QUESTION, max_tokens=60, temperature=0, response_format=wanted)
    assert json.loads(answer.choices[0].message.content or "")["colour"] in ("red", "blue")


def test_a_page_cannot_send_anything(url: str) -> None:
    body = json.dumps({"prompt": "a", "max_tokens": 1}).encode()
    page = {"Content-Type": "text/plain", "Origin": "https://elsewhere.example"}
    assert post(url, "/v1/completions", body, **page)[0] == 403
    assert post(url, "/v1/completions", body, Host="rebound.example:80")[0] == 403
    assert post(url, "/v1/completions", body)[0] == 200


def test_a_body_that_is_too_large_is_not_kept(url: str) -> None:
    try:
        status, answer = post(url, "/v1/completions", b'{"prompt": "' + b"a" * (20 << 20) + b'"}')
    except (BrokenPipeError, ConnectionResetError):
        return  # it did not read on
    assert status == 413 and "bytes" in answer["error"]["message"]


def test_vectors_of_texts_are_served_beside_answers(url: str) -> None:
    vectors = [one.embedding for one in client(url).embeddings.create(model=MODEL, input=["a cat", "a dog"]).data]
    assert len(vectors[0]) == 576 and vectors[0] != vectors[1]


def test_ctrl_c_ends_it(tmp_path: Path, cli_environment: dict[str, str]) -> None:
    process, url = start(tmp_path, cli_environment)
    assert get(url, "/health", {}).status == 200
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=60) == 0
    assert process.stdout is not None
    output = process.stdout.read()
    assert "curl http://127.0.0.1" in output and "OpenAI(base_url=" in output
    assert (tmp_path / "log").read_text() == ""


def test_a_taken_port_is_one_line(run_smidgen) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        done = run_smidgen("serve", "smollm2-135m-instruct", "--port", port)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert port in done.stderr and "in use" in done.stderr and "--port" in done.stderr
