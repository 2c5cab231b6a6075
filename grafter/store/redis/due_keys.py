"""Which keys are due, before anybody takes them.

A page of each bucket is read, so that the earliest of all are found whatever bucket they are in. Those that this
version cannot read are left to the one that wrote them.
"""

import asyncio
import logging
from collections.abc import Sequence

from grafter.core.model import Key
from grafter.store.redis.connection import Command
from grafter.store.redis.engine import Engine
from grafter.store.redis.layout import BUCKETS, relative

_LOG = logging.getLogger(__name__)

PLAIN, OTHERS = b"d", b"o"
"""The queues of a bucket: of traces about which nothing is left to decide when they are due, and of all others."""
# A page of a bucket is about twice its share of what is asked for, so that one page of each is mostly enough.
_SHARE, _LEAST, _PAGE = BUCKETS // 2, 4, 32
# Nanoseconds for which keys that were seen to be due are taken without asking again.
_AHEAD = 500_000_000
_UNREADABLE_SECONDS = 60.0


class DueAhead:
    """Plain keys that were seen to be due when Redis was asked last, the earliest first: enough for some batches."""

    def __init__(self) -> None:
        self._keys: list[Key] = []
        self._seen = 0

    def has(self, now: int) -> bool:
        """There are some, and what was due a moment ago still is."""
        if not 0 <= now - self._seen <= _AHEAD:
            self._keys = []
        return bool(self._keys)

    def put(self, now: int, keys: list[Key]) -> None:
        self._keys, self._seen = keys, now

    def take(self, count: int) -> list[Key]:
        taken, self._keys = self._keys[:count], self._keys[count:]
        return taken

    def give_back(self, keys: Sequence[Key]) -> None:
        """Those that came too late for a batch: they are first in the next one."""
        self._keys[:0] = keys

    def clear(self) -> None:
        self._keys = []


class DueKeys:
    """Over an engine."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._unreadable: set[Key] = set()
        """Due keys that this version cannot read, met since they were forgotten last."""
        self._unreadable_before = 0
        self._forget_at = 0.0

    @property
    def unreadable(self) -> int:
        """Due keys that this version cannot read: they wait for the one that wrote them."""
        return max(len(self._unreadable), self._unreadable_before)

    def set_aside(self, key: Key, why: str) -> None:
        """It is left to the version that wrote it."""
        if not self.unreadable:
            _LOG.warning("held trace %s is left to a newer version of grafter: %s", key.hex(), why)
        self._unreadable.add(key)

    def forget_unreadable(self) -> None:
        """Now and then they are tried again: another replica may have dealt with them."""
        now = asyncio.get_running_loop().time()
        if now >= self._forget_at:
            self._forget_at = now + _UNREADABLE_SECONDS
            self._unreadable_before = len(self._unreadable)
            self._unreadable.clear()
        elif now >= self._forget_at - _UNREADABLE_SECONDS / 2:
            self._unreadable_before = 0

    def is_readable(self, key: Key) -> bool:
        """As far as is known."""
        return key not in self._unreadable

    async def find(self, now: int, limit: int, queues: Sequence[bytes], seen: set[Key]) -> list[Key]:
        """The keys that are due, earliest first, those of one moment in their own order; fewer than the limit only when
        there are no more."""
        tags = self._engine.layout.tags
        upper = f"{relative(now):d}"
        places = [(bucket, tags[bucket] + queue) for queue in queues for bucket in range(BUCKETS)]
        found: list[tuple[float, Key]] = []
        offset, page = 0, min(limit, max(_LEAST, limit // _SHARE))
        horizon: float | None = None
        while places:
            commands: list[tuple[int, Command]] = [
                (bucket, ("ZRANGEBYSCORE", name, "-inf", upper, "WITHSCORES", "LIMIT", offset, page))
                for bucket, name in places
            ]
            more = []
            for place, flat in zip(places, await self._engine.commands(commands), strict=True):
                for i in range(0, len(flat), 2):
                    key = Key(flat[i])
                    if key not in seen and key not in self._unreadable:
                        found.append((float(flat[i + 1]), key))
                if len(flat) == 2 * page:
                    more.append((float(flat[-1]), place))
            # What a full page may hide comes after its last entry: what is before that is certain.
            horizon = min((last for last, _ in more), default=None)
            certain = len(found) if horizon is None else sum([at <= horizon for at, _ in found])
            if certain >= limit:
                break
            places = [place for last, place in more]
            offset += page
            page = max(page, _PAGE)
        found.sort()
        return [key for _, key in found[:limit]]
