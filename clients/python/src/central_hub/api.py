"""`ConfigAPI`: publish, change and look at the configuration of services."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Mapping, Sequence
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any, TypedDict

from .backoff import Backoff
from .calls import Calls, an_object, given
from .closing import Closing
from .errors import HubUnavailable, NotAuthorized, Overloaded, StoreUnavailable
from .names import check_service
from .options import ConnectionArgs
from .waiting import happens

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from .client import CentralHubClient


class ChangeOptions(TypedDict, total=False):
    """Keyword arguments of every call that changes a config, beside ``created_by``: who writes. See
    ``hub.config.set`` in subjects.md.

    ``comment``: why. ``expected_version`` and ``expected_revision``: refuse with `VersionConflict` when somebody was
    faster. ``dry_run``: say what would happen. ``force``: also where a live instance can't read it. ``not_secret``:
    JSON pointers of values that look like secrets and aren't. ``request_id``: the same again does nothing twice; made
    up where it is left out. ``deadline``: refuse with `Expired` when the hub gets to it later.
    """

    comment: str
    expected_version: int
    expected_revision: int
    dry_run: bool
    force: bool
    not_secret: Sequence[str]
    request_id: str
    deadline: datetime | str


class ConfigAPI(Closing):
    """Configuration of services, for tools and people.

    Takes the address as `CentralHubClient` does, or shares the connection of ``hub``. A change that got no answer is
    asked again under the same ``request_id``, which the hub does only once, for up to ``timeout`` seconds in all.
    Every call raises `HubError` when the hub refuses, and `HubUnavailable` when nobody answers in time.
    """

    def __init__(
        self,
        base_url: str | Sequence[str] | None = None,
        *,
        hub: CentralHubClient | None = None,
        timeout: float = 10.0,
        **connection: Unpack[ConnectionArgs],
    ) -> None:
        self._calls = Calls.of(hub, base_url, connection, "config API", timeout)

    async def close(self) -> None:
        """Ends the connection, if it is its own."""
        await self._calls.close()

    # --- changes ------------------------------------------------------------------------------------------------------

    async def update_config(
        self,
        service_name: str,
        config_data: Mapping[str, Any],
        created_by: str | None = None,
        **options: Unpack[ChangeOptions],
    ) -> int:
        """Publishes a config and gives its version. Content that is in force already makes no new one.

        `set` is the same with the whole answer.
        """
        answer = await self.set(service_name, config_data, created_by, **options)
        return int(answer["version"])

    async def set(
        self,
        service_name: str,
        config: Mapping[str, Any],
        created_by: str | None = None,
        **options: Unpack[ChangeOptions],
    ) -> dict[str, Any]:
        """Publishes a config.

        Gives ``version``, ``revision``, ``epoch``, whether it ``changed`` anything, whether KV has it
        (``published``), ``warnings``.
        """
        return await self._change("set", service_name, {"config": an_object("config", config)}, created_by, options)

    async def patch(
        self,
        service_name: str,
        patch: Mapping[str, Any],
        created_by: str | None = None,
        **options: Unpack[ChangeOptions],
    ) -> dict[str, Any]:
        """Publishes what a JSON merge patch (RFC 7396) makes of the active config; ``None`` removes a key. Answers as
        `set`."""
        return await self._change("patch", service_name, {"patch": an_object("patch", patch)}, created_by, options)

    async def rollback(
        self,
        service_name: str,
        to_version: int | None = None,
        created_by: str | None = None,
        **options: Unpack[ChangeOptions],
    ) -> dict[str, Any]:
        """Puts an older version back in force; without one, takes back the newest change. Answers as `set`."""
        return await self._change("rollback", service_name, given(to_version=to_version), created_by, options)

    async def delete(
        self, service_name: str, created_by: str | None = None, **options: Unpack[ChangeOptions]
    ) -> dict[str, Any]:
        """Takes the config out of force; its versions stay, and a rollback undoes it. Answers as `set`."""
        return await self._change("delete", service_name, {}, created_by, options)

    async def set_schema(self, service_name: str, schema: Mapping[str, Any] | bool | None) -> dict[str, Any]:
        """Says what the service's configs must look like (JSON Schema, draft 2020-12); ``None`` takes that away."""
        body = {"schema": dict(schema) if isinstance(schema, Mapping) else schema}
        return await self._calls.call(f"config.schema.set.{check_service(service_name)}", body)

    # --- looks --------------------------------------------------------------------------------------------------------

    async def get(
        self, service_name: str, version: int | None = None, *, min_revision: int | None = None
    ) -> dict[str, Any]:
        """The active config, or a version, with everything that is known of it. `NotFound` where there is none."""
        return await self._ask("get", service_name, version=version, min_revision=min_revision)

    async def history(
        self, service_name: str, *, limit: int | None = None, before_revision: int | None = None
    ) -> dict[str, Any]:
        """What was in force when, and by whom, newest first: ``activations`` and ``versions``."""
        return await self._ask("history", service_name, limit=limit, before_revision=before_revision)

    async def diff(self, service_name: str, from_version: int, to_version: int | None = None) -> list[dict[str, Any]]:
        """What changes from one version to another, the active one if none is named: a JSON Patch (RFC 6902)."""
        answer = await self._ask("diff", service_name, **{"from": from_version, "to": to_version})
        patch: list[dict[str, Any]] = answer["patch"]
        return patch

    async def validate(self, service_name: str, config: Mapping[str, Any]) -> dict[str, Any]:
        """Would it be taken? ``valid``, and if not: ``violations``, ``secrets``, ``incompatible_instances``."""
        return await self._ask("validate", service_name, config=an_object("config", config))

    async def status(self, service_name: str) -> dict[str, Any]:
        """Who runs what: ``published`` (KV has the newest), ``converged`` (every live instance runs it),
        ``instances``."""
        return await self._ask("status", service_name)

    async def get_schema(self, service_name: str) -> Any:
        """The schema of the service's configs; ``None`` where there is none."""
        return (await self._ask("schema.get", service_name)).get("schema")

    async def list(self) -> list[dict[str, Any]]:
        """Which services have a config: name, version, revision, time of the last change; ordered by name."""
        found: list[dict[str, Any]] = []
        cursor: str | None = None
        while True:
            page = await self._calls.call("config.list", given(cursor=cursor, limit=1000))
            found += page["configs"]
            cursor = page.get("next_cursor")
            if cursor is None:
                return found

    async def _ask(self, verb: str, service_name: str, **fields: Any) -> dict[str, Any]:
        return await self._calls.call(f"config.{verb}.{check_service(service_name)}", given(**fields))

    async def _change(
        self, verb: str, service_name: str, body: dict[str, Any], created_by: str | None, options: ChangeOptions
    ) -> dict[str, Any]:
        """Asks until it is answered or the time is up; the same ``request_id`` makes that safe."""
        subject = f"config.{verb}.{check_service(service_name)}"
        body = body | given(created_by=created_by) | _fields(options)
        loop = asyncio.get_running_loop()
        deadline = loop.time() + self._calls.timeout
        backoff = Backoff(0.1, 2.0)
        while True:
            left = deadline - loop.time()
            try:
                return await self._calls.call(subject, body, timeout=max(min(left, 5.0), 0.001))
            except NotAuthorized:
                raise
            except (HubUnavailable, StoreUnavailable, Overloaded) as error:
                delay = max(backoff.next(), getattr(error, "retry_after", None) or 0.0)
                if loop.time() + delay >= deadline or await happens(self._calls.connection.closed, delay):
                    raise


def _fields(options: ChangeOptions) -> dict[str, Any]:
    fields = given(**options)
    fields.setdefault("request_id", secrets.token_hex(16))
    deadline = fields.get("deadline")
    if isinstance(deadline, datetime):
        fields["deadline"] = deadline.astimezone(timezone.utc).isoformat().replace("+00:00", "Z")
    if "not_secret" in fields:
        fields["not_secret"] = [*fields["not_secret"]]
    return fields
