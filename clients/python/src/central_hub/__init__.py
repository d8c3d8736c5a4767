"""central-hub: who is running, how healthy each process is, and which configuration is in force.

- `central_hub.client.CentralHubClient`: register, beat, discover.
- `central_hub.config.ConfigClient`: the configuration of this process, with hot reload and fallbacks.
- `central_hub.api.ConfigAPI`: publish and change configurations.
- `central_hub.monitoring.InfrastructureMonitor`: the infrastructure behind the fleet.
- `central_hub.errors`: what can go wrong.

Everything speaks NATS. The modules beside these are how it is done: `connection` and `watch` know NATS, `layers`,
`entries`, `references` and `cache` are the rules of configuration, which `tests/clients/cases` in the repository
writes down.
"""

from .api import ConfigAPI
from .client import CentralHubClient
from .config import ConfigClient
from .errors import CentralHubError, HubError, HubUnavailable
from .monitoring import InfrastructureMonitor

__all__ = [
    "CentralHubClient",
    "CentralHubError",
    "ConfigAPI",
    "ConfigClient",
    "HubError",
    "HubUnavailable",
    "InfrastructureMonitor",
]
