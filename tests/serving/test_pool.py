"""Several models in the memory that they may take together."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any, cast

import pytest

from smidgen.errors import SmidgenError
from smidgen.serving import pool as pool_module
from smidgen.serving.hosting import Hosted
from smidgen.serving.pool import Pool, refuse_same_names, refuse_too_large
from smidgen.serving.refusals import Refusal


@dataclass
class Model:
    """What the pool needs of a `Hosted`."""

    name: str
    bytes: int = 10
    embeds: bool = False

    @property
    def key(self) -> str:
        return self.name


@dataclass
class Engines:
    """Pretended engines. events: `+a` when a is loaded, `-a` when it is unloaded."""

    events: list[str] = field(default_factory=list)
    broken: set[str] = field(default_factory=set)

    def load(self, model: Any) -> Any:
        if model.name in self.broken:
            raise SmidgenError(f"{model.name} is broken")
        self.events.append(f"+{model.name}")
        engines = self

        class Engine:
            slots, context = 1, 100

            def close(self) -> None:
                engines.events.append(f"-{model.name}")

        return Engine()


def run(
    test: Callable[[Pool, Engines], Awaitable[None]], memory: int = 20, keep_alive: float | None = None, **sizes: int
) -> list[str]:
    engines = Engines()
    models = [Model(name, sizes.get(name, 10)) for name in "abc"]

    async def with_pool() -> None:
        pool = Pool(cast("list[Hosted]", models), engines.load, memory, keep_alive, 8)
        async with asyncio.timeout(10):
            await test(pool, engines)
            await pool.close()

    asyncio.run(with_pool())
    return engines.events


async def use(pool: Pool, name: str, until: asyncio.Event | None = None) -> None:
    async with pool.use(pool.find(name)):
        if until is not None:
            await until.wait()


def test_the_model_not_used_for_longest_makes_room() -> None:
    async def test(pool: Pool, engines: Engines) -> None:
        for name in "abac":
            await use(pool, name)

    assert run(test) == ["+a", "+b", "-b", "+c", "-a", "-c"]


def test_a_model_is_loaded_once_for_many_who_ask_at_the_same_time() -> None:
    async def test(pool: Pool, engines: Engines) -> None:
        await asyncio.gather(*(use(pool, "a") for _ in range(5)))

    assert run(test) == ["+a", "-a"]


def test_a_model_that_answers_is_never_unloaded_and_the_next_waits_for_it() -> None:
    async def test(pool: Pool, engines: Engines) -> None:
        done = asyncio.Event()
        answering = asyncio.create_task(use(pool, "a", done))
        await asyncio.sleep(0.05)
        waiting = asyncio.create_task(use(pool, "b"))
        await asyncio.sleep(0.05)
        assert engines.events == ["+a"] and not waiting.done()
        late = asyncio.create_task(use(pool, "a"))  # does not overtake those who wait for memory
        await asyncio.sleep(0.05)
        assert not late.done()
        done.set()
        await asyncio.gather(answering, waiting, late)

    assert run(test, memory=10) == ["+a", "-a", "+b", "-b", "+a", "-a"]


def test_who_leaves_while_waiting_lets_the_others_in() -> None:
    async def test(pool: Pool, engines: Engines) -> None:
        done = asyncio.Event()
        answering = asyncio.create_task(use(pool, "a", done))
        await asyncio.sleep(0.05)
        waiting = asyncio.create_task(use(pool, "b"))
        await asyncio.sleep(0.05)
        late = asyncio.create_task(use(pool, "a"))
        waiting.cancel()
        await late
        done.set()
        await answering

    assert run(test, memory=10) == ["+a", "-a"]


def test_waiting_for_memory_has_an_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pool_module, "_PATIENCE_S", 0.05)

    async def test(pool: Pool, engines: Engines) -> None:
        done = asyncio.Event()
        answering = asyncio.create_task(use(pool, "a", done))
        await asyncio.sleep(0.02)
        with pytest.raises(Refusal, match="b cannot be loaded now") as caught:
            await use(pool, "b")
        assert caught.value.status == 503 and caught.value.retry_after
        done.set()
        await answering

    run(test, memory=10)


def test_a_model_that_cannot_be_loaded_is_an_error_each_time_and_harms_no_other() -> None:
    async def test(pool: Pool, engines: Engines) -> None:
        engines.broken.add("b")
        for _ in range(2):
            with pytest.raises(SmidgenError, match="b is broken"):
                await use(pool, "b")
        engines.broken.clear()
        await use(pool, "b")
        await use(pool, "a")

    assert run(test) == ["+b", "+a", "-b", "-a"]


def test_one_alone_is_loaded_whatever_it_takes() -> None:
    async def test(pool: Pool, engines: Engines) -> None:
        await use(pool, "a")
        await use(pool, "b")

    assert run(test, a=1000) == ["+a", "-a", "+b", "-b"]


def test_an_idle_model_goes_after_its_time() -> None:
    async def test(pool: Pool, engines: Engines) -> None:
        await use(pool, "a")
        task = asyncio.create_task(pool.unload_idle())
        while engines.events != ["+a", "-a"]:
            await asyncio.sleep(0.01)
        task.cancel()
        await use(pool, "a")

    assert run(test, keep_alive=0.05) == ["+a", "-a", "+a", "-a"]


def test_a_name_that_is_not_served_is_404_and_two_models_need_two_names() -> None:
    pool = Pool(cast("list[Hosted]", [Model("a"), Model("b")]), Engines().load, 10, None, 1)
    assert pool.find(None).name == pool.find("").name == "a" and pool.find("b").name == "b"
    with pytest.raises(Refusal, match="only a, b") as caught:
        pool.find("../../etc/passwd")
    assert caught.value.status == 404
    with pytest.raises(SmidgenError, match="two models are called a"):
        refuse_same_names(cast("list[Hosted]", [Model("a"), Model("a")]))


def test_a_model_that_takes_more_than_all_may_is_refused() -> None:
    models = cast("list[Hosted]", [Model("a", 10), Model("b", 40)])
    refuse_too_large(models, None)
    refuse_too_large(models, 40)
    with pytest.raises(SmidgenError, match="--memory 39 bytes is less than b takes alone, about 40 bytes"):
        refuse_too_large(models, 39)
