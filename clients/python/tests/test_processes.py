"""Whole processes: how they end, and how they share the folder of last-good files."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import stat
from pathlib import Path
from typing import Any

import pytest
from conftest import Private
from servers import eventually, free_port, run_script

from central_hub import CentralHubClient, ConfigAPI, ConfigClient
from central_hub.cache import LastGood
from central_hub.entries import Entry, Position

SERVICE_PROCESS = """
import asyncio, signal, sys
from central_hub import CentralHubClient

async def main(url, service):
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, asyncio.current_task().cancel)
    async with CentralHubClient(url) as hub:
        print("starts", flush=True)
        await hub.register_service(service, instance_id="i", heartbeat_interval_seconds=0.2)
        hub.start_heartbeats()
        print("runs", flush=True)
        await stop.wait()

try:
    asyncio.run(main(*sys.argv[1:]))
except asyncio.CancelledError:
    print("stopped")
"""


async def said(process: asyncio.subprocess.Process, word: str) -> None:
    assert process.stdout is not None
    assert (await asyncio.wait_for(process.stdout.readline(), 20)).decode().strip() == word


async def ended(process: asyncio.subprocess.Process) -> tuple[str, str]:
    out, err = await asyncio.wait_for(process.communicate(), 20)
    return out.decode(), err.decode()


async def test_sigterm_says_goodbye(url: str, hub: CentralHubClient, service: str) -> None:
    process = await run_script(SERVICE_PROCESS, url, service)
    await said(process, "starts")
    await said(process, "runs")
    assert await hub.get_service(service)
    process.terminate()
    assert await ended(process) == ("stopped\n", "")
    assert await hub.get_service(service) is None


async def test_sigterm_during_a_registration_that_nobody_hears(service: str) -> None:
    process = await run_script(SERVICE_PROCESS, f"nats://127.0.0.1:{free_port()}", service)
    await said(process, "starts")
    process.terminate()
    out, err = await ended(process)
    assert (out, process.returncode) == ("stopped\n", 0)
    assert "Traceback" not in err


async def test_sigterm_while_the_hub_works_on_the_registration(private: Private, service: str) -> None:
    """The hub gets to it while the process is already leaving: no ghost stays behind."""
    private.hub.pause()
    process = await run_script(SERVICE_PROCESS, private.url, service)
    await said(process, "starts")
    async with CentralHubClient(private.url) as hub:
        listener = (await hub.connection.session(5)).client
        asked = await listener.subscribe(f"hub.register.{service}")
        await asked.next_msg(timeout=20)
        process.terminate()
        await asyncio.sleep(0.3)
        private.hub.resume()
        assert (await ended(process))[0] == "stopped\n"
        await eventually(lambda: _gone(hub, service))


async def _gone(hub: CentralHubClient, service: str) -> bool:
    return await hub.get_service(service) is None


async def test_a_program_that_closes_nothing_ends_quietly(url: str, service: str) -> None:
    """As the examples do, whose programs just end."""
    script = """
import asyncio, sys
from central_hub import CentralHubClient, ConfigAPI, ConfigClient

async def main(url, service):
    hub = CentralHubClient(url)
    await hub.register_service(service)
    hub.start_heartbeats()
    await hub.watch_services()
    await ConfigAPI(url).update_config(service, {"n": 1})
    config = ConfigClient(service, hub=hub)
    await config.watch_config(lambda config: None)
    print(await config.get_config())

asyncio.run(main(*sys.argv[1:]))
"""
    for _ in range(5):
        process = await run_script(script, url, service)
        out, err = await ended(process)
        assert (out, process.returncode) == ("{'n': 1}\n", 0), err
        # nats-py leaves its socket to the garbage collector, which says so in this mode.
        noise = [line for line in err.splitlines() if "ResourceWarning" not in line and "unclosed" not in line]
        assert not any("Error" in line or "Traceback" in line or "pending" in line for line in noise), err


def entry(revision: int) -> Entry:
    return Entry(Position(7, revision), revision, None, {"revision": revision})


async def test_processes_that_share_a_folder_never_go_back(tmp_path: Path) -> None:
    script = """
import sys
from pathlib import Path
from central_hub.cache import LastGood
from central_hub.entries import Entry, Position

file = LastGood(Path(sys.argv[1]), "tick")
for revision in range(int(sys.argv[2]), 200, 2):
    file.write(Entry(Position(7, revision), revision, None, {"revision": revision}))
