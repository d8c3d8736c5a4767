"""The configuration of a process, while hub and NATS are well."""

from __future__ import annotations

import asyncio
import json
import logging
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from servers import eventually

from central_hub import CentralHubClient, ConfigAPI, ConfigClient, HubUnavailable


@pytest.fixture
def api(hub: CentralHubClient) -> ConfigAPI:
    return ConfigAPI(hub=hub)


async def test_the_hub_answers_and_defaults_fill_in(api: ConfigAPI, service: str) -> None:
    await api.update_config(service, {"operational": {"interval": 5}})
    async with ConfigClient(service, {"operational": {"interval": 60, "symbols": ["EURUSD"]}}) as client:
        config = await client.get_config()
        assert config == {"operational": {"interval": 5, "symbols": ["EURUSD"]}}
        assert (client.source, client.version) == ("hub", 1)
        config["operational"]["interval"] = 7
        assert client.config["operational"]["interval"] == 5, "what a caller does with his copy is his own affair"


async def test_no_config_yet(url: str, service: str, api: ConfigAPI) -> None:
    began = time.monotonic()
    async with ConfigClient(service, {"a": 1}, init_timeout=10) as client:
        assert time.monotonic() - began < 8, "the hub's word that there is none ends the wait"
        assert (client.source, client.config, client.version, client.position) == ("defaults", {"a": 1}, None, None)
        await api.update_config(service, {"a": 2})
        await eventually(lambda: client.source == "hub")
        assert client.config == {"a": 2}


async def test_get_config_starts_the_client(url: str, service: str, api: ConfigAPI) -> None:
    await api.update_config(service, {"a": 2})
    client = ConfigClient(service)
    assert await client.get_config() == {"a": 2}
    await client.close()
    assert client.config == {"a": 2}, "what is in force stays readable"


async def test_changes_arrive_in_order_and_a_rollback_is_one(url: str, service: str, api: ConfigAPI) -> None:
    heard: list[dict[str, Any]] = []
    async with ConfigClient(service) as client:

        async def note(config: dict[str, Any]) -> None:
            heard.append(config)

        await client.watch_config(callback=note)
        assert heard == [], "there is no config yet"
        for number in (1, 2, 3):
            await api.update_config(service, {"n": number})
            await eventually(lambda number=number: heard[-1] == {"n": number})
        await api.rollback(service, to_version=1)
        await eventually(lambda: heard[-1] == {"n": 1})
        assert client.version == 1
        assert client.position is not None
        assert client.position.revision == 4
        await api.delete(service)
        await eventually(lambda: client.source == "defaults")
        assert heard[-1] == {}
        assert client.version is None
        await api.rollback(service)
        await eventually(lambda: client.source == "hub")
        assert [one.get("n") for one in heard] == [1, 2, 3, 1, None, 1]


async def test_a_callback_gets_what_is_in_force_first(url: str, service: str, api: ConfigAPI) -> None:
    await api.update_config(service, {"n": 1})
    heard: list[Any] = []
    client = ConfigClient(service)
    await client.init_async()
    await client.watch_config(
        lambda config: heard.append((config, threading.current_thread() is threading.main_thread()))
    )
    assert heard == [({"n": 1}, False)], "a plain function runs in a thread of its own"
    await client.close()


async def test_a_callback_refuses(url: str, service: str, api: ConfigAPI, caplog: pytest.LogCaptureFixture) -> None:
    await api.update_config(service, {"n": 1})

    async def positive(config: dict[str, Any]) -> None:
        if config["n"] < 1:
            raise ValueError(f"n must be positive, not {config['n']}")

    async with ConfigClient(service) as client:
        await client.watch_config(positive)
        await api.update_config(service, {"n": -1})
        await eventually(lambda: client.error)
        assert client.error == "ValueError: n must be positive, not -1"
        assert (client.config, client.version, client.source) == ({"n": 1}, 1, "hub")
        assert client.report() == {"config_revision": 1, "config_version": 1, "config_error": client.error}
        await api.update_config(service, {"n": 3})
        await eventually(lambda: client.version == 3)
        assert client.error is None
        assert client.report() == {"config_revision": 3, "config_version": 3}
    assert "is refused" in caplog.text


