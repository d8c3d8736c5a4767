"""Where the hub is and as whom to speak: arguments first, then the environment.

Every variable is the one that `central-hub serve` and the CLI read. A secret may come from a file that ``…_FILE``
names. Arguments and variables that name an identity don't mix: as soon as an argument names one, those of the
environment are left out.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypedDict

from .errors import BadOption

DEFAULT_URL = "nats://127.0.0.1:4222"
"""Where NATS is when nobody says anything else."""

_PLAIN_SUBJECT = re.compile(r"[^\s.*>]+(\.[^\s.*>]+)*")
_BUCKET_PREFIX = re.compile(r"[A-Za-z0-9_-]+")
_IDENTITY = ("user", "password", "token", "nkey_seed", "creds")


class ConnectionArgs(TypedDict, total=False):
    """Keyword arguments that every client here understands.

    ``user`` and ``password``, ``token``, ``nkey_seed`` or ``creds`` (path of a credentials file): who speaks.
    ``tls_ca``: PEM file of the authorities to trust instead of the system's. ``tls_cert`` and ``tls_key``: PEM files
    for mutual TLS. ``tls_required``: say nothing to a server without TLS. ``inbox_prefix``: where answers arrive;
    permissions often bind it to the user, as ``_INBOX.<user>``. ``subject_prefix`` and ``bucket_prefix``: which
    fleet, ``hub`` by default.
    """

    user: str | None
    password: str | None
    token: str | None
    nkey_seed: str | None
    creds: str | os.PathLike[str] | None
    tls_ca: str | os.PathLike[str] | None
    tls_cert: str | os.PathLike[str] | None
    tls_key: str | os.PathLike[str] | None
    tls_required: bool | None
    inbox_prefix: str | None
    subject_prefix: str | None
    bucket_prefix: str | None


@dataclass(frozen=True)
class Options:
    """Everything that a connection needs. Secrets don't show in its ``repr``."""

    servers: tuple[str, ...] = (DEFAULT_URL,)
    user: str | None = None
    password: str | None = field(default=None, repr=False)
    token: str | None = field(default=None, repr=False)
    nkey_seed: str | None = field(default=None, repr=False)
    creds: Path | None = None
    tls_ca: Path | None = None
    tls_cert: Path | None = None
    tls_key: Path | None = None
    tls_required: bool = False
    inbox_prefix: str = "_INBOX"
    subject_prefix: str = "hub"
    bucket_prefix: str = "hub"

    @classmethod
    def read(
        cls,
        base_url: str | Sequence[str] | None = None,
        given: ConnectionArgs | None = None,
        environ: Mapping[str, str] | None = None,
    ) -> Options:
        """Puts arguments and environment together. Raises `BadOption` for what can't be meant."""
        given = given or {}
        environ = os.environ if environ is None else environ
        unknown = set(given) - set(ConnectionArgs.__annotations__)
        if unknown:
            raise TypeError(f"unknown arguments: {', '.join(sorted(unknown))}")
        options = cls(
            servers=_servers(base_url if base_url is not None else _variable(environ, "NATS_URL") or DEFAULT_URL),
            **_identity(given, environ),  # type: ignore[arg-type]
            tls_ca=_path(given.get("tls_ca"), environ, "NATS_TLS_CA"),
            tls_cert=_path(given.get("tls_cert"), environ, "NATS_TLS_CERT"),
            tls_key=_path(given.get("tls_key"), environ, "NATS_TLS_KEY"),
            tls_required=_flag(given.get("tls_required"), environ, "NATS_TLS_REQUIRED"),
            inbox_prefix=given.get("inbox_prefix") or _variable(environ, "NATS_INBOX_PREFIX") or "_INBOX",
            subject_prefix=given.get("subject_prefix") or _variable(environ, "SUBJECT_PREFIX") or "hub",
            bucket_prefix=given.get("bucket_prefix") or _variable(environ, "BUCKET_PREFIX") or "hub",
        )
        options._check()
        return options

    def _check(self) -> None:
        if (self.user is None) != (self.password is None):
            raise BadOption(
                "user and password belong together: set both (CENTRAL_HUB_NATS_USER, CENTRAL_HUB_NATS_PASSWORD) or none"
            )
        named = [name for name in ("user", "token", "nkey_seed", "creds") if getattr(self, name) is not None]
        if len(named) > 1:
            raise BadOption(f"several identities are given ({', '.join(named)}): choose one")
        if (self.tls_cert is None) != (self.tls_key is None):
            raise BadOption(
                "tls_cert and tls_key belong together: set both (CENTRAL_HUB_NATS_TLS_CERT, CENTRAL_HUB_NATS_TLS_KEY), "
                "or none"
            )
        for name in ("inbox_prefix", "subject_prefix"):
            if not _PLAIN_SUBJECT.fullmatch(getattr(self, name)):
                raise BadOption(f"{name} must be a plain subject, like _INBOX.me")
        if not _BUCKET_PREFIX.fullmatch(self.bucket_prefix):
            raise BadOption("bucket_prefix must be of A-Z a-z 0-9 _ -")
        for name in ("creds", "tls_ca", "tls_cert", "tls_key"):
            # A file that is missing now is a mistake, not an outage to wait out.
            path: Path | None = getattr(self, name)
            if path is not None:
                _read(path, name)


