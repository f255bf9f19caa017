"""What strangers, accidents and impatient people do to a server: an answer or a refusal for each, and it goes on.

On real servers, most of it on one.
"""

import gzip
import json
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.serving.served import MODEL, PATIENCE_S, Served, serving, start

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
MARKER = "walrus7"
RUNNING = f'smidgen_requests_running{{model="{MODEL}"}}'
WAITING = f'smidgen_requests_waiting{{model="{MODEL}"}}'
CHAT, TEXT = "/v1/chat/completions", "/v1/completions"
ENDLESS: dict[str, Any] = {"max_tokens": 1900, "ignore_eos": True, "stream": True}
LONG_PROMPT = "many words for a long prompt " * 330


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    folder = tmp_path_factory.mktemp("faults")
    words = ("--ctx-size", "2048", "--queue", "1", "--log", "requests.jsonl", "--quiet")
    with serving(folder, *words) as running:
        yield running


def question(**more: Any) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": f"Say one word to {MARKER}."}], "max_tokens": 4, **more}


def answers(server: Served) -> bool:
    """Whether an ordinary client is served."""
    status, answer = server.post(CHAT, question(temperature=0))
    return status == 200 and answer["usage"]["completion_tokens"] in range(1, 5)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSEGV])
def test_an_engine_that_ends_is_an_error_event_and_the_next_request_works(server: Served, number: int) -> None:
    with server.streaming(CHAT, question() | ENDLESS) as events:
        next(events)
        os.kill(server.engines()[0], number)
        last = list(events)[-1]
    assert last["error"]["code"] == 503 and "llama.cpp ended while it worked" in last["error"]["message"]
    assert answers(server)


def test_an_engine_that_ended_while_nobody_asked_is_started_again(server: Served) -> None:
    os.kill(server.engines()[0], signal.SIGKILL)
    while server.engines():
        time.sleep(0.01)
    time.sleep(0.5)  # its connections are closed
    assert answers(server)


@pytest.mark.parametrize("asked", [
    {"max_tokens": 1900, "ignore_eos": True},
    ENDLESS,
    ENDLESS | {"messages": [{"role": "user", "content": LONG_PROMPT}]},
    ENDLESS | {"max_tokens": 400, "n": 4},
], ids=["whole", "stream", "in its prompt", "several"])  # fmt: skip
def test_a_client_that_leaves_frees_its_slot(server: Served, asked: dict[str, Any]) -> None:
    client = server.send_chat(**asked)
    server.wait_until(RUNNING, 1)
    client.close()
    server.wait_until(RUNNING, 0)
    assert answers(server)


def test_a_full_line_is_refused_with_a_time_and_who_leaves_it_makes_room(server: Served) -> None:
    with server.streaming(CHAT, question() | ENDLESS) as events:
        next(events)
        waiting = server.send_chat(max_tokens=1)
        server.wait_until(WAITING, 1)
        answer, body = server.ask("POST", CHAT, json.dumps(question()).encode())
        assert answer.status == 503 and int(answer.headers["Retry-After"]) > 0
        assert json.loads(body)["error"]["code"] == "overloaded"
        waiting.close()
        server.wait_until(WAITING, 0)
        patient = server.send_chat(max_tokens=1)
        server.wait_until(WAITING, 1)
    assert patient.recv(12) == b"HTTP/1.1 200"
    patient.close()


def test_half_requests_keep_nobody_out(server: Served) -> None:
    head = server.head(1000)
    halves = [server.send(head[: 20 + number] if number % 2 else head + b'{"messages": [') for number in range(200)]
    assert answers(server)
    for half in halves:
        half.close()
    assert answers(server)


def test_heads_without_end_are_refused_and_upgrades_are_ordinary_requests(server: Served) -> None:
    client = server.send(b"GET /health HTTP/1.1\r\n")
    try:
        client.sendall(b"Name: value\r\n" * 200_000)
        assert client.recv(12) in (b"HTTP/1.1 400", b"")
    except ConnectionError:
        pass
    client.close()
    answer, _ = server.ask("GET", "/health", Connection="Upgrade", Upgrade="websocket", Sec_WebSocket_Version="13")
    assert answer.status == 200
    assert answers(server)


