"""Several engines of one model, on this machine or on others, behind the same front: `--replicas N --ray ADDRESS`.

Ray Serve starts them, spreads requests over them and starts those again that are lost. Its own web server stays off:
requests come through the front alone. Prompts and answers are in no log of Ray's. All hosts need smidgen and the model
files under the same names; what each of them does is in replica.py.

Where a replica is lost, its requests get an error and those that wait go to others.
"""

import asyncio
import logging
import secrets
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import ExitStack, asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import anyio

from smidgen.bounds import within
from smidgen.engines.machine import default_threads
from smidgen.errors import EngineEnded, SmidgenError, printable
from smidgen.model.kept import AS_USUAL, KVType
from smidgen.progress import say
from smidgen.ray_cluster import connected, is_connected, last_line, silenced
from smidgen.serving.replica import Began, Broke, Engine, Replica, why_not_here
from smidgen.serving.upstream import Dialect

MOST_REPLICAS = 1024
_LOG_NOTHING = {"enable_access_log": False, "log_level": "CRITICAL"}
_HEALTH = {
    "health_check_period_s": 5,
    "health_check_timeout_s": 600,  # it may have to load the model again
    "graceful_shutdown_wait_loop_s": 0.1,
    "graceful_shutdown_timeout_s": 1,
    "max_constructor_retry_count": 1,  # at first; one that was running is tried again for ever
}
_LOOK_EVERY_S = 5.0  # while a request waits for the first word: whether there is anybody to answer
_STARTING_S = 0.2
_TELL_AGAIN_S = 5.0  # that a replica was lost
_TELL_AFTER_S = 15.0  # that it still waits for replicas


