"""Publishing configs, and the infrastructure's health."""

from __future__ import annotations

import asyncio
import json
from datetime import datetime, timedelta, timezone
from typing import Any

import pytest
from nats.aio.msg import Msg
from servers import eventually, unique

from central_hub import CentralHubClient, ConfigAPI, HubError, HubUnavailable, InfrastructureMonitor
from central_hub.errors import BadRequest, Expired, NotFound, SchemaViolation, SecretDetected, VersionConflict


@pytest.fixture
def api(hub: CentralHubClient) -> ConfigAPI:
    return ConfigAPI(hub=hub)


async def test_the_life_of_a_config(api: ConfigAPI, service: str) -> None:
    assert await api.update_config(service_name=service, config_data={"a": 1, "b": 2}, created_by="admin") == 1
    again = await api.set(service, {"b": 2, "a": 1})
    assert (again["version"], again["changed"]) == (1, False)
    patched = await api.patch(service, {"a": 3, "b": None}, "me", comment="calmer")
    assert patched["version"] == 2
    found = await api.get(service)
    assert (found["config"], found["created_by"], found["comment"]) == ({"a": 3}, "me", "calmer")
    assert (await api.get(service, 1))["created_by"] == "admin"
    assert {change["path"] for change in await api.diff(service, 1)} == {"/a", "/b"}
    assert (await api.rollback(service))["version"] == 1
    assert (await api.rollback(service, 2))["version"] == 2
    assert (await api.delete(service, comment="gone"))["version"] is None
    with pytest.raises(NotFound):
        await api.get(service)
    history = await api.history(service)
    assert [one["action"] for one in history["activations"]] == [
        "deleted",
        "rolled_back",
        "rolled_back",
        "published",
        "published",
    ]
    assert [one["revision"] for one in (await api.history(service, limit=1, before_revision=3))["activations"]] == [2]
    assert (await api.status(service))["instances"] == []
    assert service in [one["service_name"] for one in await api.list()]


async def test_what_the_hub_refuses(api: ConfigAPI, service: str) -> None:
    await api.update_config(service, {"n": 1})
    with pytest.raises(VersionConflict) as conflict:
        await api.update_config(service, {"n": 2}, expected_version=7)
    assert conflict.value.active_version == 1
    with pytest.raises(SecretDetected) as secret:
        await api.update_config(service, {"db": {"password": "hunter2!"}})
    assert secret.value.details["paths"] == ["/db/password"]
    assert "/db/password" in str(secret.value)
    assert "hunter2" not in str(secret.value)
    assert await api.update_config(service, {"db": {"password": "header"}}, not_secret=["/db/password"]) == 2
    with pytest.raises(Expired):
        await api.update_config(service, {"n": 3}, deadline=datetime.now(timezone.utc) - timedelta(hours=1))
    assert (
        await api.update_config(
            service, {"n": 3}, deadline=datetime.now(timezone.utc) + timedelta(hours=1), dry_run=True
        )
        == 3
    )
    assert (await api.get(service))["version"] == 2

    schema = {"type": "object", "required": ["n"]}
    assert (await api.set_schema(service, schema))["schema"] == schema
    assert await api.get_schema(service) == schema
    with pytest.raises(SchemaViolation) as violation:
        await api.update_config(service, {})
    assert violation.value.details["violations"][0]["path"] == ""
    assert violation.value.details["violations"][0]["message"] in str(violation.value)
    assert (await api.validate(service, {}))["valid"] is False
    assert (await api.validate(service, {"n": 1}))["valid"] is True
    await api.set_schema(service, None)
    assert await api.get_schema(service) is None


def test_a_long_list_of_findings_is_cut() -> None:
    text = str(HubError.of("secret_detected", "config: it carries secrets", {"paths": [f"/{n}" for n in range(7)]}))
    assert text == "config: it carries secrets: /0; /1; /2; /3; /4; and 2 more (secret_detected)"


