"""Runs what the application gave: its callbacks and its check, plain functions or coroutines, quick or stuck."""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import threading
from collections.abc import Awaitable, Callable
from typing import Any

from .waiting import within

Callback = Callable[[dict[str, Any]], Awaitable[Any] | Any]
"""Gets a config, a copy of its own. Raising refuses it."""


class CallbackTimeout(Exception):
    """The application didn't come to an end in time."""


class Runner:
    """Calls the application, one call at a time.

    A coroutine function runs on the event loop and is cancelled when its time is up. A plain function runs in a
    thread of its own, so that it may block without holding up heartbeats; it can't be cancelled, so the next call
    waits until it has ended.
    """

    def __init__(self, limit: float) -> None:
        self._limit = limit
        self._stuck: asyncio.Future[Any] | None = None

    async def call(self, callback: Callback, config: dict[str, Any]) -> None:
        """Raises whatever the callback raises, and `CallbackTimeout` when it takes longer than the limit."""
        if self._stuck is not None:
            await asyncio.wait({self._stuck})
            self._stuck = None
        if _is_coroutine_function(callback):
            running: asyncio.Future[Any] = asyncio.ensure_future(callback(config))
        else:
            running = _in_thread(callback, config)
        try:
            done, _ = await asyncio.wait({running}, timeout=self._limit)
        except asyncio.CancelledError:
            running.cancel()
            raise
        if not done:
            if _is_coroutine_function(callback):
                running.cancel()
            else:
                self._stuck = running
            raise CallbackTimeout(f"the callback took longer than {self._limit:g} s")
        if running.cancelled():
            raise CallbackTimeout("the callback was cancelled")
        result = running.result()
        if inspect.isawaitable(result):
            await within(self._limit, _awaited(result))


async def _awaited(result: Awaitable[Any]) -> Any:
    return await result


def _is_coroutine_function(callback: Callback) -> bool:
    return inspect.iscoroutinefunction(callback) or inspect.iscoroutinefunction(type(callback).__call__)


def _in_thread(callback: Callback, config: dict[str, Any]) -> asyncio.Future[Any]:
    """A daemon's thread: one that never ends doesn't keep the process from ending."""
    loop = asyncio.get_running_loop()
    future: asyncio.Future[Any] = loop.create_future()

    def settle(result: Any, error: BaseException | None) -> None:
        if future.done():
            return
        if error is None:
            future.set_result(result)
        else:
            future.set_exception(error)

    def work() -> None:
        result, error = None, None
        try:
            result = callback(config)
        except BaseException as raised:
            # What would end the loop, or can't be held by a future, is a refusal like any other.
            plain = isinstance(raised, Exception) and not isinstance(raised, StopIteration)
            error = raised if plain else RuntimeError(type(raised).__name__)
        with contextlib.suppress(RuntimeError):  # The loop is closed: nobody waits any more.
            loop.call_soon_threadsafe(settle, result, error)

    threading.Thread(target=work, name="central-hub callback", daemon=True).start()
    return future
