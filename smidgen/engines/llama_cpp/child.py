"""The process that llama.cpp runs in: one model, its HTTP server on a loopback port, and nothing else.

A file or a request can end llama.cpp (an assertion, a parser that recurses too deep, a weight file that shrinks while
it is mapped), and what it takes in memory is its own. So it is never loaded into the process that a person has
started: `process.py` starts `python -m smidgen.engines.llama_cpp.child`, and `server.py` supervises it.

The parent writes one line of JSON to stdin, the `Settings`, and reads one line from stdout: `{"address": …}`, or
`{"refused": …}` before the process ends. From then on each line `memory` is answered with the process's memory, each
line `processor` with the processor time that it has had and whether it computes on a graphics card. The end of stdin,
which comes with the end of the parent however it ends, ends the process.

Settings that matter for safety are made here, once: no web interface, no state endpoints, no prompts in logs, browsers
of other sites not invited, and never a silent shift of the context.

Endpoints: https://github.com/ggml-org/llama.cpp/blob/master/tools/server/README.md
"""

import json
import os
import select
import signal
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any

from smidgen.engines.llama_cpp.loading import Loading, give_back
from smidgen.engines.llama_cpp.wheel import xllamacpp
from smidgen.engines.machine import peak_memory, processor_time, resident_memory
from smidgen.memory import usable_memory
from smidgen.model.kept import AS_USUAL, KV_TYPES, KVType

_LOADING_SHARE = 0.8  # of the memory that this machine has, or this container may use
_MEMORY_FOR_REQUESTS = 1 << 30  # bytes beyond what is there after loading; ordinary requests take some megabytes
_ERRORS, _VERBOSE = 1, 3  # llama.cpp's log levels; from 4 on it would print prompts


@dataclass(frozen=True)
class Settings:
    """How llama.cpp is started.

    path: a GGUF file that our own reader has checked, of a split model the first part.
    files: all that are mapped: every part of the model, and of the draft.  name: what answers call the model.
    ctx_size: tokens of context of each of `parallel` requests at a time (llama.cpp rounds up to 256).
    draft, lora: GGUF files that were checked, too.  template: replaces the model's chat template, which llama.cpp then
    never parses; None leaves the model's.  warm_up: run once after loading.  verbose: llama.cpp's own log.
    embeddings: vectors of texts, the mean over their tokens, instead of answers.
    kv: how keys and values are kept, of the model; its draft keeps float16.
    """

    path: str
    files: list[str]
    name: str
    ctx_size: int
    threads: int
    parallel: int
    api_key: str
    loading: Loading
    draft: str | None = None
    lora: str | None = None
    template: str | None = None
    warm_up: bool = False
    verbose: bool = False
    embeddings: bool = False
    kv: KVType = AS_USUAL

    def to_line(self) -> str:
        """As one line of JSON."""
        return json.dumps(asdict(self))

    @property
    def bytes(self) -> int:
        """Of the files that are loaded."""
        return sum(Path(file).stat().st_size for file in self.files)

    @classmethod
    def from_line(cls, line: str) -> "Settings":
        """What `to_line` wrote."""
        fields = json.loads(line)
        return cls(**fields | {"loading": Loading(**fields["loading"])})


def main() -> None:
    """Load the model, say where it answers, and stay until the parent lets go."""
    answers, settings = begin()
    try:
        server = xllamacpp().Server(_parameters(settings))
    except RuntimeError as error:
        tell(answers, {"refused": str(error)})
        os._exit(1)
    if settings.loading.given_back:
        give_back(Path(file) for file in settings.files)
    limit_private_memory(_private_memory() + _MEMORY_FOR_REQUESTS)
    tell(answers, {"address": server.listening_address})
    for line in sys.stdin:
        if line == "memory\n":
            resident, parts = resident_memory()
            tell(answers, {"resident_bytes": resident, "resident_parts": parts, "peak_ram_bytes": peak_memory()})
        elif line == "processor\n":
            tell(answers, {**processor_time(), "on_gpu": _on_gpu()})
    os._exit(0)  # at once: llama.cpp would wait for the requests under way


