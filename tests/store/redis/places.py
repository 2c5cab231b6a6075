"""Redis as a place of the contract suite."""

from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from itertools import count

from grafter.store.redis.opening import opened
from grafter.store.redis.store import RedisStore
from tests.store.contract import LEASE, Settings
from tests.store.redis.servers import Server, copied

_NUMBERS = count()


class Place:
    """A prefix of its own on servers that many tests share."""

    def __init__(self, servers: Sequence[Server], url: str, **more: object) -> None:
        self.prefix = f"test-{next(_NUMBERS)}"
        self.url = url
        self._servers = servers
        self._more = more
        self._stores: list[RedisStore] = []
        self._abandoned: dict[int, set[bytes]] = {}

    def open(self, settings: Settings) -> AbstractAsyncContextManager[RedisStore]:
        return self._open(settings)

    @asynccontextmanager
    async def _open(self, settings: Settings) -> AsyncIterator[RedisStore]:
        async with store(self.url, self.prefix, settings, **self._more) as opened_store:
            self._stores.append(opened_store)
            # The leases of a dead process end by time, and the suite's clock stands still: they are ended by hand.
            if self._abandoned:
                mine, opened_store.engine.leases = opened_store.engine.leases, self._abandoned
                await opened_store.abandon()
                opened_store.engine.leases, self._abandoned = mine, {}
            yield opened_store

    def crashed(self) -> "Place":
        left = Place(self._servers, self.url, **self._more)
        copied(self._servers, self.prefix, left.prefix)
        for one in self._stores:
            for token, keys in one.engine.leases.items():
                left._abandoned.setdefault(token, set()).update(keys)
        return left


def store(url: str, prefix: str, settings: Settings, **more: object) -> AbstractAsyncContextManager[RedisStore]:
    return opened(
        url,
        waits=settings.waits,
        max_bytes=settings.max_bytes,
        max_trace_bytes=settings.max_trace_bytes,
        guests_apart=settings.guests_apart,
        prefix=prefix,
        **{"pool_size": 3, "lease_ns": LEASE, **more},  # type: ignore[arg-type]
    )
