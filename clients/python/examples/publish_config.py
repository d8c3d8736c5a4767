"""An operator publishes a configuration; every instance has it within milliseconds."""

import asyncio

from central_hub.api import ConfigAPI


async def main() -> None:
    api = ConfigAPI()

    version = await api.update_config(
        service_name="tick-aggregator",
        config_data={"operational": {"interval_seconds": 5}},
        created_by="me",
        comment="faster for the opening",
    )
    print(f"version {version} is in force")

    await api.close()


if __name__ == "__main__":
    asyncio.run(main())
