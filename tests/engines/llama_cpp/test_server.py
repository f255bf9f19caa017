"""Whatever happens to the process that llama.cpp runs in: one error for the request, and the next request works."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from smidgen.engines.llama_cpp import server as supervision
from smidgen.engines.llama_cpp.engine import LlamaCppEngine, Sampling
from smidgen.engines.llama_cpp.server import BUILT_IN_TEMPLATE, LlamaServer
from smidgen.errors import EngineEnded, SmidgenError
from tests import tiny_models

QUESTION = {"prompt": [5, 6, 7], "n_predict": 4, "temperature": 0, "ignore_eos": True}
ENDLESS = QUESTION | {"n_predict": 4000, "stream": True}
linux = pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")


@pytest.fixture
def tiny(tmp_path: Path) -> Path:
    return tiny_models.write_gemma3(tmp_path / "tiny.gguf")


@pytest.fixture
def server(smollm_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[LlamaServer]:
    """Of a real model, which writes for a while."""
    monkeypatch.setattr(supervision, "_CHECK_EVERY_S", 0.05)
    with LlamaServer(smollm_path, ctx_size=4096, threads=1, template=BUILT_IN_TEMPLATE) as running:
        yield running


def pid(server: LlamaServer) -> int:
    return server._process._process.pid  # pyright: ignore[reportPrivateUsage]


def crash(server: LlamaServer) -> None:
    os.kill(pid(server), signal.SIGSEGV)


def abort(server: LlamaServer) -> None:
    os.kill(pid(server), signal.SIGABRT)


def run_out_of_memory(server: LlamaServer) -> None:
    os.kill(pid(server), signal.SIGKILL)


def hang(server: LlamaServer) -> None:
    os.kill(pid(server), signal.SIGSTOP)


@pytest.mark.parametrize(
    ("happens", "said"),
    [
        (crash, "segmentation fault"),
        (abort, "aborted"),
        (run_out_of_memory, "memory ran out"),
    ],
)
def test_what_ends_it_in_the_middle_is_one_error(
    server: LlamaServer, happens: Callable[[LlamaServer], None], said: str
) -> None:
    is_one_error(server, happens, said)


def test_what_stops_it_in_the_middle_is_one_error(smollm_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervision, "_CHECK_EVERY_S", 0.05)
    monkeypatch.setattr(supervision, "_PATIENCE_S", 3)
    monkeypatch.setattr(supervision, "_BYTES_A_SECOND", 1e12)
    with LlamaServer(smollm_path, ctx_size=4096, threads=1, template=BUILT_IN_TEMPLATE) as server:
        is_one_error(server, hang, "did not answer for 3 s")


def is_one_error(server: LlamaServer, happens: Callable[[LlamaServer], None], said: str) -> None:
    before, first = server.call("/completion", QUESTION)["content"], pid(server)
    events = server.events("/completion", ENDLESS)
    next(events)
    happens(server)
    with pytest.raises(EngineEnded, match=said) as caught:
        list(events)
    assert "\n" not in str(caught.value) and "next request" in str(caught.value)
    assert server.call("/completion", QUESTION)["content"] == before
    assert pid(server) != first


def test_an_end_between_two_requests_is_not_noticed(server: LlamaServer) -> None:
    before = server.call("/completion", QUESTION)["content"]
    crash(server)
    time.sleep(0.2)
    assert server.call("/completion", QUESTION)["content"] == before


def test_many_requests_meet_one_end(server: LlamaServer) -> None:
    """Each of them gets an error, and the engine is started again once."""
    found: list[str] = []

    def ask() -> None:
        try:
            list(server.events("/completion", ENDLESS))
        except EngineEnded as error:
            found.append(str(error))

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    time.sleep(0.5)
    crash(server)
    for thread in threads:
        thread.join(20)
    assert len(found) == 4
    assert server.call("/completion", QUESTION)["tokens_predicted"] == 4


@linux
@pytest.mark.parametrize(
    "hungry",
    [
        {"repeat_penalty": 1.3, "repeat_last_n": 2**31 - 1},
        {"dry_multiplier": 1, "dry_penalty_last_n": 2**31 - 1},
        {"grammar": 'root ::= "a"{5,2}'},
    ],
    ids=["penalties", "dry", "a grammar that turns around"],
)
def test_a_request_cannot_fill_the_memory(server: LlamaServer, hungry: dict[str, Any]) -> None:
    before = server.memory()["resident_bytes"]
    with pytest.raises(SmidgenError):
        server.call("/completion", QUESTION | hungry)
    assert server.call("/completion", QUESTION)["tokens_predicted"] == 4
    assert server.memory()["peak_ram_bytes"] < before + (3 << 30)


def ends_with_the_program(program: str) -> bool:
    """Whether the process whose number a program prints before it kills itself is gone soon after."""
    answer = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert answer.returncode == -signal.SIGKILL, answer.stderr
    child = Path("/proc") / str(int(answer.stdout))
    for _ in range(600):
        if not child.exists():
            return True
        time.sleep(0.1)
    return False


@linux
def test_the_engine_ends_with_its_parent_while_it_loads(smollm_path: Path) -> None:
    """The wheel holds Python's lock then; a process beside it looks after that."""
    program = f"""
import os, signal, subprocess, sys
from pathlib import Path
from smidgen.engines.llama_cpp import process
from smidgen.engines.llama_cpp.server import LlamaServer
start = subprocess.Popen
def popen(*words, **settings):
    child = start(*words, **settings)
    print(child.pid, flush=True)
    signal.setitimer(signal.ITIMER_REAL, 0.1)  # long before a model is loaded
    return child
signal.signal(signal.SIGALRM, lambda *_: os.kill(os.getpid(), signal.SIGKILL))
process.subprocess.Popen = popen
LlamaServer(Path({str(smollm_path)!r}), ctx_size=4096, threads=1)
"""
    assert ends_with_the_program(program)


