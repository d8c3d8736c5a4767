"""What can go wrong, as exceptions.

Two kinds matter to a caller. `HubUnavailable`: nobody answered, so try again later. `HubError`: the hub answered that
it won't, and ``code`` says why; each code of the hub has a class of its own here, so that ``except VersionConflict``
reads well.
"""

from __future__ import annotations

from typing import Any, ClassVar

__all__ = [
    "AmbiguousInstance",
    "BadOption",
    "BadReply",
    "BadRequest",
    "CentralHubError",
    "DependencyUnavailable",
    "Expired",
    "Forbidden",
    "HubError",
    "HubUnavailable",
    "Incompatible",
    "Internal",
    "NotAuthorized",
    "NotFound",
    "NotRegistered",
    "Overloaded",
    "SchemaViolation",
    "SecretDetected",
    "StaleIncarnation",
    "StoreUnavailable",
    "TooLarge",
    "VersionConflict",
]

_SHOWN = 5
"""How many findings a text names."""


class CentralHubError(Exception):
    """The base of all that this package raises on purpose."""


class BadOption(CentralHubError, ValueError):
    """An argument or an environment variable that can't be used. The message names it and says what to do."""


class HubUnavailable(CentralHubError):
    """Nobody answered: NATS can't be reached, no hub listens, or no answer came in time.

    After a request that timed out the hub may have done it all the same.
    """


class NotAuthorized(HubUnavailable):
    """NATS refuses these credentials, or doesn't let them do what was asked for."""


class BadReply(CentralHubError):
    """What came is no answer of this protocol: another version of the hub, or not a hub at all."""


class HubError(CentralHubError):
    """The hub refused a request.

    ``code`` is the stable word to match on, ``message`` is for people and names the field and the rule, ``details``
    depends on the code (see subjects.md).
    """

    code: str
    message: str
    details: dict[str, Any]

    _classes: ClassVar[dict[str, type[HubError]]] = {}

    _named: ClassVar[str] = ""
    """Which list of the details the text names, too."""

    def __init_subclass__(cls, code: str, named: str = "") -> None:
        HubError._classes[code] = cls
        cls._named = named

    def __init__(self, code: str, message: str, details: dict[str, Any] | None = None) -> None:
        super().__init__(code, message)
        self.code = code
        self.message = message
        self.details = details or {}

    def __str__(self) -> str:
        found = self.details.get(self._named)
        if not isinstance(found, list) or not found:
            return f"{self.message} ({self.code})"
        more = f"; and {len(found) - _SHOWN} more" if len(found) > _SHOWN else ""
        return f"{self.message}: {'; '.join(map(_words, found[:_SHOWN]))}{more} ({self.code})"

    @property
    def retry_after(self) -> float | None:
        """Seconds after which the hub suggests to try again; ``None`` where it suggests nothing."""
        after = self.details.get("retry_after_ms")
        return after / 1000 if isinstance(after, (int, float)) else None

    @staticmethod
    def of(code: str, message: str, details: dict[str, Any] | None = None) -> HubError:
        """The exception for a code; a plain `HubError` for one that this version doesn't know."""
        return HubError._classes.get(code, HubError)(code, message, details)


def _words(finding: Any) -> str:
    """A path, or a violation."""
    return f"{finding.get('path') or '/'}: {finding.get('message')}" if isinstance(finding, dict) else str(finding)


class BadRequest(HubError, code="bad_request"):
    """A wrong type, a bad name, an unknown or missing field; ``details["field"]`` names it."""


class Forbidden(HubError, code="forbidden"):
    """The subject and the body name different services."""


class NotFound(HubError, code="not_found"):
    """No such service, instance, config or version."""


class NotRegistered(HubError, code="not_registered"):
    """The hub doesn't know this instance: register again."""


class Expired(HubError, code="expired"):
    """The request's ``deadline`` had passed; nothing was done."""


class StaleIncarnation(HubError, code="stale_incarnation"):
    """A newer registration has taken the place of the one that speaks."""


class AmbiguousInstance(HubError, code="ambiguous_instance"):
    """The service has several instances and none was named; ``details["instances"]`` lists them."""


class VersionConflict(HubError, code="version_conflict"):
    """Somebody was faster: the active config isn't the expected one."""

    @property
    def active_version(self) -> int | None:
        """The version that is active instead; ``None`` when none is."""
        version = self.details.get("active_version")
        return version if isinstance(version, int) else None


class DependencyUnavailable(HubError, code="dependency_unavailable"):
    """A dependency is missing or down, and ``require_dependencies`` was set."""


class TooLarge(HubError, code="too_large"):
    """Over a size limit; ``details["field"]`` and ``details["limit"]``."""


class SchemaViolation(HubError, code="schema_violation", named="violations"):
    """The config doesn't satisfy its schema; ``details["violations"]`` lists where and why."""


class SecretDetected(HubError, code="secret_detected", named="paths"):
    """The config carries secrets; ``details["paths"]`` lists where, never what."""


class Incompatible(HubError, code="incompatible"):
    """A live instance said that it can't read this config; ``details["instances"]`` lists them."""


class Overloaded(HubError, code="overloaded"):
    """Too much is in flight; try again after ``retry_after`` seconds."""


class Internal(HubError, code="internal"):
    """A defect of the hub; its log has the cause under ``details["request_id"]``."""


class StoreUnavailable(HubError, code="unavailable"):
    """The hub can't reach PostgreSQL or JetStream. With ``details["outcome"] == "unknown"`` the change may have
    happened."""
