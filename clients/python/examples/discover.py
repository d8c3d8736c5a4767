"""Who is there, and where is a certain service?"""

import asyncio
import os

from central_hub.client import CentralHubClient


async def main() -> None:
    hub = CentralHubClient(base_url=os.environ["CENTRAL_HUB_NATS_URL"])

    for instance in await hub.get_services(status="healthy"):
        print(f"{instance['service_name']} at {instance['host']}:{instance['port']}")

    found = await hub.get_service("tick-aggregator")
    if found:
        print(f"ticks come from {found['host']}:{found['port']}")
    else:
        print("nobody aggregates ticks")

    await hub.close()


if __name__ == "__main__":
    asyncio.run(main())