@linux
def test_a_file_that_shrinks_while_it_is_read(tiny: Path) -> None:
    whole = tiny.read_bytes()
    with LlamaServer(tiny, ctx_size=256, threads=1) as server:
        before = tiny.stat()
        os.truncate(tiny, len(whole) // 2)
        with pytest.raises(EngineEnded, match="changed or cannot be read"):
            server.call("/completion", QUESTION)
        with pytest.raises(SmidgenError, match="tiny.gguf has changed or is gone since it was loaded"):
            server.call("/completion", QUESTION)
        tiny.write_bytes(whole)
        os.utime(tiny, ns=(before.st_atime_ns, before.st_mtime_ns))
        assert server.call("/completion", QUESTION)["tokens_predicted"] == 4


def test_a_process_that_ends_while_it_loads_is_one_line(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("smidgen.engines.llama_cpp.process.sys.executable", "/bin/false")
    with pytest.raises(SmidgenError, match=r"ended while it loaded tiny.gguf: exit code 1\.$"):
        LlamaServer(tiny, ctx_size=256)


def test_a_closed_server_says_so(tiny: Path) -> None:
    server = LlamaServer(tiny, ctx_size=256, threads=1)
    server.close()
    server.close()
    with pytest.raises(SmidgenError, match="closed"):
        server.call("/completion", QUESTION)


@linux
def test_the_engine_ends_with_the_process_that_started_it(tiny: Path) -> None:
    program = f"""
import os, signal
from pathlib import Path
from smidgen.engines.llama_cpp.server import LlamaServer
server = LlamaServer(Path({str(tiny)!r}), ctx_size=256, threads=1)
print(server._process._process.pid, flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""
    assert ends_with_the_program(program)


@linux
def test_neither_the_models_nor_the_engines_memory_is_ours(gemma_path: Path) -> None:
    program = f"""
from pathlib import Path
from smidgen.engines.llama_cpp.server import LlamaServer
with LlamaServer(Path({str(gemma_path)!r}), ctx_size=256, threads=1) as server:
    server.call("/completion", {{"prompt": [5, 6, 7], "n_predict": 2}})
    maps = Path("/proc/self/maps").read_text()
    assert "xllamacpp" not in maps and {gemma_path.name!r} not in maps
    assert server.memory()["resident_bytes"] > 200e6
    limits = Path(f"/proc/{{server._process._process.pid}}/limits").read_text()
    assert "Max core file size        0" in limits  # no text of a person is left on disk after a crash
"""
    subprocess.run([sys.executable, "-c", program], check=True)


@pytest.mark.parametrize(
    "template",
    ["{{ " + "[" * 20_000 + "]" * 20_000 + " }}", "{{ " + "not " * 100_000 + "x }}", "{% if x %}" * 20_000],
    ids=["brackets", "nots", "ifs"],
)
def test_a_template_that_ends_llama_cpp_is_never_given_to_it(tmp_path: Path, template: str) -> None:
    path = tiny_models.write_gemma3(tmp_path / "hostile.gguf", {"tokenizer.chat_template": template})
    with LlamaCppEngine(path, 256, threads=1) as engine:
        reply = engine.stream("abc", 4, Sampling(temperature=0))
        reply.text()
        assert reply.generated_tokens > 0 and reply.stop is not None
        with pytest.raises(SmidgenError, match="template"):
            engine.chat([{"role": "user", "content": "Hi"}])