async def test_what_json_cannot_hold_is_named(api: ConfigAPI, service: str) -> None:
    for call in (api.set, api.patch, api.validate):
        with pytest.raises(BadRequest, match="it must be a mapping, as a dict is, not list"):
            await call(service, [1])  # type: ignore[operator]
    itself: dict[str, Any] = {"a": 1}
    itself["b"] = itself
    deep: list[Any] = []
    for _ in range(100_000):
        deep = [deep]
    cases: list[tuple[dict[str, Any], type[Exception], str]] = [
        ({"a": {"b/c": [1.0, float("nan")]}}, ValueError, "config/a/b~1c/1: it must be a finite number"),
        ({"secret-value": {"a": {"secret-value"}}}, TypeError, "config/secret-value/a: JSON has no set"),
        ({"a": {("secret-value",): 1}}, TypeError, "config/a: its keys must be texts, not tuple"),
        ({"a": "secret-value\ud800"}, ValueError, "config/a: it must be Unicode text"),
        ({"\ud800": 1}, ValueError, "config: its keys must be Unicode text"),
        (itself, ValueError, "it must not hold itself"),
        ({"a": deep}, ValueError, "nor be nested deeper"),
    ]
    for config, kind, why in cases:
        with pytest.raises(kind) as refused:
            await api.set(service, config)
        assert why in str(refused.value)
        assert "secret-value" not in str(refused.value).replace("config/secret-value", "")


async def test_a_change_ends_with_its_client(service: str) -> None:
    api = ConfigAPI("nats://127.0.0.1:1", timeout=3600)
    changing = asyncio.ensure_future(api.set(service, {"n": 1}))
    await eventually(lambda: api._calls.connection._attempt > 1)
    await api.close()
    with pytest.raises(HubUnavailable):
        await asyncio.wait_for(changing, 10)


async def test_a_change_happens_once_however_often_it_is_sent(
    hub: CentralHubClient, api: ConfigAPI, service: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first answers are lost on their way; the same request is sent again."""
    ask, lost = api._calls.connection.request, 2
    bodies: list[bytes] = []

    async def loses(subject: str, payload: bytes, timeout: float) -> Msg:
        nonlocal lost
        bodies.append(payload)
        answer = await ask(subject, payload, timeout)
        if lost:
            lost -= 1
            raise HubUnavailable("lost")
        return answer

    monkeypatch.setattr(api._calls.connection, "request", loses)
    assert await api.update_config(service, {"n": 1}) == 1
    assert len(bodies) == 3
    assert len(set(bodies)) == 1
    await api.rollback(service, 1)
    monkeypatch.undo()
    assert [one["revision"] for one in (await api.history(service))["activations"]] == [1]


async def serves(hub: CentralHubClient, subject: str) -> bool:
    """Whether this hub has the subject."""
    client = (await hub.connection.session(5)).client
    info = json.loads((await client.request("$SRV.INFO.central-hub", timeout=5)).data)
    return subject in [endpoint["subject"] for endpoint in info["endpoints"]]


async def test_the_infrastructure(hub: CentralHubClient) -> None:
    if not await serves(hub, "hub.infra.check"):
        pytest.skip("this hub doesn't look at the infrastructure yet")
    monitor = InfrastructureMonitor(hub=hub)
    for looks in (await monitor.check_all(), await monitor.status()):
        assert {"postgresql", "nats", "kafka", "clickhouse"} <= set(looks)
        assert looks["nats"]["status"] == "healthy"
        assert looks["nats"]["response_time_ms"] >= 0
        assert looks["nats"]["error_message"] is None
        assert looks["kafka"]["status"] == "unknown"


async def test_how_a_report_is_read(hub: CentralHubClient) -> None:
    """The answer of `hub.infra.check` as the contract has it, by a responder of another fleet."""
    prefix = unique()
    client = (await hub.connection.session(5)).client
    components: list[dict[str, Any]] = [
        {"component_name": "nats", "kind": "nats", "status": "healthy", "response_time_ms": 0.4, "error_message": None},
        {
            "component_name": "kafka",
            "kind": "kafka",
            "status": "unknown",
            "response_time_ms": None,
            "error_message": "no target",
        },
    ]

    async def answer(message: Msg) -> None:
        await message.respond(json.dumps({"components": components}).encode())

    await client.subscribe(f"{prefix}.infra.check", cb=answer)
    async with InfrastructureMonitor(hub.connection.options.servers, subject_prefix=prefix) as monitor:
        found = await monitor.check_all()
    assert list(found) == ["nats", "kafka"]
    assert found["nats"] == {"kind": "nats", "status": "healthy", "response_time_ms": 0.4, "error_message": None}
    assert found["kafka"]["error_message"] == "no target"
