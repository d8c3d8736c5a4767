"""Registering, beating and finding others."""

from __future__ import annotations

import asyncio
import json
import logging
from typing import Any

import pytest
from conftest import Private
from servers import eventually, unique

from central_hub import CentralHubClient, HubError, HubUnavailable
from central_hub.discovery import ServicesView
from central_hub.errors import AmbiguousInstance, BadRequest, DependencyUnavailable, NotRegistered


async def test_a_service_comes_and_goes(hub: CentralHubClient, service: str) -> None:
    registered = await hub.register_service(
        service_name=service,
        version="1.2.3",
        host="10.0.0.5",
        port=8002,
        dependencies=["central-hub", "nats"],
        metadata={"phase": "phase-1"},
    )
    assert registered["instance_id"] == "10_0_0_5-8002" == hub.instance_id(service)
    answer = await hub.heartbeat(service, status="degraded", metrics={"cpu": 0.5})
    assert (answer["status"], answer["instance_id"]) == ("degraded", "10_0_0_5-8002")

    found = await hub.get_service(service)
    assert found is not None
    assert (found["host"], found["port"], found["status"]) == ("10.0.0.5", 8002, "degraded")
    assert found["instances"][0]["metadata"] == {"phase": "phase-1"}

    assert await hub.deregister(service) == {"service_name": service, "instance_id": "10_0_0_5-8002"}
    assert await hub.get_service(service) is None
    assert hub.instance_id(service) is None


async def test_leaving_the_context_says_goodbye(url: str, hub: CentralHubClient, service: str) -> None:
    async with CentralHubClient(url) as other:
        await other.register_service(service)
        other.start_heartbeats()
        assert await hub.get_service(service)
    assert await hub.get_service(service) is None


async def test_services_are_filtered_and_paged(hub: CentralHubClient, service: str) -> None:
    group = unique()
    for number in range(5):
        body = {"instance_id": f"i{number}", "metadata": {"group": group, "even": number % 2 == 0}}
        await hub.call(f"register.{service}", body)
    await hub.heartbeat(service, "degraded", instance_id="i3")
    await hub.call(f"services.drain.{service}", {"instance_id": "i4", "draining": True})

    async def ids(status: str | None = None, **filters: object) -> list[str]:
        listed = await hub.get_services(status, metadata={"group": group}, **filters)  # type: ignore[arg-type]
        return [one["instance_id"] for one in listed]

    assert await ids() == ["i0", "i1", "i2", "i3", "i4"]
    assert await ids("healthy") == ["i0", "i1", "i2", "i4"]
    assert await ids(service_name=service, include_draining=False) == ["i0", "i1", "i2", "i3"]
    assert await ids(service_name=unique()) == []
    assert await ids(limit=3) == ["i0", "i1", "i2"]
    assert [one["instance_id"] for one in await hub.get_services(metadata={"group": group, "even": True})] == [
        "i0",
        "i2",
        "i4",
    ]

    # Pages smaller than the list.
    calls: list[int] = []
    ask = hub._calls.call

    async def small_pages(subject: str, body: dict[str, object]) -> dict[str, object]:
        calls.append(1)
        return await ask(subject, body | {"limit": 2})

    hub._calls.call = small_pages  # type: ignore[method-assign, assignment]
    assert await ids() == ["i0", "i1", "i2", "i3", "i4"]
    assert len(calls) == 3


async def test_a_lost_registration_is_renewed_by_the_next_heartbeat(hub: CentralHubClient, service: str) -> None:
    first = await hub.register_service(service, instance_id="i", metadata={"a": 1})
    await hub.call(f"deregister.{service}", {})
    answer = await hub.heartbeat(service)
    assert answer["instance_id"] == "i"
    found = await hub.get_service(service)
    assert found is not None
    assert found["instances"][0]["metadata"] == {"a": 1}
    assert found["instances"][0]["incarnation"] > first["incarnation"]