"""
    # Even and odd revisions, each process from its own beginning.
    processes = [await run_script(script, str(tmp_path), str(start)) for start in (0, 1, 50, 101)]
    reader = LastGood(tmp_path, "tick")
    seen: list[int] = []
    while any(process.returncode is None for process in processes):
        found = reader.read()
        if found is not None:
            seen.append(found.position.revision)
        await asyncio.sleep(0.001)
    for process in processes:
        assert (await ended(process))[1] == ""
    assert seen == sorted(seen)
    assert len(set(seen)) > 3, "something was seen of it"
    assert reader.read() == entry(199)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["tick.json", "tick.json.lock"], "nothing is left behind"
    assert stat.S_IMODE((tmp_path / "tick.json").stat().st_mode) == 0o600


async def test_two_services_share_a_folder(url: str, service: str, hub: CentralHubClient, tmp_path: Path) -> None:
    api = ConfigAPI(hub=hub)
    await api.update_config(service, {"n": 1})
    await api.update_config(f"{service}-b", {"n": 2})
    async with ConfigClient(service, cache_dir=tmp_path), ConfigClient(f"{service}-b", cache_dir=tmp_path):
        pass
    for name, n in ((service, 1), (f"{service}-b", 2)):
        offline = ConfigClient(name, base_url=f"nats://127.0.0.1:{free_port()}", cache_dir=tmp_path, init_timeout=0.1)
        assert (await offline.get_config(), offline.source) == ({"n": n}, "file")
        await offline.close()


@pytest.mark.parametrize("damage", ["truncated", "garbage", "newer", "folder", "unreadable"])
async def test_a_damaged_file_is_no_obstacle(
    url: str, service: str, hub: CentralHubClient, tmp_path: Path, caplog: pytest.LogCaptureFixture, damage: str
) -> None:
    await ConfigAPI(hub=hub).update_config(service, {"n": 1})
    async with ConfigClient(service, cache_dir=tmp_path):
        pass
    file = tmp_path / f"{service}.json"
    whole = file.read_text()
    if damage == "truncated":
        file.write_text(whole[: len(whole) // 2])
    elif damage == "garbage":
        file.write_bytes(os.urandom(500))
    elif damage == "newer":
        file.write_text(json.dumps(json.loads(whole) | {"format": 2}))
    elif damage == "folder":
        file.unlink()
        file.mkdir()
    elif damage == "unreadable":
        file.unlink()
        file.symlink_to(tmp_path / "a" / "b" / file.name / "c")
        file.with_name("a").write_text("no folder")
    nowhere = f"nats://127.0.0.1:{free_port()}"
    async with ConfigClient(service, {"n": 0}, base_url=nowhere, cache_dir=tmp_path, init_timeout=0.1) as client:
        assert (client.config, client.source) == ({"n": 0}, "defaults")
    assert "is ignored" in caplog.text
    async with ConfigClient(service, {"n": 0}, cache_dir=tmp_path) as client:
        assert (client.config, client.source) == ({"n": 1}, "hub")
    if damage != "folder":
        assert json.loads(file.read_text())["config"] == {"n": 1}, "the next one replaces it"
    else:
        assert "can't be written" in caplog.text


async def test_a_folder_that_cannot_be_written(
    url: str, service: str, hub: CentralHubClient, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").write_text("")
    api = ConfigAPI(hub=hub)
    await api.update_config(service, {"n": 1})
    async with ConfigClient(service, cache_dir=tmp_path / "file" / "cache") as client:
        assert (client.config, client.source) == ({"n": 1}, "hub")
        await api.update_config(service, {"n": 2})
        await eventually(lambda: client.config == {"n": 2})
    assert caplog.text.count("can't be written") == 1, "the same is said once"


async def test_without_a_file(url: str, service: str, hub: CentralHubClient, tmp_path: Path) -> None:
    await ConfigAPI(hub=hub).update_config(service, {"n": 1})
    async with ConfigClient(service, cache_dir=tmp_path, use_cache=False) as client:
        assert client.source == "hub"
    assert list(tmp_path.iterdir()) == []


async def test_a_clock_that_jumps_changes_nothing(
    url: str, service: str, hub: CentralHubClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing here goes by the wall clock; only `written_at` shows it."""
    import datetime as datetimes

    api = ConfigAPI(hub=hub)
    await api.update_config(service, {"n": 1})
    await hub.register_service(service, heartbeat_interval_seconds=0.2)
    hub.start_heartbeats()
    async with ConfigClient(service, hub=hub) as client:
        for jump in (-86_400 * 365 * 20, 86_400 * 365 * 20):

            class Jumped(datetimes.datetime):
                @classmethod
                def now(cls, tz: Any = None, jump: int = jump) -> Any:
                    return datetimes.datetime.now(tz) + datetimes.timedelta(seconds=jump)

            monkeypatch.setattr("central_hub.cache.datetime", Jumped)
            n = client.config["n"] + 1
            await api.update_config(service, {"n": n})
            await eventually(lambda n=n: client.config == {"n": n})

            async def converged() -> bool:
                return bool((await api.status(service))["converged"])

            await eventually(converged)


async def test_sigint_ends_a_process(url: str, service: str) -> None:
    script = """
import asyncio, sys
from central_hub import CentralHubClient

async def main(url, service):
    async with CentralHubClient(url) as hub:
        await hub.register_service(service)
        hub.start_heartbeats()
        print("runs", flush=True)
        await asyncio.sleep(60)

asyncio.run(main(*sys.argv[1:]))
"""
    process = await run_script(script, url, service)
    await said(process, "runs")
    process.send_signal(signal.SIGINT)
    await ended(process)
    async with CentralHubClient(url) as hub:
        assert await hub.get_service(service) is None
