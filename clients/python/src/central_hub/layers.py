"""Which config is in force, and why: the rules, without clock, network or disk.

The layers, from the one that is asked first: the hub, the last-good file, the safe defaults. The defaults fill in
what the others lack. Nothing that orders before what was seen is taken, and only a tombstone erases.
`tests/clients/cases` is the full account.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, Literal

from .entries import Entry, Position
from .references import Resolved, resolve

Source = Literal["hub", "file", "defaults"]


class Weight(Enum):
    """What an entry means beside what was seen before."""

    NEW = "new"
    CONFIRMED = "confirmed"
    OLDER = "older"
    SEEN = "seen"


@dataclass(frozen=True)
class InForce:
    """A config in force and where it came from."""

    source: Source
    entry: Entry | None
    config: dict[str, Any] = field(repr=False)


def merged(config: Any, defaults: Any) -> Any:
    """``config`` with the keys that it lacks, at any depth, filled in from ``defaults``. Both stay as they are."""
    if not isinstance(config, dict) or not isinstance(defaults, dict):
        return deepcopy(config)
    filled = {key: merged(value, defaults.get(key)) for key, value in config.items()}
    return filled | {key: deepcopy(value) for key, value in defaults.items() if key not in config}


class Layers:
    """The state of one config client."""

    def __init__(self, defaults: dict[str, Any], environ: Mapping[str, str], allow: Sequence[str] | None) -> None:
        self._defaults = deepcopy(defaults)
        self._environ = environ
        self._allow = allow
        self.in_force = InForce("defaults", None, deepcopy(defaults))
        self.seen: Position | None = None
        """The newest that was taken or refused."""
        self.error: str | None = None
        """Why the newest was refused; ``None``: it is in force."""

    @property
    def position(self) -> Position | None:
        """Of what is in force; ``None`` while that is the defaults because nothing else was there."""
        return self.in_force.entry.position if self.in_force.entry else None

    def weigh(self, entry: Entry) -> Weight:
        """Whether the entry is to be tried."""
        if entry.position == self.position:
            return Weight.CONFIRMED
        if self.seen is not None and entry.position == self.seen:
            return Weight.SEEN
        if self.seen is not None and entry.position < self.seen:
            return Weight.OLDER
        return Weight.NEW

    def effective(self, entry: Entry) -> Resolved:
        """What would be in force with it. Raises `UnresolvedReferences`."""
        resolved = resolve(entry.config or {}, self._environ, self._allow)
        return Resolved(merged(resolved.config, self._defaults), resolved.values)

    def take(self, entry: Entry, config: dict[str, Any], source: Source) -> None:
        """Puts it in force. After a tombstone the defaults answer."""
        self.in_force = InForce("defaults" if entry.config is None else source, entry, config)
        self.seen = entry.position
        self.error = None

    def confirm(self) -> None:
        """The hub says that what is in force is right."""
        current = self.in_force
        if current.source == "file":
            self.in_force = InForce("hub", current.entry, current.config)

    def refuse(self, entry: Entry, why: str) -> None:
        """Notes that it isn't taken; what is in force stays."""
        self.seen = entry.position
        self.error = why
