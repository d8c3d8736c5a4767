"""Requests to the hub: JSON in, JSON out, errors as exceptions."""

from __future__ import annotations

import json
import math
import os
from collections import deque
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from .connection import Connection
from .errors import BadOption, BadReply, BadRequest, CentralHubError, HubError
from .options import ConnectionArgs, Options
from .references import pointed

if TYPE_CHECKING:
    from .client import CentralHubClient

_ERROR_CODE = "Nats-Service-Error-Code"


class Calls:
    """Calls of one hub, over one connection."""

    def __init__(self, connection: Connection, timeout: float, *, owned: bool = True) -> None:
        self.connection = connection
        self.timeout = timeout
        self._owned = owned

    @classmethod
    def of(
        cls,
        hub: CentralHubClient | None,
        base_url: str | Sequence[str] | None,
        args: ConnectionArgs,
        purpose: str,
        timeout: float,
    ) -> Calls:
        """Over the connection of ``hub``, or over a connection of its own. Raises `BadOption`, also where both are
        named."""
        if hub is None:
            return cls(Connection(Options.read(base_url, args, os.environ), purpose), timeout)
        if base_url is not None or args:
            raise BadOption("hub brings its own connection: leave base_url and the arguments of a connection out")
        return cls(hub.connection, timeout, owned=False)

    async def close(self) -> None:
        """Ends the connection, unless it is another's."""
        if self._owned:
            await self.connection.close()

    async def call(
        self, subject_rest: str, body: dict[str, Any] | None = None, *, timeout: float | None = None
    ) -> dict[str, Any]:
        """Sends ``body`` to ``<subject prefix>.<subject_rest>`` and gives the answer.

        Waits ``timeout`` seconds, or as long as the client says. Raises `HubError` when the hub refuses,
        `HubUnavailable` when nobody answers, `ValueError` or `TypeError` for what JSON can't hold.
        """
        if not subject_rest or any(not token or set(token) & set(" \t\r\n*>\0") for token in subject_rest.split(".")):
            raise BadRequest("bad_request", "subject: it must be a plain subject", {"field": "subject"})
        payload = encode(body) if body else b""
        subject = f"{self.connection.options.subject_prefix}.{subject_rest}"
        message = await self.connection.request(subject, payload, self.timeout if timeout is None else timeout)
        try:
            answer = json.loads(message.data)
        except ValueError:
            raise BadReply(f"the answer on {subject} can't be read: another version of the hub?") from None
        if message.headers and _ERROR_CODE in message.headers:
            raise _error(subject, answer)
        if not isinstance(answer, dict):
            raise BadReply(f"the answer on {subject} is no object: another version of the hub?")
        return answer


def given(**fields: Any) -> dict[str, Any]:
    """The fields that aren't ``None``: a body says nothing about the others."""
    return {name: value for name, value in fields.items() if value is not None}


def an_object(field: str, value: Mapping[str, Any]) -> dict[str, Any]:
    """The value, if it can be a JSON object. Raises `BadRequest`."""
    if not isinstance(value, Mapping):
        rule = f"it must be a mapping, as a dict is, not {type(value).__name__}"
        raise BadRequest("bad_request", f"{field}: {rule}", {"field": field})
    return dict(value)


def encode(body: dict[str, Any]) -> bytes:
    """The body's JSON. Raises `ValueError` or `TypeError` for what JSON can't hold; it says where, and never what."""
    try:
        return json.dumps(body, allow_nan=False, ensure_ascii=False, separators=(",", ":")).encode()
    except (ValueError, TypeError, RecursionError):
        raise _misfit(body) from None


def _misfit(body: dict[str, Any]) -> Exception:
    """What of the body isn't JSON, outermost first."""
    queue: deque[tuple[str, Any]] = deque((field, value) for field, value in body.items())
    seen: set[int] = set()
    while queue:
        place, value = queue.popleft()
        if isinstance(value, float):
            if not math.isfinite(value):
                return ValueError(f"{place}: it must be a finite number; JSON has neither NaN nor infinity")
        elif isinstance(value, str):
            if not _is_unicode(value):
                return ValueError(f"{place}: it must be Unicode text; it has half of a surrogate pair")
        elif isinstance(value, (dict, list, tuple)):
            if id(value) in seen:
                continue
            seen.add(id(value))
            pairs = value.items() if isinstance(value, dict) else enumerate(value)
            for key, member in pairs:
                if not isinstance(key, (str, int, float, type(None))):
                    return TypeError(f"{place}: its keys must be texts, not {type(key).__name__}")
                if isinstance(key, str) and not _is_unicode(key):
                    return ValueError(f"{place}: its keys must be Unicode text; one has half of a surrogate pair")
                queue.append((f"{place}/{pointed(str(key))}", member))
        elif not isinstance(value, (int, type(None))):
            return TypeError(
                f"{place}: JSON has no {type(value).__name__}; it must be made of dict, list, str, "
                "int, float, bool and None"
            )
    return ValueError("body: it must not hold itself, nor be nested deeper than Python goes")


def _is_unicode(text: str) -> bool:
    return not any("\ud800" <= letter <= "\udfff" for letter in text)


def _error(subject: str, answer: Any) -> CentralHubError:
    error = answer.get("error") if isinstance(answer, dict) else None
    if not isinstance(error, dict) or not isinstance(error.get("code"), str):
        return BadReply(f"the error on {subject} can't be read: another version of the hub?")
    details = error.get("details")
    return HubError.of(error["code"], str(error.get("message", "")), details if isinstance(details, dict) else {})
