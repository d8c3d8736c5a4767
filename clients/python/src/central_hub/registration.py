"""One registered instance: what it said of itself, and its heartbeats."""

from __future__ import annotations

import asyncio
import logging
import math
import random
from collections.abc import Callable, Sequence
from typing import Any, Protocol, TypeVar

from .backoff import Backoff
from .callbacks import ask
from .calls import Calls, given
from .errors import (
    BadRequest,
    HubError,
    HubUnavailable,
    Internal,
    NotRegistered,
    Overloaded,
    StaleIncarnation,
    StoreUnavailable,
    TooLarge,
)
from .names import check_status, fresh_instance
from .waiting import happens, see

T = TypeVar("T")

log = logging.getLogger("central_hub")

PASSING = (HubUnavailable, StoreUnavailable, Overloaded, Internal)
"""What may be over at the next try."""

_QUIET = 300.0
"""Seconds before a complaint that each heartbeat may give rise to is logged again."""

Status = Callable[[], str]
Metrics = Callable[[], "dict[str, float]"]


class ConfigReporter(Protocol):
    """Who knows which config this process runs: a config client."""

    def report(self) -> dict[str, Any]:
        """The fields ``config_revision``, ``config_version`` and ``config_error`` of a heartbeat."""

    def hub_says(self, config: Any, instance_id: str) -> None:
        """Takes what the hub says should be in force."""


