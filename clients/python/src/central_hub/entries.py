"""A config as it comes from the hub, and where it stands in time."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from typing import TypeGuard

MAX_TEXT = 8 * 1024 * 1024
"""Bytes of a value at the most. The hub's limit is far below; what is larger was forged."""

FORGED = 1 << 53
"""An epoch or a revision from here on can only be forged. The hub doesn't count that far and overtakes no such claim:
who took it would refuse the truth for good."""


@dataclass(frozen=True, order=True)
class Position:
    """Where a config stands in time; the epoch outranks the revision.

    Nothing that orders before what a client has seen is ever taken.
    """

    epoch: int
    revision: int


@dataclass(frozen=True)
class Entry:
    """What the hub says to run. ``config`` holds references, not their values; ``None`` is a tombstone."""

    position: Position
    version: int | None
    checksum: str | None
    config: dict[str, Any] | None
    canary: bool = False
    """Whether this is a rollout's trial, meant for this instance and not for others."""


def read_text(service_name: str, text: bytes | str, instance_id: str | None = None) -> Entry | None:
    """Reads a value of the bucket; ``None`` when it can't be read, as when somebody forged it."""
    return read_entry(service_name, parse(text), instance_id)


def parse(text: bytes | str) -> Any:
    """The JSON value of a text; ``None`` when it has none."""
    if len(text) > MAX_TEXT:
        return None
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


def read_entry(service_name: str, value: Any, instance_id: str | None = None) -> Entry | None:
    """Reads the answer of ``hub.config.get`` or a value of the bucket, and chooses between active config and canary.

    ``None`` when it can't be read, or is another service's. A canary that can't be read counts as none.
    """
    if not isinstance(value, dict) or value.get("service_name") != service_name:
        return None
    canary = value.get("canary")
    if isinstance(canary, dict) and instance_id is not None:
        instances = canary.get("instances")
        if isinstance(instances, list) and instance_id in instances and canary.get("config") is not None:
            trial = _entry(value.get("epoch"), canary, canary=True)
            if trial is not None:
                return trial
    return _entry(value.get("epoch"), value)


def _entry(epoch: Any, value: dict[str, Any], canary: bool = False) -> Entry | None:
    revision, version, checksum = value.get("revision"), value.get("version"), value.get("checksum")
    # A config that isn't there at all is no tombstone.
    config = value.get("config", ...)
    is_tombstone = config is None
    if not (is_place(epoch) and is_place(revision)) or not (checksum is None or isinstance(checksum, str)):
        return None
    if not (version is None if is_tombstone else _is_count(version) and isinstance(config, dict)):
        return None
    return Entry(Position(epoch, revision), version, checksum, config, canary)


def _is_count(value: Any) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def is_place(value: Any) -> TypeGuard[int]:
    """Whether it can be an epoch or a revision."""
    return _is_count(value) and value < FORGED
