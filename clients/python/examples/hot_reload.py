"""A process takes each new configuration as it comes, or refuses it, until Ctrl-C."""

import asyncio
import contextlib
from typing import Any

from central_hub.config import ConfigClient

interval = 60.0


async def on_config(config: dict[str, Any]) -> None:
    global interval
    wanted = config["operational"]["interval_seconds"]
    if wanted <= 0:
        raise ValueError("interval_seconds must be positive")  # the last good config stays in force
    interval = wanted
    print(f"the interval is now {interval} s", flush=True)


async def main() -> None:
    defaults = {"operational": {"interval_seconds": 60}}  # what a config lacks, and what is left after its delete
    async with ConfigClient(service_name="tick-aggregator", safe_defaults=defaults) as client:
        await client.watch_config(callback=on_config)
        await asyncio.Event().wait()


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(main())
