"""Two engines behind one front: both answer, one that is lost costs only what it was writing, and nothing is logged.

One Ray for all tests of this file: it takes seconds to start.
"""

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import anyio
import pytest

from smidgen.engines.llama_cpp.server import BUILT_IN_TEMPLATE
from smidgen.errors import EngineEnded, SmidgenError
from smidgen.serving.replica import Engine, KnownFile, why_not_here
from smidgen.serving.replicas import RayUpstream
from tests.tiny_models import write_gemma3, write_llama

MARK = "Rhubarb-Umlaut-9731"
ENDLESS = 100_000

linux = pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_gemma3(tmp_path_factory.mktemp("replicas") / "tiny.gguf")


@pytest.fixture(scope="module")
def upstream(smollm_path: Path) -> Iterator[RayUpstream]:
    settings: dict[str, Any] = {"ctx_size": 2048, "threads": 1, "template": BUILT_IN_TEMPLATE}
    running = RayUpstream(smollm_path, replicas=2, address="local", **settings)
    yield running
    running.close()


async def written(upstream: RayUpstream, tokens: int, stream: bool = False) -> str:
    """What came of a request: the answer, or why there is none."""
    body = {"prompt": f"{MARK}. Once upon a time", "n_predict": tokens, "stream": stream, "ignore_eos": True}
    try:
        async with upstream.exchange("POST", "/completion", body) as answer:
            assert answer.status == 200
            return (await answer.read()).decode()
    except EngineEnded as error:
        return str(error)


async def all_of(requests: Sequence[Any]) -> list[str]:
    return list(await asyncio.gather(*requests))


def processes(word: str) -> dict[int, int]:
    """The processes of our Ray whose command has a word in it, and their parents."""
    listed = subprocess.run(["ps", "-eo", "pid=,ppid=,args="], capture_output=True, text=True, check=True).stdout
    found = (line.split(None, 2) for line in listed.splitlines() if word in line)
    return {int(pid): int(parent) for pid, parent, _ in found}
