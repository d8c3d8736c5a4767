"""Registering, beating and finding others."""

from __future__ import annotations

import asyncio

import pytest
from servers import eventually, unique

from central_hub import CentralHubClient, HubError, HubUnavailable
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


async def test_a_view_that_was_given_up_or_closed_is_forgotten(hub: CentralHubClient) -> None:
    await hub.health()
    for steps in range(30):
        watching = asyncio.ensure_future(hub.watch_services())
        for _ in range(steps):
            await asyncio.sleep(0)
        watching.cancel()
        with pytest.raises(asyncio.CancelledError):
            await watching
    assert hub._views == set()
    assert not [task for task in asyncio.all_tasks() if "of the services" in task.get_name()]
    view = await hub.watch_services()
    assert hub._views == {view}
    await view.close()
    assert hub._views == set()