def _parameters(settings: Settings) -> Any:
    wheel = xllamacpp()
    params = wheel.CommonParams()
    params.model.path = settings.path
    params.model_alias = {settings.name}  # otherwise answers carry the full path of the file
    params.n_ctx, params.n_parallel = settings.ctx_size * settings.parallel, settings.parallel
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = settings.threads
    params.hostnames, params.port = ["127.0.0.1"], 0
    params.api_keys = [settings.api_key]
    params.verbosity = _VERBOSE if settings.verbose else _ERRORS
    params.n_batch = params.n_ubatch  # a cancelled request stops at the next batch, so keep them small
    params.warmup = settings.warm_up
    if settings.draft is not None:
        speculative = params.speculative
        speculative.types = [wheel.common_speculative_type.COMMON_SPECULATIVE_TYPE_DRAFT_SIMPLE]
        speculative.draft.mparams.path = settings.draft
        speculative.draft.cpuparams.n_threads = speculative.draft.cpuparams_batch.n_threads = settings.threads
    if settings.lora is not None:
        adapter = wheel.CommonAdapterLoraInfo()
        adapter.path, adapter.scale = settings.lora, 1.0
        params.lora_adapters = [adapter]
    if settings.template is not None:
        params.chat_template = settings.template
    if settings.embeddings:
        params.embedding, params.pooling_type = True, wheel.llama_pooling_type.LLAMA_POOLING_TYPE_MEAN
        params.n_batch = params.n_ubatch = params.n_ctx  # a text is read in one batch
    if settings.kv != AS_USUAL:
        params.cache_type_k = params.cache_type_v = wheel.ggml_type(KV_TYPES[settings.kv].ggml_id)
        params.flash_attn_type = wheel.llama_flash_attn_type.LLAMA_FLASH_ATTN_TYPE_ENABLED  # values need it
    settings.loading.set_up(params, wheel)
    params.ui = False
    params.endpoint_slots = params.endpoint_metrics = params.endpoint_props = False
    params.cors_origins = "localhost"  # llama.cpp's default lets the pages of any site read the answers
    params.ctx_shift = False
    params.cache_ram_mib = 0  # llama.cpp's default keeps up to 8 GiB of earlier prompts in memory
    return params


def _on_gpu() -> bool:
    """Whether llama.cpp has a graphics card here: then it computes there as far as the card's memory goes."""
    return any("GPU" in str(device["type"]) for device in xllamacpp().get_device_info())


def begin() -> tuple[IO[str], Settings]:
    """The way to the parent, and what it asks for; from here on this process ends with it, and first if memory ends."""
    answers = take_stdout()
    _end_with_the_parent()
    be_the_first_to_go()
    limit_private_memory(int(_LOADING_SHARE * usable_memory()))
    return answers, Settings.from_line(sys.stdin.readline())


def take_stdout() -> IO[str]:
    """Our own way to the parent; what llama.cpp prints goes to stderr instead."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    return answers


def _end_with_the_parent() -> None:
    """A small process beside this one that ends it when the parent's end of stdin closes.

    This process cannot do that itself: while llama.cpp loads, the wheel holds Python's lock.
    """
    if not hasattr(os, "fork"):
        return
    engine = os.getpid()
    if os.fork():
        return
    for number in (1, 2):
        os.close(number)  # the parent waits for their ends
    waiting = select.poll()
    waiting.register(0, 0)  # nothing is read here: only that the other end closes
    while os.getppid() == engine:
        if waiting.poll(1000):
            os.kill(engine, signal.SIGKILL)
            break
    os._exit(0)


def limit_private_memory(size: int) -> None:
    """Let this process have so many bytes of memory of its own (maps of files do not count): then requests fail."""
    try:
        import resource

        resource.setrlimit(resource.RLIMIT_DATA, (size, resource.RLIM_INFINITY))
    except (ImportError, OSError, ValueError):
        pass  # other systems have no such limit


def _private_memory() -> int:
    """What counts for that limit now. Large where the system does not tell."""
    try:
        return 1024 * int(Path("/proc/self/status").read_text().partition("VmData:")[2].split()[0])
    except (OSError, IndexError):
        return 1 << 46


def be_the_first_to_go() -> None:
    """No memory dump with a person's text in it after a crash; and if memory runs out, this process, not the parent."""
    try:
        import resource

        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        Path("/proc/self/oom_score_adj").write_text("500")
    except (ImportError, OSError, ValueError):
        pass  # other systems have neither


def tell(answers: IO[str], said: dict[str, Any]) -> None:
    """Send the parent a line of JSON."""
    print(json.dumps(said), file=answers, flush=True)


if __name__ == "__main__":
    main()
