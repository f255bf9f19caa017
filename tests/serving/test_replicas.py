"""Two engines behind one front: both answer, one that is lost costs only what it was writing, and nothing is logged.

One Ray for all tests of this file: it takes seconds to start. The one that reads its logs comes after those that write.
"""

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import anyio
import pytest

from smidgen.engines.llama_cpp.server import BUILT_IN_TEMPLATE
from smidgen.errors import EngineEnded, SmidgenError
from smidgen.serving.replica import KnownFile, why_not_here
from smidgen.serving.replicas import RayUpstream
from tests.tiny_models import write_gemma3

MARK = "Rhubarb-Umlaut-9731"
ENDLESS = 100_000  # tokens: it ends with the context, minutes later
PATIENCE_S = 120  # before a test that waits for ever fails

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="looks for processes")


@pytest.fixture(scope="module")
def upstream(smollm_path: Path) -> Iterator[RayUpstream]:
    running = RayUpstream(
        smollm_path, replicas=2, address="local", ctx_size=4096, threads=1, template=BUILT_IN_TEMPLATE
    )
    yield running
    running.close()


@asynccontextmanager
async def asked(upstream: RayUpstream, tokens: int, stream: bool) -> AsyncIterator[AsyncIterator[bytes]]:
    """The pieces of an answer that has begun well."""
    body = {"prompt": f"{MARK}. Once upon a time", "n_predict": tokens, "stream": stream, "ignore_eos": True}
    async with upstream.exchange("POST", "/completion", body) as answer:
        assert answer.status == 200
        yield answer.pieces()


async def written(upstream: RayUpstream, tokens: int, stream: bool = False) -> str:
    """What came of a request: the answer, or why there is no whole one."""
    try:
        async with asked(upstream, tokens, stream) as pieces:
            return b"".join([piece async for piece in pieces]).decode()
    except EngineEnded as error:
        return str(error)


@asynccontextmanager
async def both_busy(upstream: RayUpstream) -> AsyncIterator[list["asyncio.Task[str]"]]:
    """Two answers under way at the same time, which means in two replicas: each takes one request at a time."""
    async with AsyncExitStack() as left:
        begun = [await left.enter_async_context(asked(upstream, ENDLESS, stream=True)) for _ in range(2)]
        for pieces in begun:
            assert b"content" in await anext(pieces)
        tasks = [asyncio.create_task(_read_on(pieces)) for pieces in begun]
        try:
            yield tasks
        finally:
            for task in tasks:
                task.cancel()


async def _read_on(pieces: AsyncIterator[bytes]) -> str:
    try:
        return b"".join([piece async for piece in pieces]).decode()
    except EngineEnded as error:
        return str(error)


async def first_done(tasks: list["asyncio.Task[str]"]) -> str:
    done, going = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    assert len(going) == 1  # the other replica goes on
    return done.pop().result()


def children(word: str, parents: set[int]) -> set[int]:
    """The processes with a word in their command that one of these has started."""
    listed = subprocess.run(
        ["ps", "-eww", "-o", "pid=", "-o", "ppid=", "-o", "args="], capture_output=True, text=True, check=True
    ).stdout
    found = (line.split(None, 2) for line in listed.splitlines())
    return {int(pid) for pid, parent, command in found if word in command and int(parent) in parents}


def replicas() -> set[int]:
    return children("ray::ServeReplica", children("raylet", {os.getpid()}))


def test_both_answer_and_a_client_that_leaves_frees_its_slot(upstream: RayUpstream) -> None:
    async def leave_and_ask_again() -> None:
        with anyio.fail_after(PATIENCE_S):
            for _ in range(4):
                async with both_busy(upstream):
                    pass
            answers = await asyncio.gather(*(written(upstream, 3, stream) for stream in (True, False, True)))
            assert all("content" in answer for answer in answers)

    assert (upstream.slots, upstream.context) == (2, 4096)
    asyncio.run(leave_and_ask_again())


