"""The verb `serve`: an OpenAI-compatible server for one model or several, until it is told to stop."""

import asyncio
import hashlib
import os
import socket
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import NoReturn, cast

from starlette.applications import Starlette

from smidgen import progress
from smidgen.bounds import MOST_THREADS, one_of, within
from smidgen.errors import SmidgenError
from smidgen.formats.hub.catalogue import ModelName
from smidgen.formats.hub.home import cache_folder
from smidgen.memory import usable_memory
from smidgen.model.kept import AS_USUAL, KV_TYPES, KVType, kept_in_words
from smidgen.serving.admission import own_names
from smidgen.serving.engines import Engines
from smidgen.serving.front import Door, build_front
from smidgen.serving.gate import Gate
from smidgen.serving.guard.defaults import default_policies
from smidgen.serving.guard.judging import Guard
from smidgen.serving.guard.policies import read_policies
from smidgen.serving.guard.protocols import choose_protocol
from smidgen.serving.guard.redaction import Redactor
from smidgen.serving.hosting import Hosted
from smidgen.serving.journal import Journal
from smidgen.serving.keys import Budgets, Key, read_keys
from smidgen.serving.listening import address_of, is_loopback, listening_socket
from smidgen.serving.pool import Pool, refuse_same_names, refuse_too_large
from smidgen.serving.upstream import LocalUpstream
from smidgen.serving.web_server import WebServer

_MOST_PARALLEL = 4096
_LAST_WORDS_S = 60  # that answers under way have when the server is told to stop
_SIGNALS_SEEN_S = 0.1
_MEMORY_SHARE = 0.8


@dataclass(frozen=True)
class Served:
    """A server that has begun.

    address: `http://host:port`.  names: of its models.  chats: whether the first one has a chat template.
    """

    address: str
    names: tuple[str, ...]
    chats: bool


def serve(
    model: ModelName | Sequence[ModelName], *, host: str = "127.0.0.1", port: int = 8080, api_key: str | None = None,
    keys: str | os.PathLike[str] | None = None, no_auth: bool = False, parallel: int = 1, ctx_size: int | None = None,
    threads: int | None = None, draft: ModelName | None = None, lora: str | os.PathLike[str] | None = None,
    template: str | None = None, memory: int | None = None, keep_alive: float | None = None, queue: int = 64,
    time_limit: float = 600.0, max_tokens: int | None = None, log: str | None = None, log_text: bool = False,
    guard: ModelName | None = None, guard_protocol: str | None = None,
    policies: str | os.PathLike[str] | None = None, redact_prompts: bool = False, engine: str = "llama.cpp",
    replicas: int | None = None, ray: str | None = None, kv: KVType = AS_USUAL,
    allow_hosts: Sequence[str] = (), allow_origins: Sequence[str] = (),
    announce: Callable[[Served], None] | None = None,
) -> NoReturn:  # fmt: skip
    """Serve one model or several (names, paths or loaded `Model`s) until Ctrl-C or SIGTERM, which end this process with
    code 0. Answers under way are finished first; a second signal ends them, too.

    host: any but a loopback address needs `api_key`, `keys` or `no_auth`.  port: 0 takes a free one.
    keys: a TOML file of keys with budgets (see keys.py).
    parallel: requests at a time, each with `ctx_size` tokens of context; default the model's own, at most 4096.
    queue: how many more may wait for each model.
    draft: a smaller model of the same vocabulary that proposes tokens.  lora: an adapter, as `tune` writes it.
    template: the name of one of the model's chat templates, where it has several. These three, and `replicas`, go with
    one model only.
    memory: bytes that models may take together, default 80% of this machine's.
    keep_alive: seconds after which an idle model is unloaded; None never.
    time_limit: seconds that one answer may take.  max_tokens: the most that one answer may have.
    log: a file to which a line is added for each request, `-` for stderr; log_text: with prompts and answers.
    guard: a classifier model that judges prompts and answers (see guard/).  guard_protocol: what it speaks, where its
    file does not say.  policies: a TOML file of them.  redact_prompts: hide from the model what tells who somebody is.
    engine: "vllm" for a folder in Hugging Face layout, where vLLM is installed.
    replicas, ray: so many engines on a Ray cluster ("local" starts one here).
    kv: how all models keep keys and values; q8_0 and q4_0 take less memory. A draft and a guard keep f16.
    allow_hosts: more names by which clients may call this server, as behind a proxy.
    allow_origins: web pages of other machines that may use it, such as `https://chat.example.org`.
    announce: called once, when the server answers; by default the address is printed.
    Raises SmidgenError for an address that may not or cannot be listened on, BadFile or Unsupported for a model.
    """
    within("port", port, 0, 65535)
    within("parallel", parallel, 1, _MOST_PARALLEL)
    within("threads", threads, 1, MOST_THREADS)
    within("queue", queue, 0)
    within("time_limit", time_limit, 1, whole=False)
    within("max_tokens", max_tokens, 1)
    held = _keys(api_key, keys)
    check_exposure(host, bool(held), no_auth)
    if log_text and log is None:
        raise SmidgenError("--log-text says what is in the log; add --log FILE.")
    names: list[ModelName] = list(model) if isinstance(model, list | tuple) else [cast("ModelName", model)]
    if len(names) > 1 and (draft or lora or template or replicas):
        raise SmidgenError(
            "--draft, --lora, --template and --replicas go with one model; serve the others on another port."
        )
    engines = Engines(engine, threads, replicas, ray)
    one_of("kv", kv, KV_TYPES)
    engines.refuse_together(draft=draft, lora=lora, template=template, kv=None if kv == AS_USUAL else kv)
    models = [
        Hosted.check(name, ctx_size=ctx_size, parallel=parallel, template=template, draft=draft, lora=lora, kv=kv)
        for name in names
    ]
    if kv != AS_USUAL:
        for hosted in models:
            words = kept_in_words(kv, hosted.facts.kept, hosted.context, hosted.parallel)
            progress.say(f"{hosted.name}: {words}" if len(models) > 1 else words)
    refuse_same_names(models)
    redactor = Redactor() if redact_prompts or (log_text and guard is not None) else None
    journal = Journal(log, log_text, None if redactor is None else redactor.for_log)
    door = Door(
        hosts={*own_names(host), *allow_hosts}, origins=allow_origins, any_address=not is_loopback(host), keys=held,
        budgets=Budgets(_budgets_file(keys)), seconds=time_limit, most_tokens=max_tokens,
    )  # fmt: skip
    share = int(_MEMORY_SHARE * usable_memory()) if memory is None else memory
    refuse_too_large(models, memory)
    with listening_socket(host, port) as listener, _guard(guard, guard_protocol, policies, threads) as judge:
        pool = Pool(models, engines.start, share, keep_alive, queue)
        front = build_front(pool, door, journal, Gate(judge, redactor if redact_prompts else None), threads)
        say = announce or _print_address
        served = Served(address_of(listener, host), tuple(pool.models), models[0].facts.has_chat_template)
        _Server(front, pool, lambda: say(served)).run([listener])
    sys.exit(0)


