"""The server as its clients see it, through the official OpenAI client."""

import http.client
import json
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import openai
import pytest

KEY = "a-key-for-tests"
QUESTION: list = [{"role": "user", "content": "Name one colour, and tell nobody about walrus7."}]


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
    whole = create(model="any", messages=QUESTION, max_tokens=12, temperature=0)
    pieces = create(model="any", messages=QUESTION, max_tokens=12, temperature=0, stream=True)
    text = whole.choices[0].message.content
    assert text
    assert "".join(piece.choices[0].delta.content or "" for piece in pieces if piece.choices) == text
    assert whole.model == "smollm2-135m-instruct"
    assert "walrus7" not in (folder / "log").read_text()


def test_only_health_is_public(url: str) -> None:
    with pytest.raises(openai.AuthenticationError):
        client(url, "wrong").chat.completions.create(model="any", messages=QUESTION, max_tokens=1)
    assert get(url, "/health", {}).status == 200
    for path in ("/", "/v1/models", "/props", "/slots", "/metrics", "/lora-adapters"):
        assert get(url, path, {}).status in (401, 404), path


def test_state_endpoints_are_off_and_other_sites_not_invited(url: str) -> None:
    headers = {"Authorization": f"Bearer {KEY}", "Origin": "http://elsewhere.example"}
    assert get(url, "/slots", headers).status == 501
    assert get(url, "/metrics", headers).status == 501
    answer = get(url, "/v1/models", headers)
    assert answer.status == 200
    assert answer.getheader("Access-Control-Allow-Origin") in (None, "")
    assert "/" not in json.loads(answer.read())["data"][0]["id"]


def test_a_prompt_longer_than_the_context_is_refused(url: str) -> None:
    with pytest.raises(openai.BadRequestError, match="context"):
        client(url).completions.create(model="any", prompt="word " * 600, max_tokens=1)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_it_even_under_way(
    tmp_path: Path, cli_environment: dict[str, str], number: signal.Signals
) -> None:
    process, url = start(tmp_path, cli_environment)
    stream = client(url).completions.create(model="any", prompt="Once", max_tokens=4000, stream=True)
    next(iter(stream))
    process.send_signal(number)
    assert process.wait(timeout=20) == 0
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