def test_a_body_of_100_mb_is_refused_and_not_kept(server: Served) -> None:
    before, piece = server.memory(), b"a" * 2**20
    client = server.send(server.head(100 * 2**20) + b'{"prompt": "')
    client.settimeout(5)
    try:
        for _ in range(100):
            client.sendall(piece)
    except OSError:
        pass  # it has stopped reading
    client.settimeout(PATIENCE_S)
    try:
        assert client.recv(12) in (b"HTTP/1.1 413", b"")
    except ConnectionError:
        pass
    client.close()
    assert server.memory() - before < 64 * 2**20
    assert answers(server)


@pytest.mark.parametrize("encoding", ["gzip", "deflate", "br", "gzip, gzip"])
def test_compressed_bodies_are_refused_unread(server: Served, encoding: str) -> None:
    bomb = gzip.compress(b'{"prompt": "' + b"a" * (32 << 20))
    before = server.memory()
    status, answer = server.post(TEXT, bomb, Content_Encoding=encoding)
    assert status == 415 and "Content-Encoding" in answer["error"]["message"]
    assert server.memory() - before < 16 * 2**20


NESTED: dict[str, Any] = {"type": "string"}
for _ in range(300):
    NESTED = {"type": "object", "properties": {"a": NESTED}, "required": ["a"]}
WIDE: dict[str, Any] = {"type": "string"}
for _ in range(40):
    WIDE = {"anyOf": [WIDE, WIDE]}  # shared here, 2^40 of them for who follows each
GRAMMARS = {
    "left recursion": 'root ::= root "a" | "b"',
    "through another rule": 'root ::= a\na ::= b "x"\nb ::= a | "y"',
    "a rule that is not there": "root ::= nowhere",
    "no root": 'other ::= "a"',
    "nothing in it": "root ::= ()* ",
    "repeats of repeats": 'root ::= (("a"{1,200}){1,200}){1,200}',
    "many ways to nothing": "root ::= " + '("a"? ' * 200 + ")*" * 200,
    "deep": "root ::= " + "(" * 20_000 + '"a"' + ")" * 20_000,
    "a million rules": "\n".join(f"r{number} ::= r{number + 1}" for number in range(50_000)) + "\nroot ::= r0",
    "open": 'root ::= "a',
    "NUL": 'root ::= "\0"',
}
SCHEMAS = {
    "itself": {"$ref": "#"},
    "round and round": {"$defs": {"a": {"$ref": "#/$defs/b"}, "b": {"$ref": "#/$defs/a"}}, "$ref": "#/$defs/a"},
    "elsewhere": {"$ref": "http://127.0.0.1:9/schema.json"},
    "a file": {"$ref": "file:///etc/passwd"},
    "deep": NESTED,
    "many values": {"enum": [f"value {number}" for number in range(100_000)]},
    "many repeats": {"type": "array", "items": {"type": "string"}, "minItems": 1_000_000},
    "a pattern of patterns": {"type": "string", "pattern": "^((a+)+)+$"},
    "a pattern of repeats": {"type": "string", "pattern": "^((a{1,500}){1,500}){1,500}$"},
    "not closed": {"type": "string", "pattern": "^(((a$"},
    "a number for a type": {"type": 5},
    "a list": ["object"],
}


def is_settled(server: Served, path: str, body: dict[str, Any]) -> None:
    """Answered, or refused as the client's mistake; and the engine has survived it."""
    engine = server.engines()
    status, answer = server.post(path, body)
    assert status == 200 or (status == 400 and answer["error"]["message"]), answer
    assert server.engines() == engine


@pytest.mark.parametrize("grammar", GRAMMARS.values(), ids=GRAMMARS)
def test_no_grammar_ends_or_stops_it(server: Served, grammar: str) -> None:
    is_settled(server, TEXT, {"prompt": "a", "max_tokens": 3, "grammar": grammar})


