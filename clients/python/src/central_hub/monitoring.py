"""`InfrastructureMonitor`: how the databases and brokers behind the fleet are."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from .calls import Calls
from .closing import Closing
from .options import ConnectionArgs

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from .client import CentralHubClient


class InfrastructureMonitor(Closing):
    """Asks the hub about the infrastructure that it watches.

    Takes the address as `CentralHubClient` does, or shares the connection of ``hub``. Calls raise `HubUnavailable`
    when nobody answers within ``timeout`` seconds; a component that is slow to answer the hub takes part of that
    time.
    """

    def __init__(
        self,
        base_url: str | Sequence[str] | None = None,
        *,
        hub: CentralHubClient | None = None,
        timeout: float = 15.0,
        **connection: Unpack[ConnectionArgs],
    ) -> None:
        self._calls = Calls.of(hub, base_url, connection, "monitor", timeout)

    async def check_all(self) -> dict[str, dict[str, Any]]:
        """Has the hub look at every component now, and gives what it found, by component.

        Each has ``status`` (``healthy``, ``degraded``, ``down``, or ``unknown`` where nobody said where it is),
        ``response_time_ms`` and ``error_message`` (each ``None`` where there is none), ``kind``, ``checked_at``,
        ``critical``, ``uptime_pct_24h``.
        """
        return _by_name(await self._calls.call("infra.check"))

    async def status(self) -> dict[str, dict[str, Any]]:
        """What the hub found at its last look, without a new one; the same fields."""
        return _by_name(await self._calls.call("infra.status"))

    async def close(self) -> None:
        """Ends the connection, if it is its own."""
        await self._calls.close()


def _by_name(answer: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {
        component["component_name"]: {name: value for name, value in component.items() if name != "component_name"}
        for component in answer["components"]
    }