def test_one_that_waits_and_leaves_is_nowhere_to_be_found(upstream: RayUpstream) -> None:
    async def leave_while_waiting() -> None:
        with anyio.fail_after(PATIENCE_S):
            async with both_busy(upstream):
                waiting = [asyncio.create_task(written(upstream, ENDLESS)) for _ in range(6)]
                await asyncio.sleep(0.1)
                for task in waiting:
                    task.cancel()
            async with both_busy(upstream):
                pass

    asyncio.run(leave_while_waiting())


def test_a_replica_that_is_killed_costs_only_what_it_was_writing(
    upstream: RayUpstream, capfd: pytest.CaptureFixture[str]
) -> None:
    async def kill_one() -> None:
        with anyio.fail_after(PATIENCE_S):
            before = replicas()
            async with both_busy(upstream) as answers:
                waiting = [asyncio.create_task(written(upstream, 3, stream)) for stream in (True, False) * 3]
                os.kill(before.copy().pop(), signal.SIGKILL)
                assert await first_done(answers) == (
                    "the replica that worked on this request ended; the others go on, and Ray starts it again."
                )
            assert all("content" in answer for answer in await asyncio.gather(*waiting))
            async with both_busy(upstream):  # Ray has started it again
                assert len(replicas()) == 2 and replicas() != before

    asyncio.run(kill_one())
    assert "A replica was lost; Ray starts it again." in "".join(capfd.readouterr())


def test_an_engine_that_ends_is_started_again_by_its_replica(upstream: RayUpstream) -> None:
    async def end_one() -> None:
        with anyio.fail_after(PATIENCE_S):
            before = replicas()
            async with both_busy(upstream) as answers:
                os.kill(children("llama_cpp.child", before).pop(), signal.SIGSEGV)
                assert "a segmentation fault" in await first_done(answers)
            async with both_busy(upstream):
                assert replicas() == before

    asyncio.run(end_one())


def test_what_a_replica_cannot_start_with_is_said_and_leaves_no_application(
    upstream: RayUpstream, smollm_path: Path, tmp_path: Path
) -> None:
    from ray import serve

    model = write_gemma3(tmp_path / "tiny.gguf")
    with pytest.raises(SmidgenError, match="vocabular"):
        RayUpstream(model, replicas=1, address="local", ctx_size=256, threads=1, draft=smollm_path)
    assert len(serve.status().applications) == 1


def test_no_prompt_and_no_answer_is_in_rays_logs(upstream: RayUpstream) -> None:
    import ray

    assert "content" in asyncio.run(written(upstream, 3))
    node = ray._private.worker._global_node  # pyright: ignore
    logs = [path for path in Path(node.get_session_dir_path()).rglob("*") if path.is_file()]
    assert len(logs) > 5
    assert not [path.name for path in logs if MARK.encode() in path.read_bytes()]


def test_another_file_under_the_same_name_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    path.write_bytes(b"one")
    known = KnownFile.of(path)
    assert why_not_here([known]) is None
    path.write_bytes(b"two")
    assert "is another file (other content); copy the model there again." in (why_not_here([known]) or "")
    path.write_bytes(b"three")
    assert "is another file (5 bytes instead of 3)" in (why_not_here([known]) or "")
    path.unlink()
    assert "cannot read" in (why_not_here([known]) or "") and "copy the model there." in (why_not_here([known]) or "")


def test_what_cannot_be_is_said_in_a_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = write_gemma3(tmp_path / "tiny.gguf")
    with pytest.raises(SmidgenError, match="cannot be streamed over ray://"):
        RayUpstream(model, replicas=2, address="ray://127.0.0.1:1", ctx_size=256)
    with pytest.raises(SmidgenError, match="replicas"):
        RayUpstream(model, replicas=0, address="local", ctx_size=256)
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(SmidgenError, match=r"^--ray needs Ray: pip install 'smidgen\[cluster\]'.$"):
        RayUpstream(model, replicas=2, address="local", ctx_size=256)