class RayUpstream:
    """An `Upstream` of so many llama.cpp, each with its own copy of the model in memory.

    address: "auto" or "HOST:PORT", of which this machine is part; "local" starts a Ray on this machine for us alone.
    threads: of each replica, which also stand for the CPUs that Ray reserves; default this machine's cores, which
    local replicas share.  The others are `LlamaServer`'s, and as there the caller has checked the files.
    Returns when all replicas answer. Raises SmidgenError where Ray is missing or not there, where a machine has not the
    same files, and where llama.cpp cannot start.
    """

    dialect: Dialect = "llama.cpp"

    def __init__(
        self,
        path: Path,
        *,
        replicas: int,
        address: str,
        ctx_size: int,
        parallel: int = 1,
        threads: int | None = None,
        name: str | None = None,
        draft: Path | None = None,
        lora: Path | None = None,
        template: str | None = None,
        kv: KVType = AS_USUAL,
    ) -> None:
        within("replicas", replicas, 1, MOST_REPLICAS)
        if address.startswith("ray://"):
            raise SmidgenError("answers cannot be streamed over ray://; start on a machine of the cluster, --ray auto.")
        threads = threads or max(1, default_threads() // (replicas if address == "local" else 1))
        engine = Engine.checked(
            path, ctx_size=ctx_size, parallel=parallel, threads=threads, name=name or path.name, draft=draft,
            lora=lora, template=template, kv=kv,
        )  # fmt: skip
        self.context, self.slots = ctx_size, replicas * parallel
        self._told_at = -_TELL_AGAIN_S
        self._application = f"smidgen-{secrets.token_hex(4)}"
        self._cleaning = ExitStack()
        try:
            alone = address == "local" and not is_connected()
            self._ray = self._cleaning.enter_context(connected(address, replicas * threads))
            self._serve = _ray_serve()
            self._refuse_where_files_differ(engine)
            if not alone:  # else everything ends with Ray itself
                self._cleaning.callback(self._end, not _serve_runs(self._ray))
            self._handle = self._start(engine, replicas, threads)
        except BaseException:  # also Ctrl-C while they load
            self.close()
            raise

    @asynccontextmanager
    async def exchange(self, method: str, path: str, body: dict[str, Any] | None) -> AsyncIterator["_RayAnswer"]:
        """See `Upstream`."""
        pieces = self._handle.remote(method, path, body)
        try:
            began = await self._first(pieces)
            yield _RayAnswer(began, pieces, self)
        finally:
            pieces.cancel()

    def close(self) -> None:
        """End the replicas, and Ray Serve and Ray where they were started for this."""
        self._cleaning.close()

    async def next_piece(self, pieces: Any) -> Began | bytes | None:
        """What comes next, None at the end. Raises EngineEnded where nothing more will come."""
        from ray.exceptions import RayActorError, RayError
        from ray.serve.exceptions import RayServeException

        try:
            piece = await anext(pieces)
        except StopAsyncIteration:
            return None
        except RayActorError as error:
            self._tell_of_loss()
            raise EngineEnded(
                "the replica that worked on this request ended; the others go on, and Ray starts it again."
            ) from error
        except (RayError, RayServeException) as error:
            raise EngineEnded("the replica broke off its answer to this request; try again.") from error
        if isinstance(piece, Broke):
            raise EngineEnded(piece.why)
        return piece

    async def _first(self, pieces: Any) -> Began:
        """The beginning of an answer, which may take long; while there is no replica at all, not for ever."""
        waiting = asyncio.ensure_future(self.next_piece(pieces))
        waiting.add_done_callback(lambda done: done.cancelled() or done.exception())  # also where nobody waits any more
        try:
            while not (await asyncio.wait([waiting], timeout=_LOOK_EVERY_S))[0]:
                await anyio.to_thread.run_sync(self._refuse_without_replicas)
            began = waiting.result()
        finally:
            waiting.cancel()
        if not isinstance(began, Began):
            raise EngineEnded("the replica that worked on this request gave no answer; try again.")
        return began

    def _tell_of_loss(self) -> None:
        """Once, although several requests notice."""
        if time.monotonic() - self._told_at > _TELL_AGAIN_S:
            self._told_at = time.monotonic()
            say("A replica was lost; Ray starts it again.")

    def _refuse_without_replicas(self) -> None:
        """Raises EngineEnded where none runs and Ray has failed to start one."""
        state = self._state()
        if state.running == 0 and state.failed:
            raise EngineEnded(f"no replica of this model runs: {state.reason}")

    def _refuse_where_files_differ(self, engine: Engine) -> None:
        """Ask every machine that could have a replica. Raises SmidgenError with the first one's words."""
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        ask = self._ray.remote(num_cpus=0, max_retries=0)(why_not_here)
        nodes = [node for node in self._ray.nodes() if node["Alive"] and node["Resources"].get("CPU")]
        places = [NodeAffinitySchedulingStrategy(node["NodeID"], soft=False) for node in nodes]
        answers = [ask.options(scheduling_strategy=place).remote(engine.files) for place in places]
        for node, answer in zip(nodes, answers, strict=True):
            try:
                reason = self._ray.get(answer)
            except self._ray.exceptions.RayError as error:
                host, why = printable(node["NodeManagerHostname"]), printable(last_line(error), 200)
                raise SmidgenError(f"{host} cannot run smidgen: {why}") from error
            if reason is not None:
                raise SmidgenError(reason)

    def _start(self, engine: Engine, replicas: int, threads: int) -> Any:
        """Ray Serve's handle to the replicas, all of which answer."""
        with silenced():
            self._serve.start(proxy_location="Disabled", logging_config=_LOG_NOTHING)
        deployment = self._serve.deployment(
            Replica, name="replica", num_replicas=replicas, max_ongoing_requests=engine.settings["parallel"],
            ray_actor_options={"num_cpus": threads}, logging_config=_LOG_NOTHING, **_HEALTH,
        )  # fmt: skip
        target = self._serve.RunTarget(deployment.bind(engine), name=self._application, route_prefix=None)
        [handle] = self._serve.run_many([target], wait_for_applications_running=False)
        self._wait_until_all_answer(replicas)
        return handle.options(stream=True).exchange

    def _wait_until_all_answer(self, replicas: int) -> None:
        tell_at = time.monotonic() + _TELL_AFTER_S
        while (state := self._state()).running < replicas:
            if state.failed:
                raise SmidgenError(state.reason)
            if time.monotonic() > tell_at:
                say(f"{state.running} of {replicas} replicas answer so far.")
                tell_at += 4 * _TELL_AFTER_S
            time.sleep(_STARTING_S)

    def _state(self) -> "_State":
        application = self._serve.status().applications.get(self._application)
        return _State(0, True, "they were stopped.") if application is None else _State.of(application)

    def _end(self, ours: bool) -> None:
        """End our replicas, and Ray Serve where it is ours and nobody else has come to use it."""
        with suppress(self._ray.exceptions.RayError, RuntimeError), silenced():
            self._serve.delete(self._application)
            if ours and not self._serve.status().applications:
                self._serve.shutdown()


class _State:
    """How the replicas are.  failed: Ray could not start one.  reason: why."""

    def __init__(self, running: int, failed: bool, reason: str) -> None:
        self.running, self.failed, self.reason = running, failed, reason

    @classmethod
    def of(cls, application: Any) -> "_State":
        """As Ray Serve tells it."""
        deployments = list(application.deployments.values())
        running = sum(one.replica_states.get("RUNNING", 0) for one in deployments)
        states = {application.status.value, *(one.status.value for one in deployments)}
        told = "\n".join([application.message, *(one.message for one in deployments)])
        return cls(running, not states.isdisjoint({"DEPLOY_FAILED", "UNHEALTHY"}), _reason(told))


class _RayAnswer:
    def __init__(self, began: Began, pieces: Any, upstream: RayUpstream) -> None:
        self.status = began.status
        self.headers: Mapping[str, str] = began.headers
        self._pieces, self._upstream = pieces, upstream

    async def read(self) -> bytes:
        return b"".join([piece async for piece in self.pieces()])

    async def pieces(self) -> AsyncIterator[bytes]:
        while isinstance(piece := await self._upstream.next_piece(self._pieces), bytes):
            yield piece


def _ray_serve() -> Any:
    """Raises SmidgenError where only other parts of Ray are installed."""
    try:
        from ray import serve
    except ImportError as error:
        raise SmidgenError("--replicas needs Ray Serve: pip install 'smidgen[cluster]'.") from error
    logging.getLogger("ray.serve").setLevel(logging.CRITICAL)
    return serve


def _serve_runs(ray: Any) -> bool:
    """Whether this cluster has a Ray Serve already."""
    try:
        ray.get_actor("SERVE_CONTROLLER_ACTOR", namespace="serve")
    except ValueError:
        return False
    return True


def _reason(told: str) -> str:
    """Our own error's words in what Ray tells about a replica that did not start; else its last line."""
    for line in told.splitlines():
        kind, _, words = line.strip().partition(": ")
        if kind.startswith("smidgen.errors.") and words:
            return words
    return printable(last_line(Exception(told)), 300)
