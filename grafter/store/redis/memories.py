"""What is remembered: how a memory is found, and when the oldest go. They are put there by lua/settle.lua."""

from collections.abc import Callable, Sequence
from contextlib import suppress
from struct import Struct

from grafter.core.memory_edits import digest_in, put_together
from grafter.core.model import Key, UnixNano
from grafter.errors import UnavailableError
from grafter.store.model import FORGOTTEN_BY, Memory
from grafter.store.redis.connection import Command
from grafter.store.redis.engine import Engine
from grafter.store.redis.layout import MEMORIES, MEMORY, OLDER_MEMORY, bucket_of, decode_memory, relative
from grafter.store.redis.scripts import Argument, Item

_Asked = tuple[int, Command]
"""A command, with the bucket of its keys."""


class Memories:
    """See the module's docstring."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    async def recall(self, keys: Sequence[Key], now: UnixNano) -> list[Memory | None]:
        """See Store.recall."""
        found = await self._found(keys, now, MEMORY, self.of, self._resource)
        totals = self._engine.totals.buckets
        missed = [i for i, memory in enumerate(found) if memory is None and totals[bucket_of(keys[i])].older]
        if missed:
            older = [keys[i] for i in missed]
            left = await self._found(older, now, OLDER_MEMORY, self._older, self._older_resource)
            for i, memory in zip(missed, left, strict=True):
                found[i] = memory
        return found

    async def _found(
        self,
        keys: Sequence[Key],
        now: UnixNano,
        head: Struct,
        place: Callable[[Key], _Asked],
        resource_place: Callable[[Key, bytes], _Asked],
    ) -> list[Memory | None]:
        engine, remember = self._engine, self._engine.waits.remember
        replies = await engine.commands([place(key) for key in keys])
        found = [decode_memory(key, raw, now, remember, head) for key, raw in zip(keys, replies, strict=True)]
        parted = [(memory, named) for memory in found if memory is not None and (named := digest_in(memory.blob))]
        resources = await engine.commands([resource_place(memory.key, named) for memory, named in parted])
        for (memory, _), resource in zip(parted, resources, strict=True):
            memory.blob = put_together(memory.blob, resource)
        return found

    def of(self, key: Key) -> _Asked:
        """Reads the memory of a key: MEMORY, host, blob."""
        return bucket_of(key), ("HGET", self._engine.layout.tags[bucket_of(key)] + MEMORIES, key)

    def _resource(self, key: Key, digest: bytes) -> _Asked:
        return bucket_of(key), ("HGET", self._engine.layout.tags[bucket_of(key)] + MEMORIES, b"r:" + digest)

    def _older(self, key: Key) -> _Asked:
        """As an older version left it."""
        return bucket_of(key), ("GET", self._engine.layout.name(b"y", key))

    def _older_resource(self, key: Key, digest: bytes) -> _Asked:
        return bucket_of(key), ("HGET", self._engine.layout.name_of(b"w", key, digest), "b")

    async def forget(self, now: UnixNano) -> None:
        """Memories end by time, by number and by bytes, the oldest first; what cannot be ended now is the next time.

        Never fails: what it follows is done, and must not seem to have failed.
        """
        with suppress(UnavailableError):
            while await self._forget_some(now):
                pass

    async def _forget_some(self, now: UnixNano) -> bool:
        """Whether there may be more."""
        engine, totals, waits = self._engine, self._engine.totals, self._engine.waits
        limit, most, remember = waits.remember_limit, waits.remember_bytes, waits.remember
        # A script for each memory would cost more than what it forgets: where there are many it may be a few late.
        late = remember >> 10 if remember >> 10 >= 1_000_000_000 else 0
        excess, heavy = totals.remembered - limit, totals.remembered_bytes - most
        heads = sorted((bucket.head, number) for number, bucket in enumerate(totals.buckets) if bucket.head is not None)
        if not heads:
            return False
        oldest = totals.buckets[heads[0][1]].head_at
        over = oldest is None or oldest + remember + late <= now
        if excess <= limit >> 6 and heavy <= most >> 6 and not over:
            return False
        together = engine.topology.split([(number, ()) for _, number in heads])[0]
        buckets = [heads[i][1] for i in together]
        others = [order for i, (order, _) in enumerate(heads) if i not in together]
        stop: Argument = min(others) if others else b""
        items: list[Item] = [(number, (number,)) for number in buckets]
        runs = await engine.run("forget", items, (relative(now), max(0, excess), max(0, heavy), stop))
        ((_, (went, dead, *found)),) = runs
        for number, reply in zip(buckets, found, strict=True):
            totals.read(number, reply)
        for why, count in zip(FORGOTTEN_BY, went, strict=True):
            totals.forgotten[why] += count
        return any(went) or dead > 0
