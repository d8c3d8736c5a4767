"""One registered instance: what it said of itself, and its heartbeats."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Callable
from typing import Any, Protocol

from .backoff import Backoff
from .callbacks import ask
from .calls import Calls, given
from .errors import HubError, HubUnavailable, Internal, NotRegistered, Overloaded, StaleIncarnation, StoreUnavailable
from .names import fresh_instance
from .waiting import happens

log = logging.getLogger("central_hub")

PASSING = (HubUnavailable, StoreUnavailable, Overloaded, Internal)
"""What may be over at the next try."""

Status = Callable[[], str]
Metrics = Callable[[], "dict[str, float]"]


class ConfigReporter(Protocol):
    """Who knows which config this process runs: a config client."""

    def report(self) -> dict[str, Any]:
        """The fields ``config_revision``, ``config_version`` and ``config_error`` of a heartbeat."""

    def hub_says(self, config: Any, instance_id: str) -> None:
        """Takes what the hub says should be in force."""


class Registration:
    """An instance and the registration that it got last. All of its talk with the hub goes one at a time."""

    def __init__(
        self,
        calls: Calls,
        service_name: str,
        about: dict[str, Any],
        reporter: Callable[[], ConfigReporter | None],
        former: Registration | None = None,
    ) -> None:
        """``former``: the one of this service that this one takes the place of; what it is still saying goes first."""
        if former is not None:
            former.stop()
            former.abandon()
        self.service_name = service_name
        self.about = about
        self.answer: dict[str, Any] | None = None
        """The hub's answer to the newest registration; ``None`` before there is one."""
        self.interval = 30.0
        """Seconds between heartbeats, as the hub says."""
        self._status = str(about.get("status", "healthy"))
        self._calls = calls
        self._reporter = reporter
        self._turn: asyncio.Lock = asyncio.Lock() if former is None else former._turn
        self._abandoned = asyncio.Event()
        self._due = asyncio.Event()
        self._beating: asyncio.Task[None] | None = None

    @property
    def instance_id(self) -> str | None:
        """The id under which the hub knows it; ``None`` before it does."""
        return self.answer["instance_id"] if self.answer else None

    async def register(self) -> dict[str, Any]:
        """Registers, and tries again until it succeeds. Raises `HubError` for what another try can't change."""
        async with self._turn:
            return await self._register()

    async def beat(self, status: str | None = None, metrics: dict[str, float] | None = None) -> dict[str, Any]:
        """One heartbeat, repeated until it is answered; registers again first when the hub has lost the registration.

        ``None`` repeats the status that was said last.
        """
        if status is not None:
            self._status = status
        backoff = Backoff(0.25, max(0.5, min(5.0, self.interval / 2)))
        while True:
            try:
                async with self._turn:
                    return await self._beat(metrics)
            except PASSING as error:
                await self._wait(backoff, error, "heartbeat")

    async def deregister(self, timeout: float | None = None) -> dict[str, Any]:
        """Says goodbye. A newer process under the same id isn't touched."""
        self.stop()
        async with self._turn:
            return await self._calls.call(f"deregister.{self.service_name}", self._identity(), timeout=timeout)

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

    def abandon(self) -> None:
        """Has a registration end with the try that is under way: nobody waits for it any more."""
        self._abandoned.set()

    def hurry(self) -> None:
        """Has the next heartbeat in the background sent within half a second: there is news."""
        self._due.set()

    def _identity(self) -> dict[str, Any]:
        return {name: self.answer[name] for name in ("instance_id", "incarnation")} if self.answer else {}

    async def _register(self) -> dict[str, Any]:
        backoff = Backoff(0.25, 15.0)
        while True:
            try:
                answer = await self._calls.call(f"register.{self.service_name}", self.about | {"status": self._status})
            except PASSING as error:
                await self._wait(backoff, error, "registration", self._abandoned)
                if self._abandoned.is_set():
                    raise
                continue
            self.answer = answer
            # From now on this process is that instance: who registers again takes the place of its own record.
            self.about["instance_id"] = answer["instance_id"]
            self._note(answer)
            for warning in answer.get("warnings") or []:
                log.warning("registration of %s: %s", self.service_name, warning)
            log.info("registered %s as instance %s", self.service_name, answer["instance_id"])
            return answer

    async def _beat(self, metrics: dict[str, float] | None) -> dict[str, Any]:
        for _ in range(3):
            reporter = self._reporter()
            body = (
                given(status=self._status, metrics=metrics) | self._identity() | (reporter.report() if reporter else {})
            )
            try:
                answer = await self._calls.call(f"heartbeat.{self.service_name}", body)
            except NotRegistered:
                log.warning("%s isn't registered any more: registering again", self.service_name)
                await self._register()
            except StaleIncarnation:
                other = self.about.get("instance_id")
                self.about["instance_id"] = fresh_instance(other)
                log.warning(
                    "another process registered %s as %s: registering under a fresh id", self.service_name, other
                )
                await self._register()
            else:
                self._note(answer)
                return answer
        raise HubUnavailable(f"{self.service_name} is registered again and again, and yet unknown")

    def _note(self, answer: dict[str, Any]) -> None:
        interval = answer.get("heartbeat_interval_seconds")
        if isinstance(interval, (int, float)) and interval > 0:
            self.interval = float(interval)
        reporter = self._reporter()
        if reporter is not None:
            reporter.hub_says(answer.get("config"), str(answer["instance_id"]))

    async def _wait(self, backoff: Backoff, error: Exception, what: str, cut: asyncio.Event | None = None) -> None:
        """Waits for the next try, or until ``cut``."""
        suggested = error.retry_after if isinstance(error, HubError) else None
        delay = max(backoff.next(), suggested or 0.0)
        log.warning("%s of %s: %s; next try in %.1f s", what, self.service_name, error, delay)
        await happens(cut or asyncio.Event(), delay)

    async def _keep_beating(self, status: Status | None, metrics: Metrics | None) -> None:
        while True:
            try:
                await self.beat(ask(status) if status else None, ask(metrics) if metrics else None)
            except Exception:  # The application's functions, or a refusal that the next heartbeat may not meet.
                log.exception("heartbeat of %s", self.service_name)
            # A little early, at random: a fleet that started together spreads out, and the timeout is never near.
            if await happens(self._due, self.interval * random.uniform(0.85, 1.0)):
                await asyncio.sleep(random.uniform(0, min(0.5, self.interval / 4)))
            self._due.clear()