async def test_two_processes_of_one_id_part(url: str, hub: CentralHubClient, service: str) -> None:
    await hub.register_service(service, host="h", port=1)
    async with CentralHubClient(url) as second:
        await second.register_service(service, host="h", port=1)
        assert second.instance_id(service) == "h-1"
        answer = await hub.heartbeat(service)
        assert answer["instance_id"].startswith("h-1-")
        assert (await second.heartbeat(service))["instance_id"] == "h-1"
        assert len(await hub.get_services(service_name=service)) == 2
    assert [one["instance_id"] for one in await hub.get_services(service_name=service)] == [answer["instance_id"]]


async def test_a_late_goodbye_leaves_the_successor_alone(url: str, hub: CentralHubClient, service: str) -> None:
    await hub.register_service(service, instance_id="i")
    async with CentralHubClient(url) as successor:
        await successor.register_service(service, instance_id="i")
        with pytest.raises(HubError) as refused:
            await hub.deregister(service)
        assert refused.value.code == "stale_incarnation"
        assert await hub.get_service(service)


async def test_heartbeats_in_the_background(hub: CentralHubClient, service: str) -> None:
    await hub.register_service(service, instance_id="i", heartbeat_interval_seconds=0.1)
    state = {"status": "healthy", "beats": 0}

    def metrics() -> dict[str, float]:
        state["beats"] = int(state["beats"]) + 1
        if state["beats"] == 3:
            raise RuntimeError("a gauge that fails doesn't end the heartbeats")
        if state["beats"] == 4:
            raise asyncio.CancelledError("nor does one that seems to cancel them")
        return {"beats": float(state["beats"])}

    hub.start_heartbeats(service, status=lambda: str(state["status"]), metrics=metrics)
    await eventually(lambda: int(state["beats"]) > 5)
    state["status"] = "degraded"

    async def status() -> bool:
        return bool(await hub.get_services("degraded", service_name=service))

    await eventually(status)
    # Lost and found.
    await hub.call(f"deregister.{service}", {})
    await eventually(status)
    await hub.deregister(service)
    beats = state["beats"]
    assert await hub.get_service(service) is None
    assert state["beats"] == beats


def fails() -> Any:
    raise RuntimeError("a gauge that fails")


async def beats_on(hub: CentralHubClient, service: str, **wanted: object) -> None:
    """Three times more."""
    for _ in range(3):
        seen = (await hub.get_services(service_name=service))[0]["last_heartbeat"]

        async def beaten(seen: str = seen) -> bool:
            (record,) = await hub.get_services(service_name=service)
            return bool(record["last_heartbeat"] > seen and wanted.items() <= record.items())

        await eventually(beaten)


@pytest.mark.parametrize(
    ("functions", "complaint"),
    [
        ({"metrics": lambda: {"a": float("nan"), "b": float("inf"), "c": 1.0}}, None),
        ({"metrics": fails}, "metrics= failed"),
        ({"metrics": lambda: {"a": "much"}}, "metrics= failed"),
        ({"metrics": lambda: None}, "metrics= failed"),
        ({"metrics": lambda: {"a b": 1.0}}, "the metrics are refused"),
        ({"metrics": lambda: {"\ud800": 1.0}}, "the metrics are refused"),
        ({"metrics": lambda: {f"m{number}": 1.0 for number in range(65)}}, "the metrics are refused"),
        ({"status": fails}, "status= failed"),
        ({"status": lambda: "fine"}, "status= failed"),
        ({"status": fails, "metrics": fails}, "metrics= failed"),
    ],
)
async def test_a_bad_measurement_does_not_silence_the_process(
    hub: CentralHubClient,
    service: str,
    functions: dict[str, Any],
    complaint: str | None,
    caplog: pytest.LogCaptureFixture,
) -> None:
    await hub.register_service(service, status="degraded", heartbeat_interval_seconds=0.1)
    hub.start_heartbeats(**functions)
    await beats_on(hub, service, status="degraded")
    complaints = [one.getMessage() for one in caplog.records if one.levelno >= logging.ERROR]
    if complaint is None:
        assert complaints == []
    else:
        assert len([one for one in complaints if complaint in one]) == 1, "it isn't said again with each heartbeat"


async def test_what_is_finite_is_measured(hub: CentralHubClient, service: str) -> None:
    listener = (await hub.connection.session(5)).client
    heard = await listener.subscribe(f"hub.heartbeat.{service}")
    await hub.register_service(service)
    hub.start_heartbeats(metrics=lambda: {"a": float("nan"), "b": 2})
    assert json.loads((await heard.next_msg(timeout=20)).data)["metrics"] == {"b": 2.0}


