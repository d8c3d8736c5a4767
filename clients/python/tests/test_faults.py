"""What breaks: the hub, NATS, its data, the bucket, all of it.

A config stays in force and never goes back throughout, and the newest one arrives within two seconds of the moment at
which somebody who just comes can read it.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import nats
import pytest
from conftest import Private
from servers import Hub, Nats, eventually, free_port, stream

from central_hub import CentralHubClient, ConfigAPI, ConfigClient, HubUnavailable
from central_hub.entries import Position

SOON = 2.0
"""Seconds in which a recovery shows."""


class Witness:
    """A service that keeps looking at its config: is there one, and does it ever go back?"""

    def __init__(self, client: ConfigClient) -> None:
        self.client = client
        self.seen: list[tuple[Position | None, Any]] = []
        self._task = asyncio.ensure_future(self._look())

    async def _look(self) -> None:
        while True:
            now = (self.client.position, self.client.config)
            if not self.seen or self.seen[-1] != now:
                self.seen.append(now)
            await asyncio.sleep(0.005)

    async def close(self) -> None:
        self._task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._task
        positions = [position for position, _ in self.seen if position is not None]
        assert positions == sorted(positions), "it went back"
        first = next(index for index, (position, _) in enumerate(self.seen) if position is not None)
        assert all(position is not None and config.get("n") for position, config in self.seen[first:]), "it was gone"


@contextlib.asynccontextmanager
async def running(
    url: str, service: str, attached: bool = True, **options: Any
) -> AsyncIterator[tuple[ConfigClient, CentralHubClient]]:
    """A service with a config client, as most will be: registered, beating, watched."""
    async with CentralHubClient(url) as hub:
        if attached:
            await hub.register_service(service, instance_id="i", heartbeat_interval_seconds=1)
            hub.start_heartbeats()
            client = ConfigClient(service, hub=hub, **options)
        else:
            client = ConfigClient(service, base_url=url, **options)
        await client.init_async()
        witness = Witness(client)
        try:
            yield client, hub
            await witness.close()
        finally:
            await client.close()


async def in_kv(url: str, service: str, n: int) -> bool:
    """Whether somebody who comes now reads this config in KV."""
    try:
        client = await nats.connect(url, allow_reconnect=False, connect_timeout=1, error_cb=_ignore)
    except Exception:
        return False
    try:
        bucket = await client.jetstream(timeout=1).key_value("hub_config")
        entry = await bucket.get(service)
        return entry.value is not None and json.loads(entry.value)["config"] == {"n": n}
    except Exception:
        return False
    finally:
        await client.close()


async def _ignore(_: Exception) -> None:
    pass


async def arrives(client: ConfigClient, url: str, service: str, n: int) -> None:
    """The config arrives within `SOON` of its return to KV."""

    async def published() -> bool:
        return client.config == {"n": n} or await in_kv(url, service, n)

    await eventually(published, 60)
    began = time.monotonic()
    await eventually(lambda: client.config == {"n": n}, 30)
    assert time.monotonic() - began < SOON


@pytest.mark.parametrize("attached", [True, False])
async def test_kill_the_hub(private: Private, service: str, attached: bool) -> None:

    async with running(private.url, service, attached) as (client, hub), ConfigAPI(private.url, timeout=60) as api:
        await api.update_config(service, {"n": 1})
        await eventually(lambda: client.config == {"n": 1})
        private.hub.kill9()
        with pytest.raises(HubUnavailable):
            await hub.health()
        # Who starts now still reads it from KV.
        async with ConfigClient(service, base_url=private.url) as other:
            assert (other.config, other.source) == ({"n": 1}, "hub")
        update = asyncio.ensure_future(api.update_config(service, {"n": 2}))
        private.hub.start()
        assert await update == 2
        await arrives(client, private.url, service, 2)


@pytest.mark.parametrize("attached", [True, False])
async def test_kill_nats_and_wipe_its_data(private: Private, service: str, attached: bool) -> None:
    async with running(private.url, service, attached) as (client, hub):
        async with ConfigAPI(private.url, timeout=60) as api:
            await api.update_config(service, {"n": 1})
            await eventually(lambda: client.config == {"n": 1})
            for n in (2, 3):
                private.nats.kill9()
                private.nats.wipe()
                assert client.config == {"n": n - 1}
                private.nats.start()
                # As soon as the hub is back it commits; KV has nothing yet.
                await api.update_config(service, {"n": n})
                await arrives(client, private.url, service, n)
        if attached:

            async def beats() -> bool:
                return bool(await hub.get_services("healthy", service_name=service))

            await eventually(beats)


@pytest.mark.parametrize("attached", [True, False])
async def test_delete_the_bucket(private: Private, service: str, attached: bool) -> None:
    async with running(private.url, service, attached) as (client, _), ConfigAPI(private.url) as api:
        await api.update_config(service, {"n": 1})
        await eventually(lambda: client.config == {"n": 1})
        for n in (2, 3):
            await eventually(lambda n=n: in_kv(private.url, service, n - 1))
            await stream(private.url, "delete_stream")
            await api.update_config(service, {"n": n})
            await arrives(client, private.url, service, n)


async def test_the_bucket_is_made_anew_by_somebody_else(private: Private, service: str) -> None:
    """Counting from one again, which keeps watches that aren't made anew silent."""
    async with running(private.url, service) as (client, _), ConfigAPI(private.url) as api:
        for n in range(1, 30):
            await api.update_config(service, {"n": n})
        await eventually(lambda: client.config == {"n": 29})
        private.hub.pause()
        info = await stream(private.url, "stream_info")
        await stream(private.url, "delete_stream")
        connection = await nats.connect(private.url)
        await connection.jsm().add_stream(info.config, first_seq=None)
        await connection.close()
        private.hub.resume()
        await api.update_config(service, {"n": 30})
        await arrives(client, private.url, service, 30)


