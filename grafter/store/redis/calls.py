"""Notes of calls, over Redis: a hash a call, and in each bucket a sorted set of them by when each is forgotten.

A field is set where it is missing and never changed, so that of two replicas each thing is one's.
"""

from collections.abc import Sequence

from grafter.core.calls import CallNote, Phone
from grafter.core.model import UnixNano
from grafter.store.redis.connection import Command
from grafter.store.redis.engine import Engine
from grafter.store.redis.layout import BUCKETS, absolute, bucket_of, relative
from grafter.store.redis.scripts import RUBBISH_MS, Item

_VERSION = 1
# For clocks that differ: whether a note is over, the times in it say.
_SPARE_MS = 3_600_000
_FIELDS = ("v", "at", "until", "caller", "callee", "traceparent", "link")


class Calls:
    """Over an engine; see CallStore."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._remember = engine.waits.remember
        self._most = max(1, -(-engine.waits.remember_limit // BUCKETS))
        self._ttl = self._remember // 1_000_000 + _SPARE_MS

    async def put(self, calls: Sequence[CallNote], now: UnixNano) -> None:
        """Forget what is over, note, and make room."""
        identities = {call.call_id: call.call_id.encode() for call in calls}
        buckets = list(dict.fromkeys(map(bucket_of, identities.values())))
        over = await self._engine.commands(
            [(bucket, ("ZRANGEBYSCORE", self._index(bucket), "-inf", relative(now))) for bucket in buckets]
        )
        # First, or the note of a call that is forgotten would stand for the next one.
        commands = self._forgetting(buckets, over)
        until, ttl = relative(now) + self._remember, self._ttl
        # A pipeline may break off: what is there is to have an end.
        rows: dict[int, list[int | bytes]] = {bucket: [] for bucket in buckets}
        for identity in identities.values():
            rows[bucket_of(identity)] += (until, identity)
        commands += [(bucket, ("ZADD", self._index(bucket), "GT", *row)) for bucket, row in rows.items()]
        for call in calls:
            identity = identities[call.call_id]
            bucket = bucket_of(identity)
            name = self._name(identity)
            commands += [(bucket, ("HSET", name, "until", until, "v", _VERSION)), (bucket, ("PEXPIRE", name, ttl))]
            fields = (
                ("at", relative(call.at)),
                ("caller", None if call.caller is None else call.caller.encode()),
                ("callee", None if call.callee is None else call.callee.encode()),
                ("traceparent", call.traceparent),
                ("link", call.link),
            )
            commands += [(bucket, ("HSETNX", name, key, value)) for key, value in fields if value is not None]
        sent = len(commands)
        commands += [(bucket, ("ZRANGE", self._index(bucket), 0, -self._most - 1)) for bucket in buckets]
        commands += [(bucket, ("PEXPIRE", self._index(bucket), max(RUBBISH_MS, ttl))) for bucket in buckets]
        replies = await self._engine.commands(commands)
        await self._engine.commands(self._forgetting(buckets, replies[sent : sent + len(buckets)]))

    async def first_link(self, call_id: str, link: str, now: UnixNano) -> str:
        """See CallStore: in one script, which Redis takes also while it is full."""
        identity = call_id.encode()
        bucket, at = bucket_of(identity), relative(now)
        kept = (self._ttl, max(RUBBISH_MS, self._ttl), self._most)
        item: Item = (bucket, (bucket, identity, link.encode(), _VERSION, at, at + self._remember, *kept))
        ((_, stands),) = await self._engine.run("first_link", [item])
        return link if stands is None else str(stands.decode())

    def _forgetting(self, buckets: Sequence[int], some: Sequence[Sequence[bytes]]) -> list[tuple[int, Command]]:
        """The commands that forget some calls of each bucket."""
        return [
            (bucket, command)
            for bucket, identities in zip(buckets, some, strict=True)
            for identity in identities
            for command in (("ZREM", self._index(bucket), identity), ("UNLINK", self._name(identity)))
        ]

    async def find(self, call_ids: Sequence[str], now: UnixNano) -> Sequence[CallNote | None]:
        """See CallStore."""
        commands: list[tuple[int, Command]] = []
        for call_id in call_ids:
            identity = call_id.encode()
            commands.append((bucket_of(identity), ("HMGET", self._name(identity), *_FIELDS)))
        notes: list[CallNote | None] = []
        for call_id, reply in zip(call_ids, await self._engine.commands(commands), strict=True):
            version, at, until, *rest = reply
            # A newer version's is left alone; one that Redis took only in part says nothing yet.
            if None in (version, at, until) or int(version) != _VERSION or int(until) <= relative(now):
                notes.append(None)
                continue
            caller, callee, traceparent, link = (None if each is None else each.decode() for each in rest)
            notes.append(
                CallNote(
                    call_id,
                    absolute(int(at)),
                    None if caller is None else Phone.decode(caller),
                    None if callee is None else Phone.decode(callee),
                    traceparent,
                    link,
                )
            )
        return notes

    def _name(self, identity: bytes) -> bytes:
        return self._engine.layout.name(b"c", identity)

    def _index(self, bucket: int) -> bytes:
        return self._engine.layout.tags[bucket] + b"calls"