async def test_a_status_that_is_none_is_refused_and_not_repeated(hub: CentralHubClient, service: str) -> None:
    await hub.register_service(service, heartbeat_interval_seconds=0.1)
    with pytest.raises(BadRequest, match="healthy, degraded, down"):
        await hub.heartbeat(service, "fine")
    hub.start_heartbeats()
    await beats_on(hub, service, status="healthy")


async def test_what_was_said_last_is_repeated(hub: CentralHubClient, service: str) -> None:
    await hub.register_service(service, heartbeat_interval_seconds=0.1)
    await hub.heartbeat(service, "degraded")
    seen = (await hub.get_services(service_name=service))[0]["last_heartbeat"]
    hub.start_heartbeats()

    async def beaten() -> bool:
        record = (await hub.get_services(service_name=service))[0]
        assert record["status"] == "degraded"
        return bool(record["last_heartbeat"] > seen)

    await eventually(beaten)


async def test_heartbeats_of_a_service_that_others_registered(hub: CentralHubClient, service: str) -> None:
    with pytest.raises(NotRegistered):
        await hub.heartbeat(service)
    await hub.call(f"register.{service}", {"instance_id": "a"})
    assert (await hub.heartbeat(service))["instance_id"] == "a"
    await hub.call(f"register.{service}", {"instance_id": "b"})
    with pytest.raises(AmbiguousInstance) as ambiguous:
        await hub.heartbeat(service)
    assert sorted(ambiguous.value.details["instances"]) == ["a", "b"]
    assert (await hub.heartbeat(service, instance_id="b"))["instance_id"] == "b"
    await hub.deregister(service, "a")
    with pytest.raises(LookupError, match="register_service"):
        hub.start_heartbeats(service)


async def test_mistakes_are_told_at_once(hub: CentralHubClient, service: str) -> None:
    for name in ("tick.aggregator", "", "a b", "*", "ü", "x" * 101):
        with pytest.raises(BadRequest, match="service_name"):
            await hub.register_service(name)
        with pytest.raises(BadRequest, match="service_name"):
            await hub.get_service(name)
    with pytest.raises(BadRequest, match="instance_id"):
        await hub.register_service(service, instance_id="a.b")
    with pytest.raises(BadRequest) as refused:
        await hub.register_service(service, port=70000)
    assert (refused.value.details["field"], refused.value.code) == ("port", "bad_request")
    assert "65535" in str(refused.value)
    with pytest.raises(DependencyUnavailable):
        await hub.register_service(service, dependencies=[unique()], require_dependencies=True)
    with pytest.raises(ValueError, match="JSON"):
        await hub.heartbeat(service, metrics={"cpu": float("nan")})
    for subject in ("", "services..list", "services.get.*", "services.get.a b"):
        with pytest.raises(BadRequest):
            await hub.call(subject)
    with pytest.raises(HubError) as unknown:
        await hub.call("services.list", {"colour": "red"})
    assert unknown.value.details["field"] == "colour"


async def test_nobody_answers(url: str, service: str) -> None:
    async with CentralHubClient(url, subject_prefix=unique(), timeout=2) as client:
        with pytest.raises(HubUnavailable, match="nobody listens"):
            await client.health()
        with pytest.raises(HubUnavailable, match="could not be registered"):
            await client.register_service(service, timeout=0.5)
    with pytest.raises(HubUnavailable, match="closed"):
        await client.health()
    async with CentralHubClient("nats://127.0.0.1:1", timeout=0.3) as client:
        with pytest.raises(HubUnavailable, match="can't be reached"):
            await client.get_services()


async def test_a_body_that_nats_does_not_take(hub: CentralHubClient, service: str) -> None:
    with pytest.raises(HubError) as refused:
        await hub.call(f"config.set.{service}", {"config": {"a": "x" * 2_000_000}})
    assert refused.value.code == "too_large"


async def test_the_hubs_own_health(hub: CentralHubClient) -> None:
    assert (await hub.health())["status"] == "healthy"


