"""Whose cancellation it is."""

from __future__ import annotations

import asyncio

import pytest
from servers import eventually

from central_hub.callbacks import Runner
from central_hub.waiting import lasting, stop


class Ended(BaseException):
    """Nobody catches it by accident."""


@pytest.mark.parametrize("failure", [RuntimeError, asyncio.CancelledError, Ended])
async def test_lasting_work_is_begun_again(failure: type[BaseException]) -> None:
    begun = 0

    async def work() -> None:
        nonlocal begun
        begun += 1
        if begun == 1:
            raise failure
        await asyncio.Event().wait()

    task = lasting(work, "work")
    await eventually(lambda: begun == 2)
    await stop(task)
    assert task.cancelled()
    assert begun == 2


async def test_lasting_work_is_over_when_it_was_stopped() -> None:
    """And was cancelled once: what it does last isn't cut off."""
    begun, tidied = asyncio.Event(), False

    async def work() -> None:
        nonlocal tidied
        begun.set()
        try:
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0.02)
            tidied = True

    task = lasting(work, "work")
    await begun.wait()
    await stop(task)
    assert tidied


async def test_lasting_work_may_end() -> None:
    async def work() -> None:
        pass

    await asyncio.wait_for(lasting(work, "work"), 5)


@pytest.mark.parametrize("way", ["coroutine", "function that gives a coroutine"])
async def test_who_is_cancelled_while_a_callback_runs_is_cancelled_and_so_is_the_callback(way: str) -> None:
    begun, ended = asyncio.Event(), asyncio.Event()

    async def callback(_: object) -> None:
        begun.set()
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    called = callback if way == "coroutine" else lambda config: callback(config)
    calling = asyncio.ensure_future(Runner(60).call(called, {}))
    await begun.wait()
    calling.cancel()
    with pytest.raises(asyncio.CancelledError):
        await calling
    await asyncio.wait_for(ended.wait(), 5)
