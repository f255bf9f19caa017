"""The line in front of an engine."""

import asyncio

import pytest

from smidgen.serving.line import Line
from smidgen.serving.refusals import Refusal


def test_those_who_wait_are_served_in_the_order_in_which_they_came() -> None:
    order: list[int] = []

    async def request(line: Line, number: int) -> None:
        async with line.place():
            order.append(number)
            await asyncio.sleep(0)

    async def all_of_them() -> None:
        line = Line(2, longest=20)
        await asyncio.gather(*(request(line, number) for number in range(20)))
        assert line.working == line.waiting == 0

    asyncio.run(all_of_them())
    assert order == list(range(20))


def test_a_full_line_is_said_with_the_time_after_which_to_try_again() -> None:
    async def fill() -> None:
        line, done = Line(1, longest=1), asyncio.Event()

        async def keep() -> None:
            async with line.place():
                await done.wait()

        waiting = [asyncio.create_task(keep()) for _ in range(2)]
        await asyncio.sleep(0)
        with pytest.raises(Refusal, match="1 requests are being answered and 1 wait") as caught:
            async with line.place():
                pass
        assert caught.value.status == 503 and (caught.value.retry_after or 0) >= 1
        waiting[1].cancel()  # a client that leaves while it waits
        await asyncio.sleep(0)
        assert (line.working, line.waiting) == (1, 0)
        done.set()
        await asyncio.gather(*waiting, return_exceptions=True)
        async with line.place():
            assert line.working == 1

    asyncio.run(fill())


def test_no_line_at_all_lets_in_those_for_whom_there_is_a_slot() -> None:
    async def try_it() -> None:
        line = Line(1, longest=0)
        async with line.place():
            with pytest.raises(Refusal):
                async with line.place():
                    pass

    asyncio.run(try_it())