async def test_registering_again_takes_the_place_of_the_former(hub: CentralHubClient, service: str) -> None:
    await hub.register_service(service, instance_id="i", version="1")
    hub.start_heartbeats()
    await hub.register_service(service, instance_id="i", version="2")
    assert (await hub.heartbeat(service))["instance_id"] == "i"
    listed = await hub.get_services(service_name=service)
    assert [(one["instance_id"], one["version"]) for one in listed] == [("i", "2")]


async def test_a_loop_of_registrations_with_little_patience(url: str, service: str) -> None:
    """Each try that is given up may have been taken all the same; one instance comes of it."""
    async with CentralHubClient(url) as hub:
        for _ in range(20):
            try:
                await hub.register_service(service, instance_id="i", timeout=0.001)
            except HubUnavailable:
                continue
        await hub.register_service(service, instance_id="i", timeout=10)
        assert (await hub.heartbeat(service))["instance_id"] == "i"
        assert [one["instance_id"] for one in await hub.get_services(service_name=service)] == ["i"]


async def test_heartbeats_go_on_for_the_new_registration(hub: CentralHubClient, service: str) -> None:
    await hub.register_service(service, version="1", heartbeat_interval_seconds=0.1)
    hub.start_heartbeats(status=lambda: "degraded")
    second = await hub.register_service(service, version="2", heartbeat_interval_seconds=0.1)
    await beats_on(hub, service, version="2", status="degraded", incarnation=second["incarnation"])
    # One that the hub refuses changes nothing, also where the hub forgets the process afterwards.
    with pytest.raises(BadRequest):
        await hub.register_service(service, port=70000)
    await hub.call(f"deregister.{service}", {})
    await eventually(lambda: hub.get_service(service))
    await beats_on(hub, service, version="2", status="degraded", instance_id=second["instance_id"])


async def test_registering_again_without_an_id_renews_the_same_instance(url: str, service: str) -> None:
    async with CentralHubClient(url) as hub:
        first = await hub.register_service(service)
        second = await hub.register_service(service, host="10.0.0.5", port=8002)
        assert second["instance_id"] == first["instance_id"] == hub.instance_id(service)
        (record,) = await hub.get_services(service_name=service)
        assert (record["port"], record["incarnation"]) == (8002, second["incarnation"])


