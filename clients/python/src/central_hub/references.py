"""Secrets stay in the environment: a config names them as ``${env:NAME}``."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

_REFERENCE = re.compile(r"\$\{env:([A-Za-z_][A-Za-z0-9_]*)\}")

_SCRUBBED = 4
"""Values shorter than so many characters aren't looked for in messages: they stand everywhere."""


@dataclass(frozen=True)
class Unresolved:
    """A reference that can't be resolved, and where it stands (JSON pointer)."""

    path: str
    name: str
    why: Literal["unset", "not_allowed"]


class UnresolvedReferences(Exception):
    """A config has references that can't be resolved. The message names them."""

    def __init__(self, found: Sequence[Unresolved]) -> None:
        self.found = tuple(found)
        words = {"unset": "isn't set", "not_allowed": "isn't on the allowlist"}
        super().__init__(
            "; ".join(f"{one.path}: the environment variable {one.name} {words[one.why]}" for one in found)
        )


@dataclass(frozen=True)
class Resolved:
    """A config with the values of its references."""

    config: dict[str, Any]
    values: frozenset[str]
    """The values that were put in, to keep them out of messages."""

    def scrub(self, text: str) -> str:
        """The text without those values."""
        for value in sorted(self.values, key=len, reverse=True):
            if len(value) >= _SCRUBBED:
                text = text.replace(value, "***")
        return text


def resolve(config: dict[str, Any], environ: Mapping[str, str], allow: Sequence[str] | None = None) -> Resolved:
    """A copy of ``config`` in which each text that is a reference as a whole is replaced by its variable's value.

    ``allow`` limits the names: exact ones, and beginnings of names that end in ``*``. ``None`` allows every name.
    Raises `UnresolvedReferences` with all that can't be resolved.
    """
    missing: list[Unresolved] = []
    values: set[str] = set()

    def visit(value: Any, path: str) -> Any:
        if isinstance(value, dict):
            return {key: visit(member, f"{path}/{pointed(key)}") for key, member in value.items()}
        if isinstance(value, list):
            return [visit(item, f"{path}/{index}") for index, item in enumerate(value)]
        reference = _REFERENCE.fullmatch(value) if isinstance(value, str) else None
        if reference is None:
            return value
        name = reference.group(1)
        if allow is not None and not any(_allows(pattern, name) for pattern in allow):
            missing.append(Unresolved(path, name, "not_allowed"))
        elif name not in environ:
            missing.append(Unresolved(path, name, "unset"))
        else:
            values.add(environ[name])
            return environ[name]
        return None

    resolved = visit(config, "")
    if missing:
        raise UnresolvedReferences(missing)
    return Resolved(resolved, frozenset(values))


def _allows(pattern: str, name: str) -> bool:
    return name.startswith(pattern[:-1]) if pattern.endswith("*") else name == pattern


def pointed(key: str) -> str:
    """A key as it stands in a JSON pointer."""
    return key.replace("~", "~0").replace("/", "~1")