async def test_the_bucket_is_purged(private: Private, service: str) -> None:
    async with running(private.url, service) as (client, _), ConfigAPI(private.url) as api:
        await api.update_config(service, {"n": 1})
        await eventually(lambda: client.config == {"n": 1})
        await stream(private.url, "purge_stream")
        await api.update_config(service, {"n": 2})
        await arrives(client, private.url, service, 2)


async def test_nats_stands_still(private: Private, service: str) -> None:
    async with running(private.url, service) as (client, hub), ConfigAPI(private.url, timeout=60) as api:
        await api.update_config(service, {"n": 1})
        await eventually(lambda: client.config == {"n": 1})
        private.nats.pause()
        with pytest.raises(HubUnavailable):
            await hub.call("health", timeout=0.5)
        await asyncio.sleep(4)  # longer than the watch trusts a silent server
        assert client.config == {"n": 1}
        private.nats.resume()
        await api.update_config(service, {"n": 2})
        await arrives(client, private.url, service, 2)


async def test_start_with_nothing_reachable(
    private_nats: Callable[..., Nats], private_hub: Callable[..., Hub], service: str, tmp_path: Path
) -> None:
    nats_server = private_nats()
    hub_process = private_hub(nats_server.url)
    options: dict[str, Any] = {"base_url": nats_server.url, "cache_dir": tmp_path, "init_timeout": 0.5}
    began = time.monotonic()
    async with ConfigClient(service, {"n": 7}, **options) as client, CentralHubClient(nats_server.url) as hub:
        assert time.monotonic() - began < 5
        assert (client.config, client.source) == ({"n": 7}, "defaults")
        registering = asyncio.ensure_future(hub.register_service(service, instance_id="i"))
        nats_server.start()
        hub_process.start()
        async with ConfigAPI(nats_server.url, timeout=60) as api:
            await api.update_config(service, {"n": 1})
        await arrives(client, nats_server.url, service, 1)
        assert client.source == "hub"
        await registering

    # And again, with a last-good file.
    hub_process.kill9()
    nats_server.kill9()
    async with ConfigClient(service, {"n": 7}, **options) as client:
        assert (client.config, client.source, client.version) == ({"n": 1}, "file", 1)
        nats_server.wipe()
        nats_server.start()
        hub_process.start()
        await eventually(lambda: client.source == "hub", 60)
        assert client.config == {"n": 1}


async def test_an_older_truth_is_not_taken_before_the_epoch_says_so(
    private: Private, service: str, tmp_path: Path
) -> None:
    """A file that knows more than the hub: a heartbeat tells, the hub raises its epoch, and all is well again."""
    async with ConfigAPI(private.url) as api:
        await api.update_config(service, {"n": 1})
        epoch = (await api.get(service))["epoch"]
        file = tmp_path / f"{service}.json"
        fields = {"format": 1, "service_name": service, "checksum": None, "written_at": "2026-01-05T10:00:00Z"}
        file.write_text(json.dumps(fields | {"epoch": epoch, "revision": 50, "version": 40, "config": {"n": 50}}))
        async with ConfigClient(service, base_url=private.url, cache_dir=tmp_path) as alone:
            assert (alone.config, alone.source) == ({"n": 50}, "file")
            async with running(private.url, service, cache_dir=tmp_path) as (client, _):
                await eventually(lambda: client.config == {"n": 1} == alone.config, 30)
                assert client.position is not None
                assert client.position > Position(epoch, 50)