@pytest.mark.parametrize("schema", SCHEMAS.values(), ids=SCHEMAS)
def test_no_schema_ends_or_stops_it(server: Served, schema: Any) -> None:
    wanted = {"type": "json_schema", "json_schema": {"name": "a", "schema": schema}}
    is_settled(server, CHAT, question(response_format=wanted))
    tool = {"type": "function", "function": {"name": "a", "parameters": schema}}
    is_settled(server, CHAT, question(tools=[tool], tool_choice="required"))


HOSTILE: dict[str, dict[str, Any] | bytes] = {
    "thousands of stop texts": question(stop=[f"stop {number}" for number in range(5000)]),
    "a stop text of a megabyte": question(stop="a" * 2**20),
    "lists in lists": b"[" * 100_000,
    "objects in objects": b'{"messages":' * 100_000,
    "no UTF-8": b'{"messages": [{"role": "user", "content": "\xff\xfe"}]}',
    "half a character": b'{"messages": [{"role": "user", "content": "\\ud800"}], "max_tokens": 1}',
    "one key twice": b'{"messages": [], "messages": [{"role": "user", "content": "a"}]}',
    "a number without end": b'{"max_tokens": 1' + b"0" * 5000 + b', "messages": [{"role": "user", "content": "a"}]}',
    "not a number": b'{"temperature": NaN, "messages": [{"role": "user", "content": "a"}]}',
    "many messages": {"messages": [{"role": "user", "content": "a"}] * 100_000},
    "many logit biases": question(logit_bias={str(number): 1 for number in range(49_152)}),
    "one run of letters": {"messages": [{"role": "user", "content": "a" * 2_000_000}]},
    "one run of blanks": {"messages": [{"role": "user", "content": " " * 200_000}]},
    "nothing": b"",
}


@pytest.mark.parametrize("body", HOSTILE.values(), ids=HOSTILE)
def test_no_body_ends_or_stops_it(server: Served, body: dict[str, Any] | bytes) -> None:
    engine = server.engines()
    status, answer = server.post(CHAT, body)
    assert status in (200, 400, 413) and (status == 200 or answer["error"]["message"]), answer
    assert server.engines() == engine and answers(server)


def test_no_text_is_in_any_log_and_figures_stand_in_the_one_that_was_asked_for(server: Served) -> None:
    assert answers(server)
    server.post("/nowhere", question())
    while '"status": 404' not in (server.folder / "requests.jsonl").read_text():
        time.sleep(0.05)
    for file in server.folder.rglob("*"):
        assert not file.is_file() or MARKER.encode() not in file.read_bytes(), file
    lines = [json.loads(line) for line in (server.folder / "requests.jsonl").read_text().splitlines()]
    good = [line for line in lines if line["endpoint"] == CHAT and line["status"] == 200]
    assert good and good[-1]["model"] == MODEL and good[-1]["completion_tokens"] in range(1, 5)
    assert {line["status"] for line in lines} >= {200, 400, 404, 413, 415, 499, 503}
    assert (server.folder / "stderr").read_text() == ""


KEYS = """
[[key]]
name = "anna"
key = "secret-of-anna"
tokens = 300
per = "day"
"""


def test_limits_of_time_tokens_and_keys(tmp_path: Path) -> None:
    (tmp_path / "keys.toml").write_text(KEYS)
    words = ("--ctx-size", "4096", "--time-limit", "1", "--max-tokens", "4000", "--keys", "keys.toml", "--quiet")
    words += ("--log", "requests.jsonl", "--log-text")
    long = {"messages": [{"role": "user", "content": "Hi"}], "ignore_eos": True}
    with serving(tmp_path, *words, key="secret-of-anna") as server:
        with server.streaming(CHAT, long) as events:
            last = list(events)[-1]
        assert last["error"]["code"] == "timeout" and "1 s" in last["error"]["message"]
        status, answer = server.post(CHAT, long)
        assert status == 504 and answer["error"]["code"] == "timeout"
        status, answer = server.post(CHAT, question(max_tokens=4001))
        assert status == 400 and "4000" in answer["error"]["message"]
        while (status := server.post(CHAT, question())[0]) == 200:
            pass
        assert status == 429
        answer, body = server.ask("POST", CHAT, json.dumps(question()).encode())
        assert answer.status == 429 and 0 < int(answer.headers["Retry-After"]) <= 86_400
        assert json.loads(body)["error"]["code"] == "insufficient_quota"
        server.key = "secret-of-nobody"
        assert server.post(CHAT, question())[0] == 401
        assert server.stop() == 0
    log = (tmp_path / "requests.jsonl").read_text()
    assert MARKER in log and "secret-of" not in log and '"key": "anna"' in log
    with serving(tmp_path, *words, key="secret-of-anna") as again:
        assert again.post(CHAT, question())[0] == 429
        assert again.ask("GET", "/v1/models")[0].status == 200