async def test_a_registration_without_an_id_whose_answer_is_lost_is_one_instance(
    hub: CentralHubClient, service: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    lose(hub, f"hub.register.{service}", monkeypatch)
    await hub.register_service(service)
    assert [one["instance_id"] for one in await hub.get_services(service_name=service)] == [hub.instance_id(service)]


def lose(hub: CentralHubClient, subject: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Has the next answer on the subject lost on its way."""
    ask, due = hub.connection.request, [True]

    async def loses(asked: str, payload: bytes, timeout: float) -> Any:
        answer = await ask(asked, payload, timeout)
        if asked == subject and due:
            due.clear()
            raise HubUnavailable("lost")
        return answer

    monkeypatch.setattr(hub.connection, "request", loses)


async def test_a_renewal_that_is_given_up_costs_no_instance(
    hub: CentralHubClient, service: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The hub has taken it, and nobody knows."""
    await hub.register_service(service, instance_id="i", version="1")
    lose(hub, f"hub.register.{service}", monkeypatch)
    with pytest.raises(HubUnavailable, match="could not be registered"):
        await hub.register_service(service, version="2", timeout=0.1)
    assert (await hub.heartbeat(service))["instance_id"] == "i"
    assert [one["instance_id"] for one in await hub.get_services(service_name=service)] == ["i"]


async def test_under_another_id_the_former_says_goodbye(
    url: str, hub: CentralHubClient, service: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def ids() -> list[str]:
        return [one["instance_id"] for one in await hub.get_services(service_name=service)]

    async with CentralHubClient(url) as client:
        await client.register_service(service, instance_id="a")
        await client.register_service(service, instance_id="b")
        assert await ids() == ["b"]
        assert (await client.heartbeat(service))["instance_id"] == "b"

        async def nobody(subject: str, payload: bytes, timeout: float) -> Any:
            if "deregister" in subject:
                raise HubUnavailable("not now")
            return await ask(subject, payload, timeout)

        ask = client.connection.request
        monkeypatch.setattr(client.connection, "request", nobody)
        await client.register_service(service, instance_id="c")
        assert await ids() == ["b", "c"], "its goodbye wasn't heard"
        monkeypatch.undo()
    assert await ids() == [], "and is said again"


async def test_a_goodbye_and_a_new_registration_at_once(url: str, hub: CentralHubClient, service: str) -> None:
    async with CentralHubClient(url) as client:
        await client.register_service(service, instance_id="i")
        leaving = asyncio.ensure_future(client.deregister(service))
        await asyncio.sleep(0)
        await client.register_service(service, instance_id="i")
        await leaving
        assert client.instance_id(service) == "i"
        client.start_heartbeats(service)
        assert await hub.get_service(service)
    assert await hub.get_service(service) is None


async def test_a_goodbye_ends_a_registration_that_nobody_hears(service: str) -> None:
    async with CentralHubClient("nats://127.0.0.1:1", timeout=0.2) as client:
        registering = asyncio.ensure_future(client.register_service(service))
        await asyncio.sleep(0)
        with pytest.raises(NotRegistered):
            await asyncio.wait_for(client.deregister(service), 10)
        with pytest.raises(HubUnavailable):
            await asyncio.wait_for(registering, 10)


async def test_a_heartbeat_after_the_goodbye_registers_nobody(hub: CentralHubClient, service: str) -> None:
    await hub.register_service(service)
    leaving = asyncio.ensure_future(hub.deregister(service))
    await asyncio.sleep(0)
    with pytest.raises(NotRegistered):
        await hub.heartbeat(service)
    await leaving
    assert await hub.get_service(service) is None


async def test_what_is_under_way_ends_with_the_client(private: Private, service: str) -> None:
    client = CentralHubClient(private.url, timeout=1)
    await client.register_service(service)
    private.hub.pause()
    calls = [
        asyncio.ensure_future(call)
        for call in (client.heartbeat(service), client.register_service(service), client.register_service(unique()))
    ]
    listener = (await client.connection.session(5)).client
    asked = await listener.subscribe(f"hub.heartbeat.{service}")
    await asked.next_msg(timeout=20)
    await client.close()
    for call in calls:
        with pytest.raises(HubUnavailable, match="closed"):
            await asyncio.wait_for(call, 10)
    private.hub.resume()


async def test_a_closed_client(url: str, service: str) -> None:
    unheard = CentralHubClient("nats://127.0.0.1:1")
    registering = asyncio.ensure_future(unheard.register_service(service))
    await eventually(lambda: unheard.connection._attempt > 1)
    await unheard.close()
    with pytest.raises(HubUnavailable, match="closed"):
        await asyncio.wait_for(registering, 10)
    for call in (unheard.register_service(service), unheard.heartbeat(service), unheard.watch_services()):
        with pytest.raises(HubUnavailable, match="closed"):
            await asyncio.wait_for(call, 10)


async def test_a_loop_of_heartbeats_brings_nobody_back_after_the_close(
    url: str, hub: CentralHubClient, service: str
) -> None:
    client = CentralHubClient(url)
    await client.register_service(service)

    async def loop() -> None:
        while True:
            await client.heartbeat(service)

    loops = [asyncio.ensure_future(loop()) for _ in range(10)]
    await client.heartbeat(service)
    await client.close()
    for one in loops:
        with pytest.raises(HubUnavailable, match="closed"):
            await asyncio.wait_for(one, 10)
    assert await hub.get_service(service) is None


async def test_a_view_that_was_given_up_or_closed_is_forgotten(hub: CentralHubClient) -> None:
    await hub.health()
    client = (await hub.connection.session(5)).client
    before = len(client._subs)
    for steps in range(60):
        watching = asyncio.ensure_future(hub.watch_services())
        for _ in range(steps):
            await asyncio.sleep(0)
        watching.cancel()
        (view,) = await asyncio.gather(watching, return_exceptions=True)
        if isinstance(view, ServicesView):
            await view.close()
    assert hub._views == set()
    await eventually(lambda: len(client._subs) == before)
    assert not [task for task in asyncio.all_tasks() if "of the services" in task.get_name()]
    view = await hub.watch_services()
    assert hub._views == {view}
    await view.close()
    assert hub._views == set()