async def test_heartbeats_outlive_an_outage(private: Private, service: str) -> None:
    """The loop of the documentation: no exception ends it, and the service is there again."""
    async with CentralHubClient(private.url) as hub:
        await hub.register_service(service, instance_id="i", heartbeat_interval_seconds=0.2)
        beats = 0

        async def loop() -> None:
            nonlocal beats
            while True:
                await hub.heartbeat(service, status="healthy")
                beats += 1
                await asyncio.sleep(0.05)

        beating = asyncio.ensure_future(loop())
        await eventually(lambda: beats > 3)
        private.hub.kill9()
        private.nats.kill9()
        private.nats.wipe()
        private.nats.start()
        private.hub.start()
        before = beats
        await eventually(lambda: beats > before + 3, 60)
        private.hub.pause()
        with pytest.raises(HubUnavailable, match=r"within 0\.2 s"):
            await hub.heartbeat(service, timeout=0.2)
        private.hub.resume()
        assert not beating.done()
        beating.cancel()


async def test_the_services_view_outlives_it_too(private: Private, service: str) -> None:
    changes: list[tuple[str, str, str | None]] = []

    def note(name: str, instance: str, record: dict[str, Any] | None) -> None:
        changes.append((name, instance, record["status"] if record else None))

    async with CentralHubClient(private.url) as hub:
        for instance in ("a", "b"):
            await hub.call(f"register.{service}", {"instance_id": instance, "host": f"host-{instance}", "port": 1})
        view = await hub.watch_services(note)
        assert [one["instance_id"] for one in view.instances(service)] == ["a", "b"]
        found = view.get(service)
        assert found is not None
        assert found["host"] in ("host-a", "host-b")
        await hub.call(f"heartbeat.{service}", {"instance_id": "a", "status": "degraded"})
        await eventually(lambda: [one["instance_id"] for one in view.instances(service, "degraded")] == ["a"])
        assert view.get(service)["host"] == "host-b"  # type: ignore[index]
        assert view.get("nobody") is None

        # An emptied bucket, and one that is gone, say nothing about anybody.
        changes.clear()
        private.hub.pause()
        await stream(private.url, "purge_stream", "KV_hub_services")
        await stream(private.url, "delete_stream", "KV_hub_services")
        await eventually(lambda: not view.is_live)
        assert len(view.instances(service)) == 2
        private.hub.resume()
        await eventually(lambda: view.is_live, 30)
        assert len(view.instances(service)) == 2
        assert [one for one in changes if one[2] is None] == []

        # Somebody leaves while the view is deaf: the bucket lacks him, and the hub confirms it.
        private.nats.kill9()
        private.nats.wipe()
        private.nats.start()
        async with CentralHubClient(private.url) as other:
            await eventually(lambda: _succeeds(other.deregister(service, "b")), 60)
        await eventually(lambda: [one["instance_id"] for one in view.instances(service)] == ["a"], 30)
        assert (service, "b", None) in changes


async def _succeeds(call: Any) -> bool:
    try:
        await call
    except HubUnavailable:
        return False
    return True


async def test_nobody_there(service: str) -> None:
    """All of it, against a port that nobody listens on, ends in time."""
    url = f"nats://127.0.0.1:{free_port()}"
    async with CentralHubClient(url, timeout=0.3) as hub:
        view = await hub.watch_services()
        assert view.instances() == []
        with pytest.raises(HubUnavailable):
            await hub.get_service(service)
    async with ConfigAPI(url, timeout=0.3) as api:
        with pytest.raises(HubUnavailable, match="can't be reached"):
            await api.update_config(service, {})


async def test_a_watch_that_is_opened_again_leaves_no_consumer_behind(private: Private, service: str) -> None:
    async with ConfigAPI(private.url) as api:
        await api.update_config(service, {"n": 1})

    async def consumers() -> int:
        return len(
            [one for one in await stream(private.url, "consumers_info") if one.config.filter_subject.endswith(service)]
        )

    async with running(private.url, service, attached=False) as (client, _):
        for _ in range(3):
            await eventually(lambda: client._watch.is_live)
            client._watch.rebuild("of a test")
            await eventually(lambda: not client._watch.is_live)
        await eventually(lambda: client._watch.is_live, 30)
        assert await consumers() == 1

    async def none_left() -> bool:
        return await consumers() == 0

    await eventually(none_left)


async def test_a_server_that_silently_drops_the_consumer(private: Private, service: str) -> None:
    """An administrator deletes it: no message says so, but the signs of life end."""
    async with ConfigAPI(private.url) as api, running(private.url, service) as (client, _):
        await api.update_config(service, {"n": 1})
        await eventually(lambda: client._watch.is_live and client.config == {"n": 1})
        connection = await nats.connect(private.url)
        manager = connection.jsm()
        for one in await manager.consumers_info("KV_hub_config"):
            if one.config.filter_subject.endswith(service):
                await manager.delete_consumer("KV_hub_config", one.name)
        await connection.close()
        await api.update_config(service, {"n": 2})
        await arrives(client, private.url, service, 2)