def test_a_second_model_waits_for_the_first_ones_answer_and_idle_ones_go(tmp_path: Path, gemma_path: Path) -> None:
    words = ("--ctx-size", "256", "--memory", "500MB", "--keep-alive", "1", "--quiet")  # for one of them
    other: dict[str, Any] = {"model": "gemma-3-270m", "prompt": "One two three", "max_tokens": 4, "temperature": 0}
    with serving(tmp_path, *words, models=(MODEL, "gemma-3-270m")) as server:
        found: list[tuple[int, dict[str, Any]]] = []
        with server.streaming(CHAT, question(max_tokens=60, ignore_eos=True, temperature=0, model=MODEL)) as events:
            next(events)
            second = threading.Thread(target=lambda: found.append(server.post(TEXT, other)))
            second.start()
            rest = list(events)
        assert "error" not in rest[-1] and rest[-1]["choices"][0]["finish_reason"] == "length" and len(rest) > 40
        second.join()
        assert found[0][0] == 200 and found[0][1]["model"] == "gemma-3-270m"
        server.wait_until('smidgen_model_loaded{model="gemma-3-270m"}', 0)
        assert server.figure(f'smidgen_model_loaded{{model="{MODEL}"}}') == 0 and not server.engines()
        assert answers(server)


def test_a_signal_finishes_what_is_under_way_and_lets_nobody_in(tmp_path: Path) -> None:
    with serving(tmp_path, "--ctx-size", "512", "--queue", "4") as server:
        halves = [server.send(server.head(1000) + b"{"), server.send(b"POST / HTTP/1.1\r\n"), server.send(b"")]
        with server.streaming(CHAT, question(max_tokens=200, ignore_eos=True)) as events:
            next(events)
            waiting = server.send_chat(max_tokens=1)
            server.wait_until(WAITING, 1)
            server.process.send_signal(signal.SIGTERM)
            rest = list(events)
            host, port = server.address.split(":")
            with pytest.raises(OSError):
                socket.create_connection((host, int(port)), timeout=1).close()
        assert rest[-1]["choices"][0]["finish_reason"] == "length"
        assert waiting.recv(12) == b"HTTP/1.1 200"
        waiting.close()
        assert server.process.wait(PATIENCE_S) == 0
        for half in halves:
            half.close()
    assert "Finishing 2 answers under way" in (tmp_path / "stderr").read_text()


def test_a_second_signal_ends_what_is_under_way(tmp_path: Path) -> None:
    with serving(tmp_path, "--ctx-size", "4096") as server:
        with server.streaming(CHAT, question(max_tokens=4000, ignore_eos=True)) as events:
            next(events)
            engine = server.engines()[0]
            server.process.send_signal(signal.SIGINT)
            while "Finishing 1 answers" not in (tmp_path / "stderr").read_text():
                next(events)
            server.process.send_signal(signal.SIGINT)
            assert server.process.wait(PATIENCE_S) == 0
        server.process.wait()
        end = time.monotonic() + PATIENCE_S
        while Path(f"/proc/{engine}/exe").exists():
            assert time.monotonic() < end
            time.sleep(0.05)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_while_it_loads_ends_it(tmp_path: Path, number: int) -> None:
    process = start(tmp_path)
    children = Path(f"/proc/{process.pid}/task/{process.pid}")
    while process.poll() is None and not any(listed.read_text() for listed in children.parent.glob("*/children")):
        time.sleep(0.01)
    process.send_signal(number)
    assert process.wait(PATIENCE_S) == 0
    assert (tmp_path / "stdout").read_text() == "" and (tmp_path / "stderr").read_text() == ""
