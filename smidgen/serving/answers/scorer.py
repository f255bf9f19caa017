"""The process that scores prompts with our decoder, seen from the server.

torch is loaded in that process only (scoring_child.py): it starts when it is first needed, works on one request at a
time, and ends after some idle minutes, with its client or with the server. Whatever ends it is an error of the request
that it was working on; the next request starts it again. Nothing is kept from one request to the next.
"""

import asyncio
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import anyio

from smidgen.engines.machine import default_threads
from smidgen.errors import EngineEnded
from smidgen.model.kept import AS_USUAL, KVType
from smidgen.serving.refusals import Refusal

_IDLE_S = 300


class TextScores(NamedTuple):
    """Log-probabilities in nats of one text of token ids.

    own: of each token but the first.  top: the likeliest tokens with theirs, at each of these places and behind the
    last token.
    """

    own: list[float]
    top: list[list[tuple[int, float]]]


class PromptScorer:
    """Scores prompts for one model. path: a file that `open_checkpoint` opens.  threads: default the physical cores.

    kv: how keys and values are kept, as where the model writes.
    """

    def __init__(self, path: Path, threads: int | None = None, kv: KVType = AS_USUAL) -> None:
        self._settings = {"path": str(path), "threads": threads or default_threads(), "kv": kv}
        self._turn = asyncio.Lock()
        self._process: asyncio.subprocess.Process | None = None
        self._idle: asyncio.TimerHandle | None = None

    async def score(self, texts: Sequence[Sequence[int]], alternatives: int) -> list[TextScores]:
        """The scores of each text, none of them empty, when others' requests are done.

        Being cancelled ends the work. Raises Refusal for a model that our decoder does not know (501), for ids that it
        does not have and where memory is short (503), EngineEnded where the process ends.
        """
        async with self._turn:
            if self._idle is not None:
                self._idle.cancel()
            whole = False
            try:
                answer = await self._ask({"texts": texts, "alternatives": alternatives})
                whole = True
            finally:
                if not whole:
                    self.close()
            if "refused" in answer:
                await self.aclose()
                raise Refusal(answer["refused"], answer["status"])
            self._idle = asyncio.get_running_loop().call_later(_IDLE_S, self.close)
        return answer["scores"]

    def close(self) -> None:
        """End the process at once, and what it is doing. Safe to call twice; the next request starts another."""
        if self._idle is not None:
            self._idle.cancel()
            self._idle = None
        process, self._process = self._process, None
        if process is not None and process.returncode is None:
            try:
                process.kill()
            except ProcessLookupError:
                pass  # it ended by itself

    async def aclose(self) -> None:
        """`close`, and wait until the process is gone."""
        process = self._process
        self.close()
        if process is not None:
            await process.wait()

    async def _ask(self, request: dict[str, object]) -> dict[str, Any]:
        process = self._process
        if process is None or process.returncode is not None:
            process = self._process = await self._start()
        assert process.stdin is not None and process.stdout is not None
        try:
            process.stdin.write(json.dumps(request).encode() + b"\n")
            await process.stdin.drain()
        except OSError:
            pass  # it has ended; it may have said why
        try:
            size = int(await process.stdout.readline())
            return await anyio.to_thread.run_sync(_read, await process.stdout.readexactly(size))
        except (OSError, ValueError, asyncio.IncompleteReadError) as error:
            raise EngineEnded(
                "the process that scores prompts ended while it worked on this request, perhaps because memory ran "
                "out; try again with fewer or shorter prompts."
            ) from error

    async def _start(self) -> asyncio.subprocess.Process:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-P", "-m", "smidgen.serving.answers.scoring_child",
            stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.DEVNULL,
            env=os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
            start_new_session=True,  # Ctrl-C is for the server to understand
        )  # fmt: skip
        assert process.stdin is not None
        process.stdin.write(json.dumps(self._settings).encode() + b"\n")
        return process


def _read(raw: bytes) -> dict[str, Any]:
    """An answer of the process, its scores as such."""
    answer = json.loads(raw)
    scores = [
        TextScores(one["own"], [[(token, logprob) for token, logprob in top] for top in one["top"]])
        for one in answer.get("scores", ())
    ]
    return {**answer, "scores": scores}
