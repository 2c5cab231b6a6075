"""Marks over Redis: a sorted set a bucket, by the moment at which each ends."""

from collections.abc import Sequence
from hashlib import sha256

from grafter.core.model import DedupeKey, UnixNano
from grafter.store.model import DEDUPE_KEYS_LIMIT
from grafter.store.redis.connection import Command
from grafter.store.redis.engine import Engine
from grafter.store.redis.layout import BUCKETS, bucket_of, relative
from grafter.store.redis.scripts import RUBBISH_MS

# A set into which nobody puts keys any more goes with its last one, and some time for clocks that differ.
_SPARE_MS = 3_600_000


class DedupeKeys:
    """Over an engine."""

    def __init__(self, engine: Engine, limit: int = DEDUPE_KEYS_LIMIT) -> None:
        self.forgotten = 0
        """Marks that the limit ended before their time, by this process."""
        self._engine = engine
        self._most = -(-limit // BUCKETS)

    async def seen(self, ids: Sequence[str], now: UnixNano) -> Sequence[bool]:
        """See Store.seen."""
        hashes = [_hashed(one) for one in ids]
        commands: list[tuple[int, Command]] = [
            (bucket_of(one), ("ZSCORE", self._set(bucket_of(one)), one)) for one in hashes
        ]
        ends = await self._engine.commands(commands)
        return [end is not None and float(end) > relative(now) for end in ends]

    async def add(self, keys: Sequence[DedupeKey], now: UnixNano) -> None:
        """Add keys, and make room: for what is over first, then for what is too much."""
        commands: list[tuple[int, Command]] = []
        for key in keys:
            one = _hashed(key.id)
            bucket = bucket_of(one)
            name = self._set(bucket)
            # A repeat only prolongs it.
            commands += [
                (bucket, ("ZADD", name, "GT", relative(now) + key.ttl, one)),
                (bucket, ("ZREMRANGEBYSCORE", name, "-inf", relative(now))),
                (bucket, ("ZREMRANGEBYRANK", name, 0, -self._most - 1)),
                (bucket, ("PEXPIRE", name, max(RUBBISH_MS, key.ttl // 1_000_000 + _SPARE_MS))),
            ]
        replies = await self._engine.commands(commands)
        self.forgotten += sum(int(reply) for reply in replies[2::4])

    def _set(self, bucket: int) -> bytes:
        return self._engine.layout.tags[bucket] + b"marks"


def _hashed(identity: str) -> bytes:
    # A lone surrogate is legal in a Python str; it must not cost the delivery its key.
    return sha256(identity.encode("utf-8", "surrogatepass")).digest()[:16]
