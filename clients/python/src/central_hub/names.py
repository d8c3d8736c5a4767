"""Names of services and instances, each one token of a NATS subject and of a KV key, and of states."""

from __future__ import annotations

import re
import secrets

from .errors import BadRequest

_SERVICE = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,99}")
_INSTANCE = re.compile(r"[A-Za-z0-9_-]{1,128}")
_STATUS = ("healthy", "degraded", "down")


def check_service(name: str) -> str:
    """The name, if it is one: 1 to 100 of ``A-Z a-z 0-9 _ -``, a letter or a digit first.

    Raises `BadRequest` before a dot or a wildcard could make another subject of it.
    """
    if not isinstance(name, str) or not _SERVICE.fullmatch(name):
        rule = "a service name is 1 to 100 of A-Z a-z 0-9 _ - and begins with a letter or a digit"
        raise BadRequest("bad_request", f"service_name: {rule}", {"field": "service_name"})
    return name


def check_instance(name: str) -> str:
    """The id, if it is one: 1 to 128 of ``A-Z a-z 0-9 _ -``. Raises `BadRequest`."""
    if not isinstance(name, str) or not _INSTANCE.fullmatch(name):
        raise BadRequest(
            "bad_request", "instance_id: an instance id is 1 to 128 of A-Z a-z 0-9 _ -", {"field": "instance_id"}
        )
    return name


def check_status(status: str) -> str:
    """The status, if it is one. Raises `BadRequest`."""
    if status not in _STATUS:
        raise BadRequest("bad_request", f"status: it is one of {', '.join(_STATUS)}", {"field": "status"})
    return status


def fresh_instance(like: str | None = None) -> str:
    """An id that nobody has; it begins like the id that somebody else claims as well."""
    suffix = secrets.token_hex(6)
    return f"{like[:100]}-{suffix}" if like else suffix
