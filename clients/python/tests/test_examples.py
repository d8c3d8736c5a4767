"""The examples run, and the README shows what they do."""

from __future__ import annotations

import asyncio
import re
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
from servers import clean_environment, eventually
from test_api import serves

from central_hub import CentralHubClient, ConfigAPI

ROOT = Path(__file__).resolve().parents[1]
SERVICE = "tick-aggregator"


async def example(name: str, url: str) -> asyncio.subprocess.Process:
    env = clean_environment() | {"CENTRAL_HUB_NATS_URL": url, "PYTHONPATH": ":".join(sys.path), "PYTHONUNBUFFERED": "1"}
    program = str(ROOT / "examples" / f"{name}.py")
    return await asyncio.create_subprocess_exec(
        sys.executable, program, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )


async def output(process: asyncio.subprocess.Process) -> str:
    out, err = await asyncio.wait_for(process.communicate(), 30)
    assert process.returncode == 0, err.decode()
    return out.decode()


async def line(process: asyncio.subprocess.Process) -> str:
    assert process.stdout is not None
    return (await asyncio.wait_for(process.stdout.readline(), 20)).decode().strip()


async def test_the_examples(url: str, hub: CentralHubClient) -> None:
    assert await output(await example("read_config", url)) == "every 60 s, ['5m', '1h'] (says the defaults)\n"
    assert "nobody aggregates ticks\n" in await output(await example("discover", url))

    service = await example("register", url)
    reload = await example("hot_reload", url)
    assert await line(service) == "registered as 10_0_0_5-8002"
    assert await output(await example("publish_config", url)) == "version 1 is in force\n"
    assert await line(reload) == "the interval is now 5 s"
    await ConfigAPI(hub=hub).update_config(SERVICE, {"operational": {"interval_seconds": -1}})
    await ConfigAPI(hub=hub).update_config(SERVICE, {"operational": {"interval_seconds": 7}})
    assert await line(reload) == "the interval is now 7 s", "the one between was refused"
    assert await output(await example("read_config", url)) == "every 7 s, ['5m', '1h'] (says the hub)\n"
    await ConfigAPI(hub=hub).delete(SERVICE)
    assert await line(reload) == "the interval is now 60 s", "the defaults are left"
    assert "tick-aggregator at 10.0.0.5:8002\nticks come from 10.0.0.5:8002" in await output(
        await example("discover", url)
    )

    for process in (service, reload):
        process.send_signal(signal.SIGINT)
    assert await output(service) == "said goodbye\n"
    await output(reload)

    async def gone() -> bool:
        return await hub.get_service(SERVICE) is None

    await eventually(gone)
    tour = await output(await example("tour", url))
    assert "registered as" in tour
    assert "is in force" in tour
    await ConfigAPI(hub=hub).delete(SERVICE)


async def test_the_infrastructure_example(url: str, hub: CentralHubClient) -> None:
    if not await serves(hub, "hub.infra.check"):
        pytest.skip("this hub doesn't look at the infrastructure yet")
    assert "nats: well, " in await output(await example("infrastructure", url))


def test_the_readme_shows_the_examples() -> None:
    """Every example stands in the README, line by line; its other snippets are single calls."""
    text = (ROOT / "README.md").read_text()
    shown = [textwrap.dedent(block) for block in re.findall(r"```python\n(.*?)```", text, flags=re.S)]
    lines = {re.sub(r"^ +", "", line) for block in shown for line in block.splitlines()}
    for name in ("register", "read_config", "hot_reload", "discover", "publish_config", "infrastructure"):
        body = (ROOT / "examples" / f"{name}.py").read_text()
        body = body[body.index("async def ") : body.index("if __name__")]
        for line in body.splitlines():
            stripped = re.sub(r"^ +", "", line)
            ends = (".close()", "await asyncio.Event().wait()", "async def main() -> None:")
            assert not stripped or stripped in lines or stripped.endswith(ends), f"the README lacks: {stripped}"
