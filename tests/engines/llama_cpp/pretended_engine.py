"""An engine that computes nothing, on a machine and a clock that do as they are told."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from smidgen.engines.llama_cpp import bench, timed


@dataclass
class Machine:
    """What time it is, and how quick engines are on this machine.

    prompt_rate, decode_rate: tokens a second where nothing is in the way.  share: of the processors that an engine asks
    for, how much it gets; it takes so much longer.  loading_s: how long an engine takes to start.
    hiccup: the first request that reads so many tokens takes ten times as long to write; None where none does.
    asked: each request: the model, the length of its prompt, and how many tokens it wanted.
    """

    prompt_rate: float = 256.0
    decode_rate: float = 64.0
    share: float = 1.0
    loading_s: float = 1.0
    clock: float = 0.0
    hiccup: int | None = None
    asked: list[tuple[str, int, int]] = field(default_factory=list)
    contexts: list[int] = field(default_factory=list)

    def now(self) -> float:
        return self.clock

    def install(self, monkeypatch: pytest.MonkeyPatch) -> "Machine":
        """In the place of the real engine, clock and memory."""
        monkeypatch.setattr("smidgen.engines.time_limit.now", self.now)
        monkeypatch.setattr(timed, "LlamaServer", lambda path, **settings: Server(self, path, **settings))
        monkeypatch.setattr(timed, "busy_seconds", lambda: None)
        monkeypatch.setattr(bench, "BandwidthMeter", Bandwidth)
        return self


class Bandwidth:
    """10 GB/s."""

    best = 1e10

    def __init__(self, threads: int) -> None:
        pass

    def take_turn(self) -> None:
        pass


class Server:
    """As much of `LlamaServer` as timing needs."""

    def __init__(self, machine: Machine, path: Path, *, ctx_size: int, threads: int, **_settings: Any) -> None:
        self._machine, self._path, self._threads = machine, path, threads
        self._cpu = self._waited = 0.0
        machine.clock += machine.loading_s
        machine.contexts.append(ctx_size)

    def call(self, _endpoint: str, request: dict[str, Any]) -> dict[str, Any]:
        machine, read, wanted = self._machine, len(request["prompt"]), request["n_predict"]
        machine.asked.append((self._path.name, read, wanted))
        prompt_s = read / machine.prompt_rate / machine.share
        decode_s = (wanted - 1) / machine.decode_rate / machine.share
        if read == machine.hiccup:
            decode_s, machine.hiccup = 10 * decode_s, None
        machine.clock += prompt_s + decode_s
        self._cpu += (prompt_s + decode_s) * self._threads * machine.share
        self._waited += (prompt_s + decode_s) * self._threads * (1 - machine.share)
        figures = {"prompt_n": read, "prompt_ms": 1000 * prompt_s}
        return {"timings": figures | {"predicted_n": wanted, "predicted_ms": 1000 * decode_s}}

    def processor(self) -> dict[str, Any]:
        return {"cpu_seconds": self._cpu, "waited_seconds": self._waited, "on_gpu": False}

    def memory(self) -> dict[str, Any]:
        return {"resident_bytes": 100, "resident_parts": None, "peak_ram_bytes": 200}

    def close(self) -> None:
        pass
