"""Runs what the application gave: its callbacks and its check, plain functions or coroutines, quick or stuck."""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import threading
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

from .waiting import see

T = TypeVar("T")

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
        """Raises what the callback raises, and `CallbackTimeout` when it takes longer than the limit.

        What the callback raises arrives as an `Exception`, whatever it was: `CancelledError` means that the caller
        himself is cancelled.
        """
        if self._stuck is not None:
            await asyncio.wait({self._stuck})
            self._stuck = None
        if _is_coroutine_function(callback):
            result = await self._outcome(asyncio.ensure_future(_called(callback, config)))
        else:
            result = await self._outcome(_in_thread(callback, config))
        if inspect.isawaitable(result):
            await self._outcome(asyncio.ensure_future(_awaited(result)))

    async def _outcome(self, running: asyncio.Future[Any]) -> Any:
        running.add_done_callback(see)
        try:
            # Raises nothing of the application's: that stays in `running`.
            done, _ = await asyncio.wait({running}, timeout=self._limit)
        except asyncio.CancelledError:
            running.cancel()
            raise
        if not done:
            if isinstance(running, asyncio.Task):
                running.cancel()
            else:
                self._stuck = running
            raise CallbackTimeout(f"the callback took longer than {self._limit:g} s")
        if running.cancelled():
            raise CallbackTimeout("the callback was cancelled")
        error = running.exception()
        if error is not None:
            raise _refusal(error)
        return running.result()


def ask(function: Callable[..., T], *arguments: Any) -> T:
    """Calls a function of the application that returns at once, on the event loop.

    Raises what it raises, as an `Exception`, but for what is meant to end the program.
    """
    try:
        return function(*arguments)
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException as error:
        raise _refusal(error) from error


def _refusal(error: BaseException) -> Exception:
    """What would end the task that judges, or can't be held by a future, is a refusal like any other."""
    if isinstance(error, Exception) and not isinstance(error, StopIteration):
        return error
    return RuntimeError(type(error).__name__)


async def _called(callback: Callback, config: dict[str, Any]) -> Any:
    return await callback(config)


async def _awaited(result: Awaitable[Any]) -> Any:
    return await result


def _is_coroutine_function(callback: Callback) -> bool:
    return inspect.iscoroutinefunction(callback) or inspect.iscoroutinefunction(type(callback).__call__)


def _in_thread(callback: Callback, config: dict[str, Any]) -> asyncio.Future[Any]:
    """A daemon's thread: one that never ends doesn't keep the process from ending."""
    loop = asyncio.get_running_loop()
    future: asyncio.Future[Any] = loop.create_future()

    def settle(result: Any, error: Exception | None) -> None:
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
            error = _refusal(raised)
        with contextlib.suppress(RuntimeError):  # The loop is closed: nobody waits any more.
            loop.call_soon_threadsafe(settle, result, error)

    threading.Thread(target=work, name="central-hub callback", daemon=True).start()
    return future
