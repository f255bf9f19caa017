"""Clients of an OpenAI-compatible server, as the benchmarks of serving need them: streamed chats, timed."""

import json
import random
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2

from benchmarks import record
from smidgen.errors import SmidgenError

_WORDS = ("river", "stone", "winter", "letter", "garden", "window", "market", "silver", "morning", "bridge")


@dataclass(frozen=True)
class Answered:
    """One request.

    status: of the answer; 0 where the connection broke.  seconds, first: on the clock, to the end and to the first
    piece of text.  tokens: that were written.  prompt_tokens: that were read.  error: what an answer broke off with.
    retry_after: seconds, where a server is full.
    """

    status: int
    seconds: float
    first: float | None = None
    tokens: int = 0
    prompt_tokens: int = 0
    error: str | None = None
    retry_after: float = 0.0


def prompt_of(generator: random.Random, words: int) -> str:
    """A text that begins with a number of its own, so that nothing of it was read before."""
    return f"{generator.randrange(10**9)} " + " ".join(generator.choice(_WORDS) for _ in range(words))


async def ask(client: httpx2.AsyncClient, prompt: str, tokens: int, **more: Any) -> Answered:
    """A streamed chat of exactly so many tokens."""
    body: dict[str, Any] = {
        "messages": [{"role": "user", "content": prompt}], "max_tokens": tokens, "temperature": 0, "ignore_eos": True,
        "stream": True, "stream_options": {"include_usage": True}, **more,
    }  # fmt: skip
    began, first, usage, error, whole = time.perf_counter(), None, {}, None, False
    try:
        async with client.stream("POST", "/v1/chat/completions", json=body) as answer:
            if answer.status_code != 200:
                told = (await answer.aread()).decode(errors="replace")[:200]
                wait = float(answer.headers.get("Retry-After", 0))
                return Answered(answer.status_code, time.perf_counter() - began, error=told, retry_after=wait)
            async for line in answer.aiter_lines():
                if not line.startswith("data: {"):
                    whole = whole or line == "data: [DONE]"
                    continue
                event = json.loads(line[len("data: ") :])
                error = error or (str(event["error"]) if "error" in event else None)
                usage = event.get("usage") or usage
                if first is None and any(one["delta"].get("content") for one in event.get("choices", ())):
                    first = time.perf_counter() - began
    except httpx2.HTTPError as broken:
        return Answered(0, time.perf_counter() - began, error=repr(broken))
    error = error or (None if whole else "the stream has no end")
    counts = usage.get("completion_tokens", 0), usage.get("prompt_tokens", 0)
    return Answered(200, time.perf_counter() - began, first, *counts, error)


@contextmanager
def smidgen_serve(*words: str) -> Iterator[tuple[int, str]]:
    """`smidgen serve` on a free port; its process id and address. Raises SmidgenError where it does not start."""
    command = record.smidgen("serve", *words, "--port", "0", "--quiet")
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            line = process.stdout.readline()
            if not line:
                raise SmidgenError("smidgen serve did not start.")
            yield process.pid, line.split()[-1].removesuffix("/v1")
        finally:
            process.terminate()


def client_of(address: str, headers: dict[str, str] | None = None) -> httpx2.AsyncClient:
    """A client that waits as long as it takes, and does not go through the proxies of the environment.

    Each request has a connection of its own: llama.cpp's server announces that it keeps them, and does not.
    """
    limits = httpx2.Limits(max_connections=None, max_keepalive_connections=0)
    return httpx2.AsyncClient(base_url=address, headers=headers, timeout=None, limits=limits, trust_env=False)


def engine_of(front: int) -> int | None:
    """The process in which llama.cpp runs for a front (Linux)."""
    for children in Path(f"/proc/{front}/task").glob("*/children"):
        for child in children.read_text().split():
            if b"llama_cpp.child" in Path(f"/proc/{child}/cmdline").read_bytes():
                return int(child)
    return None


def resident_bytes(process: int) -> int:
    """What a process has in memory (Linux)."""
    status = Path(f"/proc/{process}/status").read_text()
    return 1024 * int(status.partition("VmRSS:")[2].split()[0])


def processor_seconds(process: int) -> float:
    """Processor time that a process has had (Linux)."""
    return int(Path(f"/proc/{process}/schedstat").read_text().split()[0]) / 1e9