@contextmanager
def _guard(
    model: ModelName | None, said: str | None, policies: str | os.PathLike[str] | None, threads: int | None
) -> Iterator[Guard | None]:
    """The guard and its engine, which stays loaded."""
    if model is None:
        if said or policies:
            raise SmidgenError("--policies and --guard-protocol are for a guard; add --guard MODEL.")
        yield None
        return
    hosted = Hosted.check(model)
    protocol = choose_protocol(hosted.facts.metadata, said)
    chosen = default_policies(protocol.name) if policies is None else read_policies(Path(policies))
    progress.say(f"The guard {hosted.name} speaks {protocol.title}'s protocol ({protocol.why}).")
    with hosted.start(threads) as server:

        def guard() -> Guard:
            return Guard(LocalUpstream(server, 1), hosted.facts, protocol, chosen)

        for decision in asyncio.run(guard().judge("prompt", [], "Hello.")):
            if decision.verdict == "undecided":
                progress.say(f"Note: the guard cannot judge a plain hello. {decision.reason} Is this model a guard?")
                break
        yield guard()


def _keys(api_key: str | None, file: str | os.PathLike[str] | None) -> list[Key]:
    keys = [] if not api_key else [Key.of_secret(api_key)]
    return keys if file is None else keys + read_keys(Path(file))


def _budgets_file(keys: str | os.PathLike[str] | None) -> Path | None:
    """Where it is kept what the keys of a file have used."""
    if keys is None:
        return None
    return cache_folder() / "budgets" / f"{hashlib.sha256(str(Path(keys).resolve()).encode()).hexdigest()[:32]}.json"


def _print_address(served: Served) -> None:
    print(f"smidgen serves {', '.join(served.names)} on {served.address}/v1", flush=True)


class _Server(WebServer):
    """It loads the first model before it answers, and finishes what is under way before it ends."""

    def __init__(self, front: Starlette, pool: Pool, announce: Callable[[], None]) -> None:
        super().__init__(front, announce, _LAST_WORDS_S)
        self._pool = pool

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Load the first model, and answer from then on. A signal meanwhile ends everything."""
        loading = asyncio.ensure_future(self._load_first())
        while not loading.done() and not self.should_exit:
            await asyncio.wait([loading], timeout=_SIGNALS_SEEN_S)
        if self.should_exit:
            os._exit(0)  # a loading engine ends with this process
        loading.result()
        await super().startup(sockets)

    async def _load_first(self) -> None:
        async with self._pool.use(self._pool.first):
            pass

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Finish what is under way; end it at the second signal."""
        running = sum(one.users for one in self._pool.loaded().values())
        if self.should_exit:
            self.force_exit = True
        elif running:
            progress.say(f"Finishing {running} answers under way; the same again ends them.")
        self.should_exit = True


def check_exposure(host: str, keyed: bool, no_auth: bool = False) -> None:
    """Refuse to serve beyond this machine without a key, unless that was said. Raises SmidgenError."""
    if keyed and no_auth:
        raise SmidgenError("--no-auth lets everybody in, so that a key means nothing; leave one of them out.")
    if not keyed and not no_auth and not is_loopback(host):
        raise SmidgenError(
            f"--host {host} lets other machines in, which needs a key: add --api-key SECRET or --keys FILE, use "
            "--host 127.0.0.1, or say --no-auth to let everybody in."
        )
