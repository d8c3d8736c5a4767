"""All examples, one after another, against the hub at CENTRAL_HUB_NATS_URL: `make dev` prints such an address."""

import asyncio

import discover
import hot_reload
import infrastructure
import publish_config
import read_config
import register

from central_hub.errors import HubUnavailable


async def main() -> None:
    running = [asyncio.create_task(example.main()) for example in (register, hot_reload)]
    await asyncio.sleep(1)
    for example in (publish_config, read_config, discover, infrastructure):
        print(f"--- {example.__name__}: {example.__doc__}")
        try:
            await example.main()
        except HubUnavailable as error:
            print(f"not now: {error}")
    await asyncio.sleep(1)
    for task in running:
        task.cancel()
    await asyncio.gather(*running, return_exceptions=True)


if __name__ == "__main__":
    asyncio.run(main())
