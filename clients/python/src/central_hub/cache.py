"""The last-good file: what a service runs on when it starts and nobody answers.

`tests/clients/README.md` describes its format, which the Rust client shares.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import tempfile
import time
from collections.abc import Iterator, Mapping
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from .entries import MAX_TEXT, Entry, parse, read_entry

try:
    import fcntl
except ImportError:  # pragma: no cover - a system without flock
    fcntl = None  # type: ignore[assignment]

log = logging.getLogger("central_hub")

FORMAT = 1
"""The format that is written, and the newest that is read."""

_LOCK_PATIENCE = 5.0
"""Seconds after which the file is written without the lock: its holder stands still."""


def folder(given: str | os.PathLike[str] | None, environ: Mapping[str, str]) -> Path:
    """Where the files lie: the argument, ``CENTRAL_HUB_CACHE_DIR``, or ``central-hub`` in the user's cache folder."""
    if given is not None:
        return Path(given)
    if environ.get("CENTRAL_HUB_CACHE_DIR"):
        return Path(environ["CENTRAL_HUB_CACHE_DIR"])
    xdg = environ.get("XDG_CACHE_HOME", "")
    if os.path.isabs(xdg):
        return Path(xdg, "central-hub")
    home = environ.get("HOME")
    return (Path(home) if home else Path.home()) / ".cache" / "central-hub"


def read_file_text(service_name: str, text: bytes | str) -> Entry | str:
    """The entry that a file's text holds, or why it can't be read."""
    value = parse(text)
    if not isinstance(value, dict):
        return "it is no JSON object: cut off, or damaged"
    number = value.get("format")
    if number != FORMAT or isinstance(number, bool):
        return f"its format is {number if isinstance(number, int) else 'unknown'}; this version reads format {FORMAT}"
    if value.get("service_name") != service_name:
        return "it is of another service"
    # Neither a canary of another time nor anything else than the format has.
    entry = read_entry(service_name, {name: value[name] for name in value if name != "canary"})
    return entry if entry is not None else "a field is missing or of the wrong type"


def file_value(service_name: str, entry: Entry, at: datetime) -> dict[str, Any]:
    """The object that stands in the file."""
    return {
        "format": FORMAT,
        "service_name": service_name,
        "epoch": entry.position.epoch,
        "revision": entry.position.revision,
        "version": entry.version,
        "checksum": entry.checksum,
        "config": entry.config,
        "written_at": at.astimezone(timezone.utc).isoformat().replace("+00:00", "Z"),
    }


class LastGood:
    """The file of one service. Its calls block for as long as the disk takes; none of them raises."""

    def __init__(self, path: Path, service_name: str) -> None:
        self.path = path / f"{service_name}.json"
        self._service_name = service_name
        self._last_failure: str | None = None

    def read(self) -> Entry | None:
        """What the file holds; ``None``, with a warning, when it can't be read."""
        try:
            found = self._found()
        except FileNotFoundError:
            return None
        except OSError as error:
            found = error.strerror or str(error)
        if isinstance(found, str):
            log.warning("the last-good file %s is ignored: %s", self.path, found)
            return None
        return found

    def write(self, entry: Entry) -> None:
        """Puts the entry in the place of what the file holds, unless that is newer. A failure costs a warning.

        A canary is never written: instances that aren't meant may share the file.
        """
        if entry.canary:
            return
        try:
            self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            with self._lock():
                kept = self._kept()
                if kept is None or kept.position <= entry.position:
                    self._replace(
                        json.dumps(
                            file_value(self._service_name, entry, datetime.now(timezone.utc)), ensure_ascii=False
                        )
                    )
            self._last_failure = None
        except (OSError, ValueError) as error:
            failure = (error.strerror if isinstance(error, OSError) else None) or str(error)
            if failure != self._last_failure:
                log.warning("the last-good file %s can't be written: %s", self.path, failure)
            self._last_failure = failure

    def _kept(self) -> Entry | None:
        try:
            found = self._found()
        except OSError:
            return None
        return None if isinstance(found, str) else found

    def _found(self) -> Entry | str:
        """What lies there, or why it can't be read. Of what is too large only as much is read as shows that."""
        with open(self.path, "rb", opener=_open_at_once) as file:
            return read_file_text(self._service_name, file.read(MAX_TEXT + 1) or b"")

    def _replace(self, text: str) -> None:
        """Whoever reads sees the old file or the new one, also after a loss of power."""
        descriptor, name = tempfile.mkstemp(dir=self.path.parent, prefix=f".{self.path.name}.")
        try:
            with os.fdopen(descriptor, "w", encoding="utf-8") as file:
                file.write(text + "\n")
                file.flush()
                os.fsync(file.fileno())
            os.replace(name, self.path)
        except BaseException:
            with contextlib.suppress(OSError):
                os.unlink(name)
            raise
        with contextlib.suppress(OSError):
            directory = os.open(self.path.parent, os.O_RDONLY)
            try:
                os.fsync(directory)
            finally:
                os.close(directory)

    @contextlib.contextmanager
    def _lock(self) -> Iterator[None]:
        """Keeps other processes from writing between the look at the file and its replacement, where locks work."""
        if fcntl is None:  # pragma: no cover
            yield
            return
        flags = os.O_CREAT | os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC
        try:
            descriptor = os.open(f"{self.path}.lock", flags, 0o600)
        except OSError:
            # As where locks don't work: a link in its place isn't followed, nor is it a reason to keep nothing.
            yield
            return
        with open(descriptor) as lock:
            deadline = time.monotonic() + _LOCK_PATIENCE
            while True:
                try:
                    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    if time.monotonic() > deadline:
                        break
                    time.sleep(0.005)
                except OSError:
                    break
                else:
                    break
            yield


def _open_at_once(path: str, flags: int) -> int:
    """Opens it without waiting for somebody who writes, should a pipe lie there."""
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))
