"""`CentralHubClient`: say that you run, and find out who else does."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from .calls import Calls, an_object, given
from .closing import Closing
from .connection import Connection
from .discovery import OnChange, ServicesView
from .errors import CentralHubError, HubUnavailable, NotFound
from .names import check_instance, check_service
from .options import ConnectionArgs, Options
from .registration import ConfigReporter, Metrics, Registration, Status
from .waiting import stop, within

if TYPE_CHECKING:
    from typing_extensions import Unpack

log = logging.getLogger("central_hub")

_GOODBYE = 2.0
"""Seconds that a close waits for the hub to take a goodbye."""


class CentralHubClient(Closing):
    """A service's or a tool's way to a hub.

    ``base_url`` is the address of NATS, several separated by commas; without it ``CENTRAL_HUB_NATS_URL``, else
    ``nats://127.0.0.1:4222``. Further arguments: `ConnectionArgs`. Nothing is connected before the first call, so a
    client can be made anywhere. As a context manager it closes itself::

        async with CentralHubClient() as hub:
            await hub.register_service(service_name="tick-aggregator", host="10.0.0.5", port=8002)
            hub.start_heartbeats()
            ...

    ``timeout`` is how many seconds a call waits for its answer.
    """

    def __init__(
        self,
        base_url: str | Sequence[str] | None = None,
        *,
        timeout: float = 5.0,
        **connection: Unpack[ConnectionArgs],
    ) -> None:
        self.connection = Connection(Options.read(base_url, connection, os.environ))
        """The connection to NATS; clients that get this one as their ``hub`` share it."""
        self._calls = Calls(self.connection, timeout)
        self._registrations: dict[str, Registration] = {}
        self._reporters: dict[str, list[ConfigReporter]] = {}
        self._views: set[ServicesView] = set()
        self._closed = False

    async def close(self) -> None:
        """Stops the heartbeats, says goodbye for everything that was registered here, and ends the connection.

        Takes seconds at the most, also when nobody answers: about two, and as long as a call waits for its answer
        where a registration was cut off. What is under way ends with `HubUnavailable`, and so does each later call.
        """
        self._closed = True
        for registration in self._registrations.values():
            registration.end()
        attempts = {attempt for one in self._registrations.values() for attempt in one.attempts}
        if attempts and self.connection.is_up:
            # A registration that was cut off may have reached the hub: learn its incarnation, to take it back.
            await asyncio.wait(attempts, timeout=self._calls.timeout)
        await stop(*attempts)
        registered = [one for one in self._registrations.values() if one.answer]
        if registered and self.connection.is_up:
            goodbyes = {asyncio.ensure_future(self._say_goodbye(one)) for one in registered}
            _, silent = await asyncio.wait(goodbyes, timeout=_GOODBYE)
            await stop(*silent)
        self._registrations.clear()
        for view in list(self._views):
            await view.close()
        await self.connection.close()

    async def _say_goodbye(self, registration: Registration) -> None:
        try:
            await registration.deregister(_GOODBYE)
        except CentralHubError as error:
            log.info("goodbye of %s: %s", registration.service_name, error)

    # --- this process -------------------------------------------------------------------------------------------------

    async def register_service(
        self,
        service_name: str,
        *,
        version: str | None = None,
        host: str | None = None,
        port: int | None = None,
        dependencies: Sequence[str] | None = None,
        metadata: Mapping[str, Any] | None = None,
        instance_id: str | None = None,
        status: str | None = None,
        heartbeat_interval_seconds: float | None = None,
        config_schema: dict[str, Any] | bool | None = None,
        require_dependencies: bool | None = None,
        timeout: float | None = None,
    ) -> dict[str, Any]:
        """Says that this process runs, and tries again, ever slower, until the hub has it.

        The fields are those of ``hub.register`` (see subjects.md). Without ``instance_id`` the hub derives one from
        ``host`` and ``port``, so that a restart takes the place of its own record. With ``timeout``, gives up after
        so many seconds with `HubUnavailable`. Raises `HubError` when another try can't help: `BadRequest`, or
        `DependencyUnavailable` where ``require_dependencies`` was asked for.

        A client is one instance of a service. Called again, it renews that instance, whose heartbeats go on; under
        another ``instance_id`` it becomes that one and says goodbye for the former.

        Gives the hub's answer: ``instance_id``, ``incarnation``, ``heartbeat_interval_seconds``, the ``config`` that
        should be in force, the state of each dependency. The client remembers it all, for `heartbeat` and
        `deregister`.
        """
        self._check_open()
        check_service(service_name)
        about = given(
            instance_id=check_instance(instance_id) if instance_id is not None else None,
            version=version,
            host=host,
            port=port,
            dependencies=list(dependencies) if dependencies is not None else None,
            metadata=an_object("metadata", metadata) if metadata is not None else None,
            status=status,
            heartbeat_interval_seconds=heartbeat_interval_seconds,
            config_schema=config_schema,
            require_dependencies=require_dependencies,
        )
        registration = self._registrations.get(service_name)
        if registration is None:
            registration = Registration(self._calls, service_name, lambda: self._reporters.get(service_name, ()))
            self._registrations[service_name] = registration
        return await registration.register(about, timeout)

    def _check_open(self) -> None:
        if self._closed:
            raise HubUnavailable("this client is closed")

    def _own(self, service_name: str) -> Registration | None:
        """This process' registration, or the one that is under way."""
        registration = self._registrations.get(service_name)
        return registration if registration and (registration.answer or registration.attempts) else None

    async def heartbeat(
        self,
        service_name: str,
        status: str = "healthy",
        metrics: Mapping[str, float] | None = None,
        *,
        instance_id: str | None = None,
        timeout: float | None = None,
    ) -> dict[str, Any]:
        """Says that the service is alive, and how well: ``healthy``, ``degraded`` or ``down``.

        For a service that was registered here it speaks as that instance, registers again when the hub doesn't know
        it any more, and under a fresh id when another process took its own. It is repeated until it is answered, so a
        loop of heartbeats outlives any outage; with ``timeout``, gives up after so many seconds with
        `HubUnavailable`. ``metrics`` are up to 64 finite numbers by name.

        For any other it is one plain request; ``instance_id`` says whose, where the service has several.

        Gives the hub's answer, with the ``config`` that should be in force. Raises `HubError` for what another try
        can't change.
        """
        numbers = an_object("metrics", metrics) if metrics is not None else None
        registration = self._own(check_service(service_name))
        if registration is None or registration.answer is None or instance_id not in (None, registration.instance_id):
            body = given(status=status, metrics=numbers, instance_id=instance_id)
            return await self._calls.call(f"heartbeat.{service_name}", body, timeout=timeout)
        try:
            return await within(timeout, registration.beat(status, numbers))
        except TimeoutError:
            raise HubUnavailable(f"the heartbeat of {service_name} got no answer within {timeout:g} s") from None

    def start_heartbeats(
        self, service_name: str | None = None, *, status: Status | None = None, metrics: Metrics | None = None
    ) -> None:
        """Beats in the background, at the interval that the hub says, until the service is deregistered or the client
        closes.

        For one service that was registered here, or for all. ``status`` and ``metrics`` are functions that are asked
        at each heartbeat; without ``status`` it repeats what was said last. Numbers that aren't finite are left out.
        What fails or is refused is logged, and the heartbeat goes without it. Raises `LookupError` when there is
        nothing to beat for.
        """
        names = self._registrations if service_name is None else [service_name]
        chosen = [own for own in map(self._own, names) if own]
        if not chosen:
            raise LookupError(
                f"{service_name or 'no service'} is registered by this client: call register_service first"
            )
        for registration in chosen:
            registration.start(status, metrics)

    async def deregister(self, service_name: str, instance_id: str | None = None) -> dict[str, Any]:
        """Says goodbye: the instance's record goes, its history stays. A process that took its place isn't touched.

        For a service that wasn't registered here, ``instance_id`` says which instance, where it has several.
        """
        registration = self._own(check_service(service_name))
        if registration is None or instance_id not in (None, registration.instance_id):
            return await self._calls.call(f"deregister.{service_name}", given(instance_id=instance_id))
        return await registration.deregister()

    def instance_id(self, service_name: str) -> str | None:
        """The id under which this client has registered the service; ``None`` while it hasn't."""
        registration = self._registrations.get(service_name)
        return registration.instance_id if registration else None

    # --- the others ---------------------------------------------------------------------------------------------------

    async def get_services(
        self,
        status: str | None = None,
        *,
        service_name: str | None = None,
        metadata: Mapping[str, Any] | None = None,
        include_draining: bool | None = None,
        limit: int | None = None,
    ) -> list[dict[str, Any]]:
        """Who is there: the instances that satisfy all filters, ordered by service and instance.

        ``metadata``: those whose metadata holds all of this. ``include_draining=False`` leaves out those that an
        operator takes out of use. ``limit``: so many at the most; without it, all, page by page.
        """
        filters = given(
            status=status,
            service_name=service_name,
            metadata=an_object("metadata", metadata) if metadata is not None else None,
            include_draining=include_draining,
        )
        found: list[dict[str, Any]] = []
        cursor: str | None = None
        while limit is None or len(found) < limit:
            room = 1000 if limit is None else min(limit - len(found), 1000)
            page = await self._calls.call("services.list", filters | given(cursor=cursor, limit=room))
            found += page["services"]
            cursor = page.get("next_cursor")
            if cursor is None:
                break
        return found

    async def get_service(self, service_name: str) -> dict[str, Any] | None:
        """Where a service is; ``None`` when nobody registered under that name.

        ``host`` and ``port`` are those of one healthy instance, another one each time, else of a degraded one, else
        ``None``; ``instances`` lists them all.
        """
        try:
            return await self._calls.call(f"services.get.{check_service(service_name)}")
        except NotFound:
            return None

    async def watch_services(self, on_change: OnChange | None = None) -> ServicesView:
        """A local view of all instances that follows every change, for as long as this client is open.

        Waits until the view is complete, but not longer than a call waits for its answer. ``on_change`` is called on
        the event loop with each record that changed and must return at once.
        """
        self._check_open()
        view = ServicesView(self.connection, self.get_services, on_change, self._views.discard)
        self._views.add(view)
        try:
            await view.start(self._calls.timeout)
        except asyncio.CancelledError:
            await view.close()
            raise
        return view

    # --- anything else ------------------------------------------------------------------------------------------------

    async def health(self) -> dict[str, Any]:
        """How the hub itself is, from whichever replica gets the question."""
        return await self._calls.call("health")

    async def call(
        self, subject_rest: str, body: dict[str, Any] | None = None, *, timeout: float | None = None
    ) -> dict[str, Any]:
        """Any request of subjects.md: ``await hub.call("services.drain.tick-aggregator", {"draining": True})``.

        Raises `HubError` when the hub refuses, `HubUnavailable` when nobody answers within ``timeout`` seconds.
        """
        return await self._calls.call(subject_rest, body, timeout=timeout)

    # --- for ConfigClient ---------------------------------------------------------------------------------------------

    def attach(self, service_name: str, reporter: ConfigReporter) -> None:
        """Has the heartbeats of a service say which config it runs; of several reporters, what the newest says.
        `ConfigClient` does it by itself."""
        self._reporters.setdefault(service_name, []).append(reporter)

    def detach(self, service_name: str, reporter: ConfigReporter) -> None:
        """Takes a reporter away; one that isn't there is no mistake."""
        left = [one for one in self._reporters.pop(service_name, []) if one is not reporter]
        if left:
            self._reporters[service_name] = left

    def hurry(self, service_name: str) -> None:
        """Has the next heartbeat in the background sent at once: there is news."""
        registration = self._registrations.get(service_name)
        if registration is not None:
            registration.hurry()
