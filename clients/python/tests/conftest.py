"""Fixtures: the servers that all tests share, and private ones for those that break them."""

from __future__ import annotations

import shutil
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import pytest_asyncio
from servers import Dev, Hub, Nats, scratch, unique

from central_hub.client import CentralHubClient


@pytest.fixture(scope="session")
def dev() -> Iterator[Dev]:
    """A NATS, a PostgreSQL and a hub, for everybody. Who breaks a server takes `private`."""
    folder = scratch("dev")
    servers = Dev(folder)
    try:
        servers.start()
        yield servers
    finally:
        servers.stop()
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Nothing of the machine's own environment gets in, and nothing is written to its cache."""
    import os

    for name in list(os.environ):
        if name.startswith("CENTRAL_HUB_") and name not in (
            "CENTRAL_HUB_PROGRAM",
            "CENTRAL_HUB_NATS_SERVER",
            "CENTRAL_HUB_PG_BIN",
        ):
            monkeypatch.delenv(name)
    monkeypatch.setenv("CENTRAL_HUB_CACHE_DIR", str(tmp_path / "cache"))


@pytest.fixture
def url(dev: Dev, monkeypatch: pytest.MonkeyPatch) -> str:
    """The address of the shared NATS, which the environment names, too."""
    monkeypatch.setenv("CENTRAL_HUB_NATS_URL", dev.nats_url)
    return dev.nats_url


@pytest.fixture
def service() -> str:
    """A service that nobody else uses."""
    return unique("svc-")


@pytest_asyncio.fixture
async def hub(url: str) -> AsyncIterator[CentralHubClient]:
    async with CentralHubClient(url) as client:
        yield client


@dataclass
class Private:
    """A NATS and a hub of one's own; the hub's database lies in the shared PostgreSQL."""

    nats: Nats
    hub: Hub

    @property
    def url(self) -> str:
        return self.nats.url


@pytest.fixture
def private_nats(tmp_path: Path) -> Iterator[Callable[..., Nats]]:
    """Makes private nats-servers; `start` is the test's."""
    made: list[Nats] = []

    def make(config: str = "", scheme: str = "nats") -> Nats:
        folder = scratch("nats")
        made.append(Nats(folder, config, scheme))
        return made[-1]

    yield make
    for server in made:
        server.stop()
        shutil.rmtree(server.store.parent, ignore_errors=True)


@pytest.fixture
def private_hub(dev: Dev) -> Iterator[Callable[..., Hub]]:
    """Makes private hubs; `start` is the test's."""
    made: list[Hub] = []

    def make(nats_url: str, **env: str) -> Hub:
        made.append(Hub(scratch("hub"), nats_url, dev.database(), **env))
        return made[-1]

    yield make
    for server in made:
        server.stop()
        shutil.rmtree(server.log.parent, ignore_errors=True)


@pytest_asyncio.fixture
async def private(private_nats: Callable[..., Nats], private_hub: Callable[..., Hub]) -> Private:
    """Private servers that run."""
    nats = private_nats()
    nats.start()
    hub = private_hub(nats.url)
    hub.start()
    await hub.ready()
    return Private(nats, hub)
