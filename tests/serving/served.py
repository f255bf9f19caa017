"""A `smidgen serve` process, as its clients and the person who runs it see it."""

import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import smidgen

MODEL = "smollm2-135m-instruct"
PATIENCE_S = 60.0  # after which a test fails; far more than anything here takes


@dataclass
class Served:
    """process: of the front.  url: `http://127.0.0.1:port/v1`.  key: sent with each request."""

    process: "subprocess.Popen[str]"
    url: str
    folder: Path
    key: str | None = None

    @property
    def address(self) -> str:
        return self.url.split("/")[2]

    def ask(
        self, method: str, path: str, body: bytes | None = None, **headers: str
    ) -> tuple[http.client.HTTPResponse, bytes]:
        """The response and its whole body."""
        connection = self._connection()
        try:
            connection.request(method, path, body, self._headers(headers))
            answer = connection.getresponse()
            return answer, answer.read()
        finally:
            connection.close()

    def post(self, path: str, body: dict[str, Any] | bytes, **headers: str) -> tuple[int, dict[str, Any]]:
        """The status and the JSON of an answer."""
        raw = body if isinstance(body, bytes) else json.dumps(body).encode()
        answer, found = self.ask("POST", path, raw, **headers)
        return answer.status, json.loads(found)

    @contextmanager
    def streaming(self, path: str, body: dict[str, Any]) -> Iterator[Iterator[dict[str, Any]]]:
        """The events of a streamed answer as they come. Leaving the context closes the connection."""
        connection = self._connection()
        try:
            connection.request("POST", path, json.dumps(body | {"stream": True}), self._headers({}))
            answer = connection.getresponse()
            assert answer.status == 200, answer.read()
            yield (json.loads(line[6:]) for line in answer if line.startswith(b"data: {"))
        finally:
            connection.close()

    def send(self, raw: bytes) -> socket.socket:
        """A connection on which this was sent, and nothing more."""
        host, port = self.address.split(":")
        client = socket.create_connection((host, int(port)), timeout=PATIENCE_S)
        client.sendall(raw)
        return client

    def send_chat(self, **asked: Any) -> socket.socket:
        """A connection on which a chat was asked for."""
        body = json.dumps({"messages": [{"role": "user", "content": "Hello"}], **asked}).encode()
        return self.send(self.head(len(body)) + body)

    def head(self, length: int, *more: str) -> bytes:
        """Of a request for a chat whose body has so many bytes."""
        lines = ["POST /v1/chat/completions HTTP/1.1", "Host: localhost", f"Content-Length: {length}", *more]
        lines += [f"{name}: {value}" for name, value in self._headers({}).items()]
        return "\r\n".join([*lines, "", ""]).encode()

    def figure(self, name: str) -> float:
        """One of /metrics, by its name and labels as they stand there; 0 where it is not there yet."""
        _, page = self.ask("GET", "/metrics")
        found = [line for line in page.decode().splitlines() if line.startswith(f"{name} ")]
        return float(found[0].split()[-1]) if found else 0.0

    def wait_until(self, name: str, value: float) -> None:
        """Until a figure has this value."""
        end = time.monotonic() + PATIENCE_S
        while (last := self.figure(name)) != value:
            assert time.monotonic() < end, f"{name} is {last}"
            time.sleep(0.05)

    def engines(self) -> list[int]:
        """Processes of llama.cpp."""
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split()
        threads = Path(f"/proc/{self.process.pid}/task").glob("*/children")
        found = {int(child) for listed in threads for child in listed.read_text().split()} | set(map(int, children))
        return [child for child in found if b"llama_cpp.child" in Path(f"/proc/{child}/cmdline").read_bytes()]

    def memory(self, name: str = "VmHWM") -> int:
        """Bytes of the front: the most that it ever had, or `VmRSS`."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return 1024 * int(status.partition(f"{name}:")[2].split()[0])

    def stop(self, number: int = signal.SIGTERM) -> int:
        """Tell it to stop; its exit code."""
        self.process.send_signal(number)
        return self.process.wait(PATIENCE_S)

    def _connection(self) -> http.client.HTTPConnection:
        return http.client.HTTPConnection(self.address, timeout=PATIENCE_S)

    def _headers(self, more: dict[str, str]) -> dict[str, str]:
        key = {} if self.key is None else {"Authorization": f"Bearer {self.key}"}
        return {"Content-Type": "application/json", **key, **{name.replace("_", "-"): more[name] for name in more}}


@contextmanager
def serving(folder: Path, *words: str, models: tuple[str, ...] = (MODEL,), key: str | None = None) -> Iterator[Served]:
    """A server once it answers; `stdout` and `stderr` in the folder, its own files in `home`."""
    process = start(folder, *words, models=models)
    try:
        end = time.monotonic() + PATIENCE_S
        while not (said := (folder / "stdout").read_text()).endswith("\n"):
            assert process.poll() is None and time.monotonic() < end, (folder / "stderr").read_text()
            time.sleep(0.05)
        yield Served(process, said.splitlines()[0].split()[-1], folder, key)
    finally:
        process.kill()
        process.wait()


def start(folder: Path, *words: str, models: tuple[str, ...] = (MODEL,)) -> "subprocess.Popen[str]":
    """The process alone, which has only just begun."""
    paths = [str(Path(smidgen.__file__).parent.parent), os.environ.get("PYTHONPATH", "")]
    with (folder / "stdout").open("w") as stdout, (folder / "stderr").open("w") as stderr:
        return subprocess.Popen(
            [sys.executable, "-m", "smidgen", "serve", *models, "--port", "0", "--threads", "1", *words],
            stdout=stdout, stderr=stderr, text=True, cwd=folder,
            env=os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, paths)), "SMIDGEN_HOME": str(folder / "home")},
        )  # fmt: skip