def _variable(environ: Mapping[str, str], name: str) -> str | None:
    """An environment variable of ours; an empty one counts as not set."""
    return environ.get(f"CENTRAL_HUB_{name}") or None


def _secret(environ: Mapping[str, str], name: str) -> str | None:
    """A secret from its variable, or from the file that its ``_FILE`` variable names, without the line end."""
    value, path = _variable(environ, name), _variable(environ, f"{name}_FILE")
    if value is not None and path is not None:
        raise BadOption(f"CENTRAL_HUB_{name} and CENTRAL_HUB_{name}_FILE are both set: unset one")
    return _read(Path(path), f"CENTRAL_HUB_{name}_FILE").rstrip("\r\n") if path is not None else value


def _identity(given: ConnectionArgs, environ: Mapping[str, str]) -> dict[str, str | Path | None]:
    if any(given.get(name) is not None for name in _IDENTITY):
        creds = given.get("creds")
        found = {name: given.get(name) for name in ("user", "password", "token", "nkey_seed")}
        return {**found, "creds": None if creds is None else Path(creds)}  # type: ignore[dict-item]
    names = {"user": "NATS_USER", "password": "NATS_PASSWORD", "token": "NATS_TOKEN", "nkey_seed": "NATS_NKEY_SEED"}
    return {
        **{name: _secret(environ, variable) for name, variable in names.items()},
        "creds": _path(None, environ, "NATS_CREDS"),
    }


def _path(given: str | os.PathLike[str] | None, environ: Mapping[str, str], name: str) -> Path | None:
    path = given if given is not None else _variable(environ, name)
    return Path(path) if path is not None else None


def _flag(given: bool | None, environ: Mapping[str, str], name: str) -> bool:
    if given is not None:
        return given
    text = _variable(environ, name)
    if text is None or text.lower() in ("false", "no", "off", "0", "n", "f"):
        return False
    if text.lower() in ("true", "yes", "on", "1", "y", "t"):
        return True
    raise BadOption(f"CENTRAL_HUB_{name} must be true or false")


def _read(path: Path, name: str) -> str:
    try:
        return path.read_text()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it isn't text"
        raise BadOption(f"{name}: {path} can't be read: {reason}") from None


def _servers(base_url: str | Sequence[str]) -> tuple[str, ...]:
    urls = base_url.split(",") if isinstance(base_url, str) else list(base_url)
    urls = [url.strip() for url in urls if url.strip()]
    if not urls:
        raise BadOption("no server is named: nats://host:4222")
    for url in urls:
        scheme, separator, rest = url.partition("://")
        if "@" in (rest if separator else url):
            raise BadOption(
                "the NATS URL holds a user: give user and password instead (CENTRAL_HUB_NATS_USER, "
                "CENTRAL_HUB_NATS_PASSWORD)"
            )
        if separator and scheme not in ("nats", "tls"):
            raise BadOption(f"the hub is spoken to over NATS, not over {scheme}: nats://host:4222 or tls://host:4222")
    return tuple(url if "://" in url else f"nats://{url}" for url in urls)