class Registration:
    """This process as an instance of a service, however often it registers. All of its talk with the hub goes one at a
    time."""

    def __init__(
        self, calls: Calls, service_name: str, reporters: Callable[[], Sequence[ConfigReporter]] = lambda: ()
    ) -> None:
        self.service_name = service_name
        self.answer: dict[str, Any] | None = None
        """The hub's answer to the newest registration; ``None`` while there is none."""
        self.interval = 30.0
        """Seconds between heartbeats, as the hub says."""
        self._about: dict[str, Any] = {}
        """What it said of itself in the newest registration."""
        self._own_id = fresh_instance(service_name)
        """For a registration that names neither an id nor a place: sent again, it must not become a second record."""
        self._former: list[dict[str, Any]] = []
        """Who it was before under another id, where no goodbye was heard yet."""
        self._is_lost = False
        """Whether the hub doesn't know the newest registration, or perhaps a newer one, whose answer didn't come."""
        self._status = "healthy"
        self._calls = calls
        self._reporters = reporters
        self._turn = asyncio.Lock()
        self._attempts: dict[asyncio.Task[dict[str, Any]], asyncio.Event] = {}
        self._ended = asyncio.Event()
        self._due = asyncio.Event()
        self._beating: asyncio.Task[None] | None = None
        self._complained: dict[str, float] = {}

    @property
    def instance_id(self) -> str | None:
        """The id under which the hub knows it; ``None`` before it does."""
        return self.answer["instance_id"] if self.answer else None

    @property
    def attempts(self) -> set[asyncio.Task[dict[str, Any]]]:
        """The registrations that are under way."""
        return set(self._attempts)

    async def register(self, about: dict[str, Any], timeout: float | None) -> dict[str, Any]:
        """Registers, or renews the registration, and tries again until it succeeds or ``timeout`` seconds are over.

        Raises `HubError` for what another try can't change; what was registered before then stays.
        """
        given_up = asyncio.Event()
        # A task of its own: who is cancelled while the hub works on it can still learn how it ended.
        attempt = asyncio.ensure_future(self._attempt(about, given_up))
        self._attempts[attempt] = given_up
        attempt.add_done_callback(self._forget)
        try:
            done, _ = await asyncio.wait({attempt}, timeout=timeout)
        finally:
            given_up.set()
        if not done:
            raise HubUnavailable(f"{self.service_name} could not be registered within {timeout:g} s")
        if attempt.cancelled():
            raise HubUnavailable("this client is closed")
        return attempt.result()

    async def beat(self, status: str | None = None, metrics: dict[str, float] | None = None) -> dict[str, Any]:
        """One heartbeat, repeated until it is answered; registers again first when the hub has lost the registration.

        ``None`` repeats the status that was said last.
        """
        if status is not None:
            check_status(status)
        backoff = Backoff(0.25, max(0.5, min(5.0, self.interval / 2)))
        while True:
            try:
                async with self._turn:
                    return await self._beat(status, metrics)
            except PASSING as error:
                await self._wait(backoff, error, "heartbeat", self._ended)

    async def deregister(self, timeout: float | None = None) -> dict[str, Any]:
        """Says goodbye. A newer process under the same id isn't touched."""
        self.stop()
        self._give_up()
        async with self._turn:
            self._check_registered()
            await self._part(timeout)
            answer = await self._calls.call(f"deregister.{self.service_name}", self._identity(), timeout=timeout)
            self.answer, self._about, self._is_lost = None, {}, False
            return answer

    def start(self, status: Status | None, metrics: Metrics | None) -> None:
        """Beats in the background from now on; the functions are asked at each heartbeat."""
        self.stop()
        task = self._keep_beating(status, metrics)
        self._beating = asyncio.get_running_loop().create_task(task, name=f"heartbeats of {self.service_name}")
        self._calls.connection.on_session(self.hurry)

    def stop(self) -> None:
        """Ends the heartbeats in the background."""
        self._calls.connection.off_session(self.hurry)
        if self._beating is not None:
            self._beating.cancel()
            self._beating = None

    def end(self) -> None:
        """The client closes: nothing is tried again, and after the goodbye nothing is said any more."""
        self.stop()
        self._ended.set()
        self._give_up()

    def hurry(self) -> None:
        """Has the next heartbeat in the background sent within half a second: there is news."""
        self._due.set()

    def _give_up(self) -> None:
        """Has the registrations end with the try that is under way."""
        for given_up in self._attempts.values():
            given_up.set()

    def _forget(self, attempt: asyncio.Task[dict[str, Any]]) -> None:
        self._attempts.pop(attempt, None)
        see(attempt)

    def _check_open(self) -> None:
        if self._ended.is_set():
            raise HubUnavailable("this client is closed")

    def _check_registered(self) -> None:
        """Whoever waited for his turn may find it deregistered."""
        if self.answer is None:
            raise NotRegistered("not_registered", f"{self.service_name} isn't registered by this client any more")

    def _identity(self) -> dict[str, Any]:
        return {name: self.answer[name] for name in ("instance_id", "incarnation")} if self.answer else {}

    async def _attempt(self, about: dict[str, Any], given_up: asyncio.Event) -> dict[str, Any]:
        async with self._turn:
            named = self._about.get("instance_id") or (None if {"host", "port"} <= set(about) else self._own_id)
            about = given(instance_id=named, status="healthy") | about
            backoff = Backoff(0.25, 15.0)
            while True:
                try:
                    answer = await self._register(about)
                except PASSING as error:
                    await self._wait(backoff, error, "registration", given_up)
                else:
                    # The new record doesn't know yet which config runs here.
                    self.hurry()
                    return answer

    async def _register(self, about: dict[str, Any]) -> dict[str, Any]:
        self._check_open()
        try:
            answer = await self._calls.call(f"register.{self.service_name}", about)
        except (asyncio.CancelledError, *PASSING):
            # It may have been done all the same.
            self._is_lost = True
            raise
        before = self._identity()
        self.answer, self._is_lost, self._status = answer, False, about["status"]
        # From now on this process is that instance: who registers again takes the place of its own record.
        self._about = about | {"instance_id": answer["instance_id"]}
        if before and before["instance_id"] != answer["instance_id"]:
            self._former.append(before)
        self._note(answer)
        for warning in answer.get("warnings") or []:
            log.warning("registration of %s: %s", self.service_name, warning)
        log.info("registered %s as instance %s", self.service_name, answer["instance_id"])
        await self._part()
        return answer

    async def _part(self, timeout: float | None = None) -> None:
        """Says goodbye for who it was before. What isn't heard is said again next time."""
        for former in list(self._former):
            try:
                await self._calls.call(f"deregister.{self.service_name}", former, timeout=timeout)
            except PASSING as error:
                log.warning("goodbye of %s, instance %s: %s", self.service_name, former["instance_id"], error)
                return
            except HubError as error:
                log.info("goodbye of %s, instance %s: %s", self.service_name, former["instance_id"], error)
            self._former.remove(former)

    async def _beat(self, status: str | None, metrics: dict[str, float] | None) -> dict[str, Any]:
        self._check_open()
        self._check_registered()
        self._status = status or self._status
        for _ in range(3):
            if self._is_lost:
                await self._register(self._about | {"status": self._status})
            reporters = self._reporters()
            report = reporters[-1].report() if reporters else {}
            body = given(status=self._status, metrics=metrics) | self._identity() | report
            try:
                answer = await self._calls.call(f"heartbeat.{self.service_name}", body)
            except NotRegistered:
                log.warning("%s isn't registered any more: registering again", self.service_name)
                self._is_lost = True
            except StaleIncarnation:
                other = self._about["instance_id"]
                log.warning(
                    "another process registered %s as %s: registering under a fresh id", self.service_name, other
                )
                self._about["instance_id"] = fresh_instance(other)
                self._is_lost = True
            else:
                self._note(answer)
                return answer
        raise HubUnavailable(f"{self.service_name} is registered again and again, and yet unknown")

    def _note(self, answer: dict[str, Any]) -> None:
        interval = answer.get("heartbeat_interval_seconds")
        if isinstance(interval, (int, float)) and interval > 0:
            self.interval = float(interval)
        for reporter in self._reporters():
            reporter.hub_says(answer.get("config"), str(answer["instance_id"]))

    async def _wait(self, backoff: Backoff, error: Exception, what: str, over: asyncio.Event) -> None:
        """Waits for the next try. Raises when there is none: ``over``, or the client closes."""
        if not over.is_set():
            suggested = error.retry_after if isinstance(error, HubError) else None
            delay = max(backoff.next(), suggested or 0.0)
            log.warning("%s of %s: %s; next try in %.1f s", what, self.service_name, error, delay)
            await happens(over, delay)
        self._check_open()
        if over.is_set():
            raise error

    # --- in the background --------------------------------------------------------------------------------------------

    async def _keep_beating(self, status: Status | None, metrics: Metrics | None) -> None:
        while True:
            self._due.clear()
            try:
                await self._beat_as_asked(status, metrics)
            except Exception as error:  # A refusal that the next heartbeat may not meet.
                self._complain("it is refused", error)
            # A little early, at random: a fleet that started together spreads out, and the timeout is never near.
            if await happens(self._due, self.interval * random.uniform(0.85, 1.0)):
                await asyncio.sleep(random.uniform(0, min(0.5, self.interval / 4)))

    async def _beat_as_asked(self, status: Status | None, metrics: Metrics | None) -> None:
        """Whatever is wrong with what the application says: the process lives."""
        said = self._asked("status", lambda: check_status(status())) if status else None
        numbers = self._asked("metrics", lambda: _finite(metrics())) if metrics else None
        try:
            await self.beat(said, numbers)
        except (BadRequest, TooLarge, ValueError) as error:
            if not numbers:
                raise
            self._complain("the metrics are refused; heartbeats go without them", error)
            await self.beat(said)

    def _asked(self, what: str, question: Callable[[], T]) -> T | None:
        try:
            return ask(question)
        except Exception as error:
            self._complain(f"{what}= failed; heartbeats go without it", error)
            return None

    def _complain(self, what: str, error: Exception) -> None:
        now = asyncio.get_running_loop().time()
        if now - self._complained.get(what, -math.inf) >= _QUIET:
            self._complained[what] = now
            log.error("heartbeat of %s: %s", self.service_name, what, exc_info=error)


def _finite(metrics: dict[str, float]) -> dict[str, float]:
    """Without what isn't a finite number: one gauge that has nothing to show doesn't hide the others."""
    numbers = {str(name): float(value) for name, value in metrics.items()}
    return {name: value for name, value in numbers.items() if math.isfinite(value)}
