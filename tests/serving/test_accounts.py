"""What a request is charged: what it used, an estimate where it was broken off, nothing where it was refused."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from smidgen.serving.accounts import Account
from smidgen.serving.journal import Entry
from smidgen.serving.keys import Budgets, Key
from smidgen.serving.metrics import Metrics
from smidgen.serving.refusals import Refusal

KEY = Key.of_secret("s3cret", "anna", 100)


def account_of(budgets: Budgets) -> Account:
    account = Account({"smidgen": Entry("/v1/messages"), "smidgen.key": KEY}, Metrics(), budgets, texts=False)
    account.asked("ours", "x" * 40)
    return account


async def message() -> AsyncIterator[dict[str, Any]]:
    """As Anthropic's streams count: what was read at the beginning, what was written at the end."""
    yield {"type": "message_start", "message": {"usage": {"input_tokens": 7, "output_tokens": 0}}}
    for _ in range(5):
        yield {"type": "content_block_delta"}
    yield {"type": "message_delta", "usage": {"output_tokens": 5}}


async def infill() -> AsyncIterator[dict[str, Any]]:
    for written in range(1, 6):
        yield {"content": "a", "tokens_evaluated": 7, "tokens_predicted": written}


def charged(events: AsyncIterator[dict[str, Any]], read: int | None) -> int:
    """Tokens that are charged for a stream of which a client reads so many events, or all."""
    budgets = Budgets()
    account = account_of(budgets)
    account.begin()

    async def reading() -> None:
        stream = account.events(events, True)
        place = 0
        async for _ in stream:
            place += 1
            if place == read:
                break
        await stream.aclose()  # pyright: ignore[reportAttributeAccessIssue]

    asyncio.run(reading())
    account.close(200)
    return budgets.used(KEY)


def test_a_stream_that_is_read_to_its_end_is_charged_by_its_counts() -> None:
    assert charged(message(), None) == 12 and charged(infill(), None) == 12


def test_what_was_written_counts_too_where_the_client_leaves() -> None:
    assert charged(message(), 5) == 12  # what was read, and five pieces
    assert charged(infill(), 3) == 10


@pytest.mark.parametrize(("status", "used"), [(400, 0), (429, 0), (499, 11), (503, 11)])
def test_a_refusal_is_free_and_what_is_broken_off_is_not(status: int, used: int) -> None:
    budgets = Budgets()
    account = account_of(budgets)
    account.begin()
    account.close(status)
    assert budgets.used(KEY) == used


def test_a_budget_that_is_used_up_meanwhile_refuses_those_who_waited() -> None:
    budgets = Budgets()
    first, second = account_of(budgets), account_of(budgets)
    first.begin()
    first.whole({"usage": {"prompt_tokens": 50, "completion_tokens": 50}})
    with pytest.raises(Refusal) as caught:
        second.begin()
    assert caught.value.status == 429
