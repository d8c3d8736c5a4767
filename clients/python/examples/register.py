"""A process says that it runs, and keeps saying so until Ctrl-C."""

import asyncio
import os

from central_hub.client import CentralHubClient


async def main() -> None:
    async with CentralHubClient(base_url=os.environ["CENTRAL_HUB_NATS_URL"]) as hub:
        registered = await hub.register_service(
            service_name="tick-aggregator",
            version="2.1.0",
            host="10.0.0.5",
            port=8002,
            dependencies=["central-hub", "nats"],
            metadata={"team": "market-data"},
        )
        print(f"registered as {registered['instance_id']}")

        while True:
            await hub.heartbeat("tick-aggregator", status="healthy", metrics={"lag_ms": 12})
            await asyncio.sleep(registered["heartbeat_interval_seconds"])


if __name__ == "__main__":
    try:
        asyncio.run(main())
    except KeyboardInterrupt:
        print("said goodbye")
