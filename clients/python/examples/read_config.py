"""A process reads its configuration; what the hub lacks comes from the defaults, and without a hub all of it does."""

import asyncio

from central_hub.config import ConfigClient


async def main() -> None:
    client = ConfigClient(
        service_name="tick-aggregator",
        safe_defaults={"operational": {"interval_seconds": 60, "timeframes": ["5m", "1h"]}},
    )
    await client.init_async()

    config = await client.get_config()
    operational = config["operational"]
    print(f"every {operational['interval_seconds']} s, {operational['timeframes']} (says the {client.source})")

    await client.close()


if __name__ == "__main__":
    asyncio.run(main())
