"""Task groups for rooms that run beside a body."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager


@asynccontextmanager
async def task_group() -> AsyncIterator[asyncio.TaskGroup]:
    """A TaskGroup that hands on an exception of its body as it is, after its tasks have ended.

    asyncio's own would wrap it into a group, and an address that is in use would no longer be an OSError to whoever
    opened the room. The body has to end its tasks on its way out. A task's own failure still ends everything.
    """
    failure: Exception | None = None
    async with asyncio.TaskGroup() as tasks:
        try:
            yield tasks
        except Exception as error:  # noqa: BLE001  # raised below
            failure = error
    if failure is not None:
        raise failure
