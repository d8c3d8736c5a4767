"""The tables that every client keeps to: `tests/clients/cases` of the repository."""

from __future__ import annotations

import asyncio
import json
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from central_hub import cache
from central_hub.config import ConfigClient
from central_hub.entries import Entry, Position, read_text
from central_hub.layers import merged
from central_hub.references import UnresolvedReferences, resolve
from central_hub.watch import Missing, Update

CASES = Path(__file__).resolve().parents[3] / "tests" / "clients" / "cases"


def cases(table: str, rows: str = "cases") -> Any:
    listed = json.loads((CASES / f"{table}.json").read_text())[rows]
    assert listed
    assert len({case["name"] for case in listed}) == len(listed), "names are unique"
    return pytest.mark.parametrize("case", [pytest.param(case, id=case["name"]) for case in listed])


def same(found: Any, expected: Any) -> bool:
    """Equal as JSON: 1 isn't true, and 1.0 isn't 1."""
    return json.dumps(found, sort_keys=True) == json.dumps(expected, sort_keys=True)


def fields(entry: Entry | None) -> dict[str, Any] | None:
    if entry is None:
        return None
    return {
        "epoch": entry.position.epoch,
        "revision": entry.position.revision,
        "version": entry.version,
        "checksum": entry.checksum,
        "config": entry.config,
    }


@cases("merge")
def test_merge(case: dict[str, Any]) -> None:
    before = json.dumps(case)
    assert same(merged(case["config"], case["defaults"]), case["expect"])
    assert json.dumps(case) == before, "both stay as they are"


@cases("references")
def test_references(case: dict[str, Any]) -> None:
    if "expect" in case:
        assert same(resolve(case["config"], case["env"], case.get("allow")).config, case["expect"])
        return
    with pytest.raises(UnresolvedReferences) as raised:
        resolve(case["config"], case["env"], case.get("allow"))
    assert [vars(one) for one in raised.value.found] == case["unresolved"]
    for name, value in case["env"].items():
        assert value not in str(raised.value).replace(name, ""), "values never stand in messages"


@cases("entries")
def test_entries(case: dict[str, Any]) -> None:
    text = case["text"] if "text" in case else json.dumps(case["value"])
    entry = read_text("tick", text, case.get("instance_id"))
    found = fields(entry)
    assert same(found if entry is None else {**found, "canary": entry.canary}, case["expect"])


@cases("cache", "read")
def test_reading_the_file(case: dict[str, Any], tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "tick.json").write_text(case["text"])
    found = fields(cache.LastGood(tmp_path, "tick").read())
    assert same(found, case["expect"])
    assert [record.levelname for record in caplog.records] == ([] if found else ["WARNING"])


@cases("cache", "write")
def test_writing_the_file(case: dict[str, Any]) -> None:
    taken = case["taken"]
    position = Position(taken["epoch"], taken["revision"])
    entry = Entry(position, taken["version"], taken["checksum"], taken["config"])
    at = datetime.fromisoformat(case["at"].replace("Z", "+00:00"))
    assert same(cache.file_value("tick", entry, at), case["expect"])
    assert fields(cache.read_file_text("tick", json.dumps(cache.file_value("tick", entry, at)))) == taken  # type: ignore[arg-type]


@cases("cache", "folder")
def test_where_the_file_lies(case: dict[str, Any]) -> None:
    assert str(cache.folder(case["argument"], case["env"])) == case["expect"]


@cases("stories", "stories")
async def test_stories(case: dict[str, Any], tmp_path: Path) -> None:
    file = tmp_path / "tick.json"
    before = case.get("file_before")
    if before is not None:
        file.write_text(before if isinstance(before, str) else json.dumps(before))
    refusal: str | None = case.get("refuse_file")
    asked = 0

    def check(_: dict[str, Any]) -> None:
        nonlocal asked
        asked += 1
        if refusal is not None:
            raise ValueError(refusal)

    client = ConfigClient(
        "tick",
        case.get("defaults"),
        validate=check,
        env_allowlist=case.get("allow"),
        environ=case.get("env", {}),
        cache_dir=tmp_path,
        instance_id=case.get("instance_id"),
    )
    await client._read_file()
    assert_in_force(client, case["start"])
    applying = asyncio.ensure_future(client._apply())
    if "file_appears" in case:
        file.write_text(json.dumps(case["file_appears"]))
    try:
        for step in case["steps"]:
            refusal, asked, position_before, source_before = step.get("refuse"), 0, client.position, client.source
            see(client, step["see"])
            while client._offered is not None or client._offer_is_due.is_set() or client._judging.locked():
                await asyncio.sleep(0.001)
            assert_in_force(client, step["in_force"])
            assert (client.error is not None) == step["error"]
            assert ("config_error" in client.report()) == step["error"]
            outcome = step["outcome"]
            assert (client.position != position_before) == (outcome == "taken")
            may_be_asked = outcome == "taken" or (outcome == "refused" and refusal is not None)
            assert asked == (1 if may_be_asked else 0)
            if outcome not in ("taken", "confirmed"):
                assert client.source == source_before
    finally:
        applying.cancel()
    if case["file"] is None:
        assert not file.exists()
    else:
        value = json.loads(file.read_text())
        assert same({name: value[name] for name in case["file"]}, case["file"])


def see(client: ConfigClient, what: dict[str, Any]) -> None:
    if "value" in what:
        value = what["value"]
        text = value if isinstance(value, str) else json.dumps(value)
        client._note_update(Update("tick", text.encode()))
    elif "marker" in what:
        client._note_update(Update("tick", None))
    elif what["missing"] in ("key", "bucket"):
        client._note_missing(Missing(what["missing"]))
    # That the hub knows no config changes nothing but the waiting of `init_async`.


def assert_in_force(client: ConfigClient, expected: dict[str, Any]) -> None:
    position = client.position
    found = {
        "source": client.source,
        "epoch": position.epoch if position else None,
        "revision": position.revision if position else None,
        "version": client.version,
        "config": client.config,
    }
    assert same(found, expected), found
