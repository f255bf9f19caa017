"""Several models behind one address, in the memory that they may take together.

A model is loaded when it is first asked for. Where memory does not allow it, the one that was not used for the longest
time goes, but never one that is answering: the new one waits until those who are answered are done. While somebody
waits for memory nobody else comes in, so that a busy model cannot keep the others out.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import anyio

from smidgen.errors import SmidgenError
from smidgen.serving.hosting import Hosted
from smidgen.serving.line import Line
from smidgen.serving.refusals import Refusal
from smidgen.serving.upstream import Upstream
from smidgen.sizes import format_size

_PATIENCE_S = 60.0  # that a request waits for memory that others use
_TRY_AGAIN_S = 10.0


@dataclass
class Loaded:
    """A model that is ready. users: requests that need it now."""

    hosted: Hosted
    upstream: Upstream
    line: Line
    users: int = 0
    used_at: float = field(default_factory=time.monotonic)


class Pool:
    """The models of one server.

    load: makes a model's engine; it runs in a thread and may take minutes.
    memory: bytes that engines may take together; one alone is loaded whatever it takes.
    keep_alive: seconds after which an idle model is unloaded, None for never.
    longest_line: how many requests may wait for each model.
    """

    def __init__(
        self,
        models: list[Hosted],
        load: Callable[[Hosted], Upstream],
        memory: int,
        keep_alive: float | None,
        longest_line: int,
    ) -> None:
        self.models = {model.name: model for model in models}
        self._load, self._memory, self._keep_alive, self._longest_line = load, memory, keep_alive, longest_line
        self._loaded: dict[str, Loaded] = {}
        self._loading: dict[str, asyncio.Task[None]] = {}
        self._coming: dict[str, int] = {}  # bytes of those
        self._waiting: list[object] = []  # for memory, the first is next
        self._changed = asyncio.Condition()

    @property
    def first(self) -> Hosted:
        """The model of those who name none."""
        return next(iter(self.models.values()))

    def find(self, name: str | None) -> Hosted:
        """The model of this name. Raises Refusal with status 404 where there is none."""
        if not name:
            return self.first
        if name not in self.models:
            known = ", ".join(self.models)
            raise Refusal(
                f"there is no model {name[:80]!r} here, only {known}.", 404, param="model", code="model_not_found"
            )
        return self.models[name]

    def loaded(self) -> dict[str, Loaded]:
        """What is in memory now."""
        return dict(self._loaded)

    @asynccontextmanager
    async def use(self, model: Hosted) -> AsyncIterator[Loaded]:
        """The model, loaded and not to be unloaded within the context. Raises SmidgenError where it cannot be."""
        loaded = await self._take(model)
        try:
            yield loaded
        finally:
            with anyio.CancelScope(shield=True):
                async with self._changed:
                    loaded.users -= 1
                    loaded.used_at = time.monotonic()
                    self._changed.notify_all()

    async def unload_idle(self) -> None:
        """Unload what nobody has used for `keep_alive` seconds, until cancelled."""
        if self._keep_alive is None:
            return
        while True:
            async with self._changed:
                for one in list(self._loaded.values()):
                    if not one.users and time.monotonic() - one.used_at >= self._keep_alive:
                        await self._unload(one)
            await asyncio.sleep(min(1.0, self._keep_alive / 2))

    async def close(self) -> None:
        """Unload everything. Answers under way break off."""
        for task in self._loading.values():
            await asyncio.wait([task])
        for one in list(self._loaded.values()):
            await self._unload(one)

    async def _take(self, model: Hosted) -> Loaded:
        me = object()
        deadline = time.monotonic() + _PATIENCE_S
        async with self._changed:
            try:
                while True:
                    first = not self._waiting or self._waiting[0] is me
                    loaded = self._loaded.get(model.key)
                    if loaded is not None and first:
                        loaded.users += 1
                        return loaded
                    if loaded is None and model.key in self._loading:
                        await self._finish_loading(model)
                        continue
                    if loaded is None and first and await self._make_room(model):
                        self._coming[model.key] = model.bytes
                        self._loading[model.key] = asyncio.create_task(self._bring(model))
                        continue
                    if me not in self._waiting:
                        self._waiting.append(me)
                    await self._wait(deadline, model)
            finally:
                if me in self._waiting:
                    self._waiting.remove(me)
                    self._changed.notify_all()

    async def _finish_loading(self, model: Hosted) -> None:
        """Wait for a loading under way, which goes on if this request is cancelled. Raises what it failed with."""
        task = self._loading[model.key]
        self._changed.release()
        try:
            await asyncio.shield(task)
        finally:
            with anyio.CancelScope(shield=True):
                await self._changed.acquire()

    async def _bring(self, model: Hosted) -> None:
        upstream = None
        try:
            upstream = await anyio.to_thread.run_sync(self._load, model)
        finally:
            async with self._changed:
                if upstream is not None:
                    self._loaded[model.key] = Loaded(model, upstream, Line(upstream.slots, self._longest_line))
                del self._loading[model.key], self._coming[model.key]
                self._changed.notify_all()

    async def _make_room(self, model: Hosted) -> bool:
        """Unload idle models until this one fits; whether it does."""
        while self._taken() and self._taken() + model.bytes > self._memory:
            idle = [one for one in self._loaded.values() if not one.users]
            if not idle:
                return False
            await self._unload(min(idle, key=lambda one: one.used_at))
        return True

    def _taken(self) -> int:
        """Bytes of what is loaded or being loaded."""
        return sum(one.hosted.bytes for one in self._loaded.values()) + sum(self._coming.values())

    async def _unload(self, one: Loaded) -> None:
        del self._loaded[one.hosted.key]
        await anyio.to_thread.run_sync(one.upstream.close)

    async def _wait(self, deadline: float, model: Hosted) -> None:
        try:
            await asyncio.wait_for(self._changed.wait(), deadline - time.monotonic())
        except TimeoutError:
            raise Refusal(
                f"{model.name} cannot be loaded now: other models are answering and there is no memory beside them; "
                "try again later.", 503, code="overloaded", retry_after=_TRY_AGAIN_S,
            ) from None  # fmt: skip


def refuse_same_names(models: list[Hosted]) -> None:
    """Raises SmidgenError where two models go by one name: clients could not tell them apart."""
    names = [model.name for model in models]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise SmidgenError(f"two models are called {twice}; serve one of them from a folder or file of another name.")


def refuse_too_large(models: list[Hosted], memory: int | None) -> None:
    """Raises SmidgenError for a model that takes more than what was allowed for all."""
    for model in models:
        if memory is not None and model.bytes > memory:
            raise SmidgenError(
                f"--memory {format_size(memory)} is less than {model.name} takes alone, about "
                f"{format_size(model.bytes)}; allow more, or serve a smaller model or context (--ctx-size)."
            )
