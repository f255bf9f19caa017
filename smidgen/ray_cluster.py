"""Ray at an address: silent, without statistics, and one of our own on this machine only.

`distillation/team/cluster.py` trains on it, `serving/replicas.py` serves from it. Ray is the extra `cluster`.
"""

import ctypes
import logging
import os
import secrets
import signal
import socket
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlsplit

from smidgen.errors import SmidgenError, printable
from smidgen.progress import say

#: What nobody has set otherwise. No statistics; of what Ray would tell people and other machines only what is needed.
_SETTINGS = {
    "RAY_USAGE_STATS_ENABLED": "0", "RAY_TRAIN_V2_ENABLED": "1", "RAY_TRAIN_METRICS_ENABLED": "0",
    "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0", "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.5",
    "RAY_TRAIN_ENABLE_PRINT_PATCH": "0", "RAY_TRAIN_ENABLE_WORKER_STRUCTURED_LOGGING": "0",
    "RAY_BACKEND_LOG_LEVEL": "fatal", "RAY_SERVE_LOG_TO_STDERR": "0",
}  # fmt: skip
#: For a Ray of our own: it listens on loopback, as Ray does by itself on macOS and Windows; and what listens asks for a
#: token, without which anybody on this machine could have programs run.
_ALONE = {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0", "RAY_AUTH_MODE": "token"}
_CONNECTING_S = 10
_SIGACTION_BYTES = 1024  # more than the structure has anywhere
_OBJECTS = 2**28  # bytes for what processes of a Ray of our own hand each other: text, and how it goes


@contextmanager
def connected(address: str, cpus: int = 1) -> Iterator[Any]:
    """Ray at an address: "auto", "HOST:PORT", "ray://HOST:PORT"; "local" starts one for us alone, with so many CPUs.

    Raises SmidgenError where Ray is not installed, or nobody answers.
    """
    for name, value in _SETTINGS.items():
        os.environ.setdefault(name, value)
    alone: dict[str, Any] = {}
    if address == "local":
        for name, value in (*_ALONE.items(), ("RAY_AUTH_TOKEN", secrets.token_hex(32))):
            os.environ.setdefault(name, value)  # before Ray is imported, which reads some of it then
        cores = max(os.cpu_count() or 1, cpus + 1)  # Ray waits for as many as the work asks for
        alone = {"include_dashboard": False, "num_cpus": cores, "object_store_memory": _OBJECTS}
    try:
        import ray
        from ray.exceptions import RayError
    except ImportError as error:
        raise SmidgenError("--ray needs Ray: pip install 'smidgen[cluster]'.") from error
    if is_connected():  # by whoever called us
        yield ray
        return
    _refuse_where_nobody_listens(address)
    logging.getLogger("ray").setLevel(logging.ERROR)
    if alone:  # That process is for a web page. Without one it still asks the cloud's servers on which of them it runs.
        ray._private.services.start_api_server = lambda *_, **__: (None, None)  # pyright: ignore
    # For each worker that ends Ray would print a paragraph on stdout. What that means is told by whoever needs it.
    ray._private.worker.print_to_stdstream = lambda *_, **__: None  # pyright: ignore
    try:
        with silenced(), _sigterm_kept():
            ray.init(address, logging_level=logging.ERROR, log_to_driver=False, **alone)
            there = int(ray.cluster_resources().get("CPU", 0))
    except (ValueError, RuntimeError, OSError, RayError) as error:
        raise _no_ray(address, error) from error
    try:
        if there < cpus:
            say(f"This cluster has {there} CPUs, and {cpus} are needed: waiting for more.")
        yield ray
    finally:
        with silenced():
            ray.shutdown()


def _refuse_where_nobody_listens(address: str) -> None:
    """Raises SmidgenError at once. Ray itself goes on trying for minutes, and says nothing."""
    try:
        found = urlsplit(address if "://" in address else f"//{address}")
        host, port = found.hostname, found.port
        if host is not None and port is not None:
            socket.create_connection((host, port), timeout=_CONNECTING_S).close()
    except (OSError, ValueError) as error:
        raise _no_ray(address, error) from error


def _no_ray(address: str, error: Exception) -> SmidgenError:
    reason = printable(" ".join(str(error).split()), 120)
    return SmidgenError(f"no Ray answers at {printable(address)}: {reason}. Start one, or say --ray local.")


def is_connected() -> bool:
    """Whether this process has a Ray already."""
    ray = sys.modules.get("ray")
    return ray is not None and ray.is_initialized()


@contextmanager
def silenced() -> Iterator[None]:
    """Without standard error, which Ray uses to say that it has been told to be silent; errors are raised anyway."""
    sys.stderr.flush()
    kept = os.dup(2)
    try:
        with open(os.devnull, "wb") as nowhere:
            os.dup2(nowhere.fileno(), 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)


@contextmanager
def _sigterm_kept() -> Iterator[None]:
    """What is done at SIGTERM stays as it was. Ray would write a stack trace; undone in C, as threads may not."""
    if sys.platform == "win32":
        yield
        return
    library, kept = ctypes.CDLL(None), ctypes.create_string_buffer(_SIGACTION_BYTES)
    handler = signal.getsignal(signal.SIGTERM)
    library.sigaction(signal.SIGTERM, None, kept)
    try:
        yield
    finally:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, handler)
        library.sigaction(signal.SIGTERM, kept, None)


def last_line(error: Exception) -> str:
    """What Ray's error says in the end; before that it repeats where it was raised."""
    lines = [line for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__
