"""A local view of who is there, fed by a watch of the bucket ``<prefix>_services``."""

from __future__ import annotations

import asyncio
import json
import logging
import random
from collections.abc import Awaitable, Callable
from typing import Any

from .backoff import Backoff
from .callbacks import ask
from .connection import Connection
from .errors import CentralHubError
from .waiting import happens, lasting, stop
from .watch import KeyWatch, Update

log = logging.getLogger("central_hub")

Instance = dict[str, Any]
OnChange = Callable[[str, str, Instance | None], None]
"""Gets service, instance id, and the record; ``None``: it left."""

_BETTER = {"healthy": 0, "degraded": 1, "down": 2}


class ServicesView:
    """All instances, as the hub published them last.

    An instance leaves the view when the hub removes its key, or when the hub itself says that it is gone. A bucket
    that is empty, purged or made anew says nothing about anybody: those that it lacks stay in the view until the hub
    was asked.
    """

    def __init__(
        self,
        connection: Connection,
        list_services: Callable[[], Awaitable[list[Instance]]],
        on_change: OnChange | None = None,
        on_close: Callable[[ServicesView], None] = lambda view: None,
    ) -> None:
        self._on_close = on_close
        self._list_services = list_services
        self._on_change = on_change
        self._instances: dict[str, Instance] = {}
        self._seen_since_opening: set[str] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._check: asyncio.Task[None] | None = None
        self._complete = asyncio.Event()
        bucket = f"{connection.options.bucket_prefix}_services"
        self._watch = KeyWatch(
            connection,
            bucket,
            ">",
            self._note,
            on_opening=self._seen_since_opening.clear,
            on_snapshot=self._on_snapshot,
        )

    @property
    def is_live(self) -> bool:
        """Whether changes arrive now. ``False``: what the view holds is the last that was known."""
        return self._watch.is_live

    def instances(self, service_name: str | None = None, status: str | None = None) -> list[Instance]:
        """The records that satisfy both filters, ordered by service and instance."""
        chosen = (
            record
            for _, record in sorted(self._instances.items())
            if service_name in (None, record.get("service_name")) and status in (None, record.get("status"))
        )
        return [dict(record) for record in chosen]

    def get(self, service_name: str) -> dict[str, Any] | None:
        """Where a service is, as `CentralHubClient.get_service` says it, but from this view."""
        instances = self.instances(service_name)
        if not instances:
            return None
        best = min(instances, key=lambda record: _BETTER.get(record["status"], 3))["status"]
        chosen: Instance = {}
        for wanted in ("healthy", "degraded"):
            usable = [
                one for one in instances if one["status"] == wanted and not one["draining"] and one["host"] is not None
            ]
            if usable:
                chosen = random.choice(usable)
                break
        return {
            "service_name": service_name,
            "status": best,
            "host": chosen.get("host"),
            "port": chosen.get("port"),
            "instances": instances,
        }

    async def start(self, patience: float) -> None:
        """Begins to watch, and returns when the view is complete, after ``patience`` seconds at the latest."""
        self._tasks.add(lasting(self._watch.run, "watch of the services"))
        await happens(self._complete, patience)

    async def close(self) -> None:
        """Ends the watch. What the view holds stays readable."""
        self._on_close(self)
        await stop(*self._tasks)
        self._tasks.clear()

    def _note(self, update: Update) -> None:
        self._seen_since_opening.add(update.key)
        if update.value is None:
            self._remove(update.key)
            return
        try:
            record = json.loads(update.value)
        except ValueError:
            record = None
        if not _is_record(record) or update.key != f"{record['service_name']}.{record['instance_id']}":
            log.warning("a record of the services' bucket can't be read: %s", update.key)
            return
        self._put(update.key, record)

    def _put(self, key: str, record: Instance) -> None:
        if self._instances.get(key) != record:
            self._instances[key] = record
            self._tell(key, record)

    def _remove(self, key: str) -> None:
        if self._instances.pop(key, None) is not None:
            self._tell(key, None)

    def _tell(self, key: str, record: Instance | None) -> None:
        if self._on_change is None:
            return
        service_name, _, instance_id = key.partition(".")
        try:
            ask(self._on_change, service_name, instance_id, None if record is None else dict(record))
        except Exception:
            log.exception("on_change of the services' view")

    def _on_snapshot(self) -> None:
        doubtful = set(self._instances) - self._seen_since_opening
        # The first time also for those that registered a moment ago and aren't in the bucket yet.
        if (doubtful or not self._complete.is_set()) and self._check is None:
            self._check = lasting(self._ask, "check of the services")
            self._tasks.add(self._check)

    async def _ask(self) -> None:
        """Asks the hub about those that the bucket lacks, until it answers."""
        backoff = Backoff(0.5, 30.0)
        while True:
            doubtful = set(self._instances) - self._seen_since_opening
            try:
                listed = {f"{one['service_name']}.{one['instance_id']}": one for one in await self._list_services()}
            except CentralHubError as error:
                log.debug("services view: %s", error)
                await asyncio.sleep(backoff.next())
                continue
            # What came through the watch meanwhile is newer than the list.
            for key in doubtful - set(listed) - self._seen_since_opening:
                self._remove(key)
            for key, record in listed.items():
                if key not in self._instances and key not in self._seen_since_opening:
                    self._put(key, {name: value for name, value in record.items() if name != "last_heartbeat"})
            self._complete.set()
            if self._check is not None:
                self._tasks.discard(self._check)
                self._check = None
            return


def _is_record(record: Any) -> bool:
    return (
        isinstance(record, dict)
        and isinstance(record.get("service_name"), str)
        and isinstance(record.get("instance_id"), str)
        and record.get("status") in _BETTER
        and {"draining", "host", "port"} <= set(record)
    )
