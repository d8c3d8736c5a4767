"""How are the databases and brokers behind the fleet?"""

import asyncio

from central_hub.monitoring import InfrastructureMonitor


async def main() -> None:
    monitor = InfrastructureMonitor()

    for component, found in (await monitor.check_all()).items():
        if found["status"] == "healthy":
            print(f"{component}: well, {found['response_time_ms']:.1f} ms")
        else:
            print(f"{component}: {found['status']}, {found['error_message']}")

    await monitor.close()


if __name__ == "__main__":
    asyncio.run(main())
