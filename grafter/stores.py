"""Opens the store that the config names."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from grafter import __version__
from grafter.config import Config
from grafter.core.policy import GraftPolicy, Mode
from grafter.memory_limit import total_memory
from grafter.store.embedded import store as embedded
from grafter.store.embedded.part_reader import affordable
from grafter.store.embedded.store import EmbeddedStore
from grafter.store.redis import opening
from grafter.store.redis.store import RedisStore

OpenedStore = EmbeddedStore | RedisStore


@asynccontextmanager
async def open_store(config: Config, policy: GraftPolicy, replica: bytes = b"") -> AsyncIterator[OpenedStore]:
    """The store, until left; ``replica`` as a store that is shared knows this process.

    Raises OSError, with a message for people, when it cannot be used.
    """
    settings = config.extensions.store
    apart = policy.mode is Mode.STREAM
    if settings.redis is not None:
        async with opening.opened(
            settings.redis.url,
            waits=policy.waits,
            max_bytes=settings.max_bytes,
            max_trace_bytes=settings.max_trace_bytes,
            lease_ns=int(settings.lease),
            guests_apart=apart,
            prefix=settings.redis.prefix,
            pool_size=settings.redis.pool_size,
            timeout=settings.redis.timeout.seconds,
            wait_replicas=settings.redis.wait_replicas,
            version=__version__,
            replica=replica,
        ) as shared:
            yield shared
        return
    async with embedded.opened(
        None if settings.embedded.memory else Path(settings.embedded.directory),
        waits=policy.waits,
        max_bytes=settings.max_bytes,
        max_trace_bytes=settings.max_trace_bytes,
        lease_ns=int(settings.lease),
        fsync=settings.embedded.fsync,
        fsync_interval=settings.embedded.fsync_interval.seconds,
        guests_apart=apart,
        recent_bytes=affordable(total_memory()),
    ) as own:
        yield own


def trouble(store: OpenedStore) -> str:
    """What is wrong with the store now, for people; empty when nothing is."""
    if isinstance(store, RedisStore) and store.trouble:
        return store.trouble
    if not store.up:
        return "not taking parts"
    if store.full:
        return "full"
    unreadable = store.stats().unreadable
    return f"{unreadable} held traces wait for the newer version of grafter that wrote them" if unreadable else ""
