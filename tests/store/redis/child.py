"""A process that is there and shares a Redis: it looks as each one does, only more often, until it is killed.

Run as ``python -m tests.store.redis.child URL PREFIX``.
"""

import asyncio
import sys

from tests.store.contract import Settings
from tests.store.redis.places import store

QUICK = {"lease_ns": 300_000_000, "least_lease_seconds": 0.3, "upkeep_seconds": 0.05}


async def work(url: str, prefix: str) -> None:
    async with store(url, prefix, Settings(), **QUICK):
        await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(work(*sys.argv[1:]))