async def test_validate_judges_the_first_config_too(
    url: str, service: str, api: ConfigAPI, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def check(config: dict[str, Any]) -> None:
        if "n" not in config:
            raise KeyError("n")

    await api.update_config(service, {"n": 1})
    async with ConfigClient(service, cache_dir=tmp_path, validate=check):
        pass
    await api.update_config(service, {"m": 1})
    async with ConfigClient(service, cache_dir=tmp_path, validate=check) as client:
        assert (client.source, client.config) == ("file", {"n": 1})
        assert client.error == "KeyError: 'n'"
    async with ConfigClient(service, {"n": 0}, cache_dir=tmp_path / "other", validate=check) as client:
        assert (client.source, client.config) == ("hub", {"n": 0, "m": 1})
    # A callback that was there before the start judges it as well.
    client = ConfigClient(service, cache_dir=tmp_path)
    await client.watch_config(check)
    assert (client.source, client.config) == ("file", {"n": 1})
    await client.close()


async def test_a_callback_that_refuses_what_is_in_force(url: str, service: str, api: ConfigAPI) -> None:
    await api.update_config(service, {"n": 1})
    async with ConfigClient(service) as client:

        def check(config: dict[str, Any]) -> None:
            if config["n"] == 1:
                raise RuntimeError("no")

        await client.watch_config(check)
        assert (client.config, client.error) == ({"n": 1}, "RuntimeError: no")
        await api.update_config(service, {"n": 2})
        await eventually(lambda: client.config == {"n": 2})
        assert client.error is None


@pytest.mark.parametrize("kind", ["coroutine", "function"])
async def test_a_callback_that_blocks_holds_up_nothing_else(url: str, service: str, api: ConfigAPI, kind: str) -> None:
    """Of what arrives meanwhile only the newest is tried."""
    tried: list[int] = []
    release = threading.Event()

    async def slowly(config: dict[str, Any]) -> None:
        tried.append(config["n"])
        while not release.is_set():
            await asyncio.sleep(0.01)

    def slowly_in_a_thread(config: dict[str, Any]) -> None:
        tried.append(config["n"])
        release.wait(60)

    async with ConfigClient(service) as client:
        await client.watch_config(slowly if kind == "coroutine" else slowly_in_a_thread)
        for number in range(1, 11):
            await api.update_config(service, {"n": number})
            if number == 1:
                await eventually(lambda: tried == [1])
        assert client.config == {}, "nothing is in force before the application took it"
        release.set()
        await eventually(lambda: client.config == {"n": 10})
        assert tried[0] == 1
        assert tried[-1] == 10
        assert len(tried) <= 3


@pytest.mark.parametrize("kind", ["coroutine", "function"])
async def test_a_callback_that_never_ends(url: str, service: str, api: ConfigAPI, kind: str) -> None:
    release = threading.Event()
    stuck = asyncio.Event()

    async def hangs(config: dict[str, Any]) -> None:
        if config["n"] == 1:
            await stuck.wait()

    def hangs_in_a_thread(config: dict[str, Any]) -> None:
        if config["n"] == 1:
            release.wait(60)

    async with ConfigClient(service, callback_timeout=0.2) as client:
        await client.watch_config(hangs if kind == "coroutine" else hangs_in_a_thread)
        await api.update_config(service, {"n": 1})
        await eventually(lambda: client.error == "CallbackTimeout: the callback took longer than 0.2 s")
        await api.update_config(service, {"n": 2})
        # A thread can't be cancelled; no second one runs beside it.
        if kind == "function":
            release.set()
        await eventually(lambda: client.config == {"n": 2})
        assert client.error is None


async def test_references(
    url: str, service: str, api: ConfigAPI, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TICK_DB_PASSWORD", "s3cret-value")
    await api.update_config(service, {"db": {"password": "${env:TICK_DB_PASSWORD}"}})

    def check(config: dict[str, Any]) -> None:
        if config["db"].get("bad"):
            raise ValueError(f"can't connect with {config['db']['password']}")

    async with ConfigClient(service, cache_dir=tmp_path, env_allowlist=["TICK_*"], validate=check) as client:
        assert client.config == {"db": {"password": "s3cret-value"}}
        text = (tmp_path / f"{service}.json").read_text()
        assert "s3cret" not in text
        assert "${env:TICK_DB_PASSWORD}" in text
        await api.update_config(service, {"db": {"password": "${env:HOME}"}})
        await eventually(lambda: client.error)
        assert client.error == "/db/password: the environment variable HOME isn't on the allowlist"
        await api.update_config(service, {"db": {"password": "${env:TICK_DB_PASSWORD}", "bad": True}})
        await eventually(lambda: "ValueError" in (client.error or ""))
        assert client.error == "ValueError: can't connect with ***", "values of the environment stay out of messages"


async def test_values_are_not_logged(url: str, service: str, api: ConfigAPI, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    async with ConfigClient(service) as client:
        await api.update_config(service, {"marker": "don't-log-me"})
        await eventually(lambda: client.source == "hub")
    assert "is in force" in caplog.text
    assert "don't-log-me" not in caplog.text


async def test_the_fleet_sees_what_runs_where(hub: CentralHubClient, service: str, api: ConfigAPI) -> None:
    await api.update_config(service, {"n": 1})
    await hub.register_service(service, instance_id="i", heartbeat_interval_seconds=5)
    hub.start_heartbeats()

    def check(config: dict[str, Any]) -> None:
        if config.get("n") == 2:
            raise ValueError("two is no number")

    async def instance() -> Any:
        return (await api.status(service))["instances"][0]

    async def converged() -> bool:
        return bool((await api.status(service))["converged"])

    client = ConfigClient(service, hub=hub, validate=check)
    await client.init_async()
    await eventually(converged)
    await api.update_config(service, {"n": 2})

    async def failed() -> bool:
        found = await instance()
        return bool(
            found["state"] == "failed" and found["config_revision"] == 1 and "two is no number" in found["config_error"]
        )

    await eventually(failed)
    await api.update_config(service, {"n": 3})
    await eventually(converged)
    assert (await instance())["config_version"] == 3
    await api.delete(service)
    await eventually(converged)
    await client.close()
    assert "config_revision" not in str(hub._reporters)


async def test_manual_heartbeats_report_too(hub: CentralHubClient, service: str, api: ConfigAPI) -> None:
    await api.update_config(service, {"n": 1})
    await hub.register_service(service)
    async with ConfigClient(service, hub=hub):
        await hub.heartbeat(service)
        assert (await api.status(service))["converged"]


async def test_a_canary_is_for_the_instances_that_it_names(hub: CentralHubClient, service: str, tmp_path: Path) -> None:
    """What a rollout will put into KV, with a key that the hub leaves alone: another fleet's."""
    jetstream = (await hub.connection.session(5)).client.jetstream()
    prefix = service.replace("-", "")
    bucket = await jetstream.create_key_value(bucket=f"{prefix}_config", direct=True)
    value: dict[str, Any] = {
        "service_name": service,
        "epoch": 7,
        "revision": 4,
        "version": 1,
        "checksum": "a",
        "config": {"n": 1},
    }
    await bucket.put(service, json.dumps(value).encode())

    def client(instance: str | None) -> ConfigClient:
        return ConfigClient(service, bucket_prefix=prefix, instance_id=instance, cache_dir=tmp_path / str(instance))

    async with client("i-1") as chosen, client("i-2") as other, client(None) as tool:
        assert [one.config for one in (chosen, other, tool)] == [{"n": 1}] * 3
        canary = {"version": 2, "revision": 5, "config": {"n": 2}, "checksum": "b", "instances": ["i-1"]}
        await bucket.put(service, json.dumps(value | {"canary": canary}).encode())
        await eventually(lambda: chosen.config == {"n": 2})
        assert chosen.report() == {"config_revision": 5, "config_version": 2}
        assert (other.config, tool.config) == ({"n": 1}, {"n": 1})
        await bucket.put(service, json.dumps(value | {"revision": 6}).encode())
        await eventually(lambda: all(one.position and one.position.revision == 6 for one in (chosen, other, tool)))
        assert chosen.config == {"n": 1}


async def test_forged_values_and_markers_do_nothing(hub: CentralHubClient, service: str) -> None:
    jetstream = (await hub.connection.session(5)).client.jetstream()
    prefix = service.replace("-", "")
    bucket = await jetstream.create_key_value(bucket=f"{prefix}_config", history=5, direct=True)
    value: dict[str, Any] = {"service_name": service, "epoch": 7, "revision": 4, "version": 1, "config": {"n": 1}}
    await bucket.put(service, json.dumps(value).encode())
    async with ConfigClient(service, bucket_prefix=prefix) as client:
        assert client.config == {"n": 1}
        await bucket.put(service, b"forged")
        await bucket.put(service, json.dumps(value | {"revision": 3, "config": {"n": 0}}).encode())
        await bucket.delete(service)
        await bucket.purge(service)
        await bucket.put(service, json.dumps(value | {"revision": 5, "config": {"n": 5}}).encode())
        await eventually(lambda: client.config == {"n": 5})


async def test_a_missed_push_is_found_by_the_next_heartbeat(
    hub: CentralHubClient, service: str, api: ConfigAPI, monkeypatch: pytest.MonkeyPatch
) -> None:
    await api.update_config(service, {"n": 1})
    await hub.register_service(service)
    async with ConfigClient(service, hub=hub, check_interval=3600) as client:
        # Deaf, as a watch whose stream was made anew.
        await eventually(lambda: client._watch.is_live)
        monkeypatch.setattr(client._watch, "_on_update", lambda update: None)
        await api.update_config(service, {"n": 2})
        monkeypatch.undo()
        assert client.config == {"n": 1}
        await hub.heartbeat(service)
        await eventually(lambda: client.config == {"n": 2}, 5)


async def test_a_missed_push_is_found_by_the_second_look(
    url: str, service: str, api: ConfigAPI, monkeypatch: pytest.MonkeyPatch
) -> None:
    await api.update_config(service, {"n": 1})
    async with ConfigClient(service, check_interval=0.3) as client:
        await eventually(lambda: client._watch.is_live)
        monkeypatch.setattr(client._watch, "_deliver", lambda message: None)
        monkeypatch.setattr(client, "_note_update", client._note_update)
        await api.update_config(service, {"n": 2})
        await eventually(lambda: client.config == {"n": 2}, 5)


class Ended(BaseException):
    """What an application may raise and `except Exception` doesn't see."""


_ENDINGS = [asyncio.CancelledError, GeneratorExit, Ended]


@pytest.mark.parametrize(
    ("way", "failure"),
    [
        *(("function", failure) for failure in [*_ENDINGS, SystemExit, KeyboardInterrupt, StopIteration]),
        *((way, failure) for way in ("coroutine", "function that gives a coroutine") for failure in _ENDINGS),
    ],
)
async def test_whatever_a_callback_raises_is_a_refusal(
    url: str, service: str, api: ConfigAPI, way: str, failure: type[BaseException]
) -> None:
    def check(config: dict[str, Any]) -> None:
        if config["n"] == 2:
            raise failure

    async def check_in_the_loop(config: dict[str, Any]) -> None:
        check(config)

    ways: dict[str, Any] = {
        "function": check,
        "coroutine": check_in_the_loop,
        "function that gives a coroutine": lambda config: check_in_the_loop(config),
    }
    async with ConfigClient(service, validate=ways[way]) as client:
        await client.watch_config(ways[way])
        await api.update_config(service, {"n": 1})
        await eventually(lambda: client.config == {"n": 1})
        await api.update_config(service, {"n": 2})
        await eventually(lambda: client.error)
        assert client.config == {"n": 1}
        await api.update_config(service, {"n": 3})
        await eventually(lambda: client.config == {"n": 3})
        assert client.error is None


async def test_a_refusal_that_cannot_be_put_into_words(url: str, service: str, api: ConfigAPI) -> None:
    class Mute(Exception):
        def __str__(self) -> str:
            raise ValueError

    def check(config: dict[str, Any]) -> None:
        raise Mute

    async with ConfigClient(service, validate=check) as client:
        await api.update_config(service, {"n": 1})
        await eventually(lambda: client.error == "Mute: it can't be put into words")


async def test_closing_is_always_possible(url: str, service: str) -> None:
    client = ConfigClient(service, {"a": 1}, base_url="nats://127.0.0.1:1", init_timeout=60)
    starting = asyncio.ensure_future(client.init_async())
    await asyncio.sleep(0)
    await client.close()
    await asyncio.wait_for(starting, 5)
    assert await client.get_config() == {"a": 1}
    await ConfigClient(service).close()


async def test_one_pattern_is_a_list_of_one(url: str, service: str, api: ConfigAPI) -> None:
    """Not a list of its letters, of which the star would allow everything."""
    await api.update_config(service, {"home": "${env:HOME}"})
    async with ConfigClient(service, env_allowlist="TICK_*") as client:
        assert client.error == "/home: the environment variable HOME isn't on the allowlist"


async def test_a_closed_client_answers_with_what_was_in_force(url: str, service: str, api: ConfigAPI) -> None:
    await api.update_config(service, {"n": 1})
    async with ConfigClient(service, init_timeout=60) as client:
        pass
    unused = ConfigClient(service, {"n": 0}, init_timeout=60)
    await unused.close()
    before = asyncio.all_tasks()
    assert await asyncio.wait_for(client.get_config(), 10) == {"n": 1}
    assert await asyncio.wait_for(unused.get_config(), 10) == {"n": 0}
    assert {task for task in asyncio.all_tasks() - before if "central-hub" in task.get_name()} == set()
    with pytest.raises(HubUnavailable, match="closed"):
        await client.watch_config(lambda config: None)


async def test_of_two_clients_whichever_remains_reports(hub: CentralHubClient, service: str, api: ConfigAPI) -> None:
    await api.update_config(service, {"n": 1})
    await hub.register_service(service, instance_id="i", heartbeat_interval_seconds=5)
    hub.start_heartbeats()

    async def converged() -> bool:
        return bool((await api.status(service))["converged"])

    for closed_first in (0, 1):
        clients = [ConfigClient(service, hub=hub) for _ in range(2)]
        for client in clients:
            await client.init_async()
        await clients.pop(closed_first).close()
        await api.update_config(service, {"n": 2 + closed_first})
        await eventually(converged)
        await clients.pop().close()
    assert hub._reporters == {}


async def test_a_cold_start_with_nobody_there_calls_no_callback(service: str) -> None:
    heard: list[Any] = []
    client = ConfigClient(service, {"n": 0}, base_url="nats://127.0.0.1:1", init_timeout=0.1)
    await client.watch_config(heard.append)
    assert (heard, client.source, client.config) == ([], "defaults", {"n": 0})
    await client.close()
