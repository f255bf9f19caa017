"""vLLM beside smidgen, pretended by a program of that name: how it is started and ended, and what is said if not."""

import asyncio
import json
import os
import sys
import time
from collections.abc import Iterator
from http.client import HTTPConnection
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np
import pytest
from safetensors.numpy import save_file

from smidgen.engines.vllm import VllmServer, cache_gib
from smidgen.errors import BadFile, EngineEnded, SmidgenError
from smidgen.serving.upstream import LocalUpstream

PROGRAM = """#!{python}
import http.server, json, os, subprocess, sys, time

arguments = dict(zip(sys.argv[2::2], sys.argv[3::2]))
if os.environ.get("PRETEND") == "fail":
    print("INFO all is well")
    print("(EngineCore pid=7) ERROR 11-29 core.py:9] ValueError: there is not enough memory")
    sys.exit("RuntimeError: see above")
helper = subprocess.Popen(["sleep", "1000"])
told = {{"argv": sys.argv, "environment": dict(os.environ), "helper": helper.pid}}


class Answers(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
        self.wfile.write(json.dumps(told).encode())

    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        allowed = self.headers["Authorization"] == "Bearer " + os.environ["VLLM_API_KEY"]
        self.send_response(200 if allowed else 401)
        self.end_headers()
        self.wfile.write(body)
        self.wfile.flush()
        if self.path == "/end":
            os._exit(3)

    def log_message(self, *_):
        pass


http.server.ThreadingHTTPServer((arguments["--host"], int(arguments["--port"])), Answers).serve_forever()
"""

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="the pretended program is a script")


@pytest.fixture(autouse=True)
def program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "bin" / "vllm"
    path.parent.mkdir()
    path.write_text(PROGRAM.format(python=sys.executable))
    path.chmod(0o755)
    monkeypatch.setenv("PATH", f"{path.parent}{os.pathsep}{os.environ['PATH']}")
    return path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    path = tmp_path / "model"
    path.mkdir()
    (path / "config.json").write_text(json.dumps({"model_type": "llama"}))
    save_file({"model.norm.weight": np.ones(8, np.float32)}, path / "model.safetensors")
    return path


@pytest.fixture
def server(folder: Path) -> Iterator[VllmServer]:
    with VllmServer(folder, ctx_size=512, parallel=3, name="small") as running:
        yield running


def told(server: VllmServer) -> dict:
    """What the pretended program was started with."""
    with server.lend() as address:
        connection = HTTPConnection(urlsplit(address).netloc)
        connection.request("GET", "/")
        return json.loads(connection.getresponse().read())


def runs(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    return True


def test_it_is_started_on_loopback_silent_and_with_its_key_out_of_sight(server: VllmServer, folder: Path) -> None:
    started = told(server)
    argv, environment = started["argv"], started["environment"]
    arguments = dict(zip(argv[2::2], argv[3::2], strict=True))
    assert argv[1] == "serve" and arguments["--model"] == str(folder)
    assert arguments["--host"] == "127.0.0.1" and arguments["--load-format"] == "safetensors"
    assert (arguments["--max-model-len"], arguments["--max-num-seqs"]) == ("512", "3")
    assert arguments["--served-model-name"] == "small"
    assert environment["VLLM_NO_USAGE_STATS"] == environment["DO_NOT_TRACK"] == environment["HF_HUB_OFFLINE"] == "1"
    assert environment["VLLM_LOGGING_LEVEL"] == "ERROR"
    assert server.headers == {"Authorization": f"Bearer {environment['VLLM_API_KEY']}"}
    assert environment["VLLM_API_KEY"] not in " ".join(argv)


def test_all_that_it_has_started_ends_with_it(server: VllmServer) -> None:
    helper = told(server)["helper"]
    assert runs(helper)
    server.close()
    server.close()
    while runs(helper):  # its leash goes on for a moment after `close`
        time.sleep(0.05)
    with pytest.raises(SmidgenError, match=r"^the engine is closed\.$"), server.lend():
        pass


def test_where_it_ends_that_is_said_and_the_next_request_starts_it_again(server: VllmServer) -> None:
    upstream = LocalUpstream(server, slots=3)

    async def exchanged(path: str) -> bytes:
        async with upstream.exchange("POST", path, {"prompt": "Hello"}) as answer:
            assert answer.status == 200
            return await answer.read()

    async def first_it_ends() -> bytes:
        first = await exchanged("/v1/completions")
        await exchanged("/end")  # the program ends behind its answer
        with pytest.raises(EngineEnded, match=r"exit code 3\); the next request starts it again"):
            raise server.why_it_broke()
        assert await exchanged("/v1/completions") == first
        return first

    assert (upstream.dialect, upstream.context, upstream.slots) == ("openai", 512, 3)
    assert json.loads(asyncio.run(first_it_ends())) == {"prompt": "Hello"}


def test_why_it_does_not_start_is_said_in_the_words_of_its_first_error(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PRETEND", "fail")
    with pytest.raises(SmidgenError, match="^vLLM could not start with model: ValueError: there is not enough memory$"):
        VllmServer(folder, ctx_size=512)


def test_it_is_looked_for_here_and_on_the_path(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(folder))
    with pytest.raises(SmidgenError, match="--engine vllm needs vLLM: pip install vllm"):
        VllmServer(folder, ctx_size=512)


def test_it_sees_no_folder_that_our_own_reader_has_not_checked(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(SmidgenError, match="no folder that vLLM loads; smidgen export MODEL --to hf"):
        VllmServer(tmp_path, ctx_size=512)
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1])
    with pytest.raises(BadFile, match="model"):
        VllmServer(folder, ctx_size=512)


def test_the_cache_is_as_large_as_it_has_to_be() -> None:
    smollm = {"num_hidden_layers": 30, "num_attention_heads": 9, "num_key_value_heads": 3, "head_dim": 64}
    assert cache_gib(smollm, 8192) == 1
    assert cache_gib(smollm, 100_000) == 1 + 30 * 3 * 64 * 2 * 2 * 100_000 // 2**30 == 3
    assert cache_gib({"num_hidden_layers": "many"}, 4096) == 3
