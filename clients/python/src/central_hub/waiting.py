"""Waits that a cancellation always ends.

`asyncio.wait_for` before Python 3.12, which nats-py uses as well, loses a cancellation that comes together with the
result; whoever was to be stopped then runs for ever. These don't.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

T = TypeVar("T")

log = logging.getLogger("central_hub")

_LOST = 3.0
"""Seconds after which a cancellation has been lost; who tidies up takes less."""


async def happens(event: asyncio.Event, timeout: float | None) -> bool:
    """Whether the event is set within ``timeout`` seconds; ``None`` waits for ever."""
    waiting = asyncio.ensure_future(event.wait())
    try:
        await asyncio.wait({waiting}, timeout=timeout)
        return event.is_set() or waiting.done()
    finally:
        waiting.cancel()


async def within(timeout: float | None, call: Coroutine[Any, Any, T]) -> T:
    """What the call gives; cancels it and raises `TimeoutError` when it takes longer than ``timeout`` seconds."""
    task = asyncio.ensure_future(call)
    task.add_done_callback(see)
    try:
        done, _ = await asyncio.wait({task}, timeout=timeout)
    except asyncio.CancelledError:
        task.cancel()
        raise
    if not done:
        task.cancel()
        raise TimeoutError
    return task.result()


async def apart(call: Coroutine[Any, Any, T]) -> T:
    """What a call of nats-py gives. Who is cancelled stops waiting at once; the call itself goes on to its own end."""
    task = asyncio.ensure_future(call)
    task.add_done_callback(see)
    return await asyncio.shield(task)


def see(task: asyncio.Future[Any]) -> None:
    """A callback for the end of a task: has no exception logged that nobody waits for any more."""
    if not task.cancelled():
        task.exception()


class _Lasting(asyncio.Task[None]):
    """Knows whether it is itself what is cancelled; `cancelling` only comes with Python 3.11."""

    is_stopped = False

    def cancel(self, msg: Any = None) -> bool:
        self.is_stopped = True
        return super().cancel(msg)


def lasting(work: Callable[[], Coroutine[Any, Any, None]], name: str) -> asyncio.Task[None]:
    """A task that does the work until it is cancelled or ends by itself. A defect is logged, and doesn't end it: nor
    does the cancellation of something that the work waits for."""

    async def run() -> None:
        while True:
            try:
                return await work()
            except (KeyboardInterrupt, SystemExit, GeneratorExit):
                # The program ends, or its loop did.
                raise
            except BaseException as error:
                if isinstance(error, asyncio.CancelledError) and task.is_stopped:
                    raise
                log.exception("%s failed; it is begun again", name)
                await asyncio.sleep(1)

    task = _Lasting(run(), loop=asyncio.get_running_loop(), name=f"central-hub: {name}")
    return task


async def stop(*tasks: asyncio.Future[Any] | None) -> None:
    """Cancels the tasks, again where that seems lost, and returns when they are over. What they raise is seen by
    nobody."""
    running = {task for task in tasks if task is not None and not task.done()}
    while running:
        for task in running:
            task.cancel()
        over, running = await asyncio.wait(running, timeout=_LOST)
        for task in over:
            see(task)
