"""What every store must do with what is remembered: count it, and bound it in number, in time and in bytes."""

from collections.abc import Iterator
from dataclasses import replace
from itertools import count, islice

from grafter.core.lifecycle import ReleaseReason
from grafter.core.memory import TraceMemory
from grafter.core.memory_blobs import encode_trace
from grafter.core.model import Envelope, Facts, Key, SpanId, UnixNano
from grafter.store.model import Memory, PlainSettlement, Settlement, Stats
from grafter.store.redis.layout import bucket_of
from tests.store.contract import LATER, START, Opened, Place, Settings, claim_one, claim_plain, guest_part, host_part

MIB = 1 << 20
CARRIER = Key(b"what is settled ")
KEPT = 60
"""Bytes that a store may have beside a memory's own, for each."""


def one_bucket() -> Iterator[Key]:
    """Keys that have everything in common in any store."""
    keys = (Key(number.to_bytes(16, "big")) for number in count())
    return (key for key in keys if bucket_of(key) == 7)


def traced(key: Key, resource: bytes) -> Memory:
    """As the processor makes it of a plain trace."""
    root = Envelope(resource, b"")
    memory = TraceMemory(ReleaseReason.COMPLETE, START, SpanId(b"12345678"), root_envelope=root, span_ids=b"abcdefgh")
    return Memory(key, encode_trace(memory))


async def remember(store: Opened, *memories: Memory, at: int = LATER) -> Stats:
    """Have something settled, and these memories stored with it."""
    await store.append([host_part(key=CARRIER)], START)
    claim = await claim_one(store, at)
    assert await store.settle([Settlement(claim, memories)], UnixNano(at)) == [True]
    return store.stats()


class MemoryContract:
    """Claims about any store. Subclasses give the fixture ``place``."""

    async def test_what_is_remembered_is_counted(self, place: Place, settings: Settings) -> None:
        """Keys and blobs, of claims and of batches; and not what was replaced or forgotten."""
        keys = list(islice(one_bucket(), 5))
        async with place.open(settings) as store:
            assert (store.stats().remembered, store.stats().remembered_bytes) == (0, 0)
            for key in keys[:3]:
                stats = await remember(store, Memory(key, b"b" * 1000))
            assert 3 * 1016 <= stats.remembered_bytes <= 3 * (1016 + KEPT)
            await store.append([host_part(key=key, facts=Facts.ROOT) for key in keys[3:]], START)
            batch = await claim_plain(store)
            assert batch is not None
            assert await store.settle(PlainSettlement(batch, [b"b" * 1000] * 2), LATER) == [True]
            stats = store.stats()
            assert stats.remembered == 5
            assert 5 * 1016 <= stats.remembered_bytes <= 5 * (1016 + KEPT)
            stats = await remember(store, Memory(keys[0], b"s"), at=LATER + 1)
            assert stats.remembered == 5
            assert 4 * 1016 + 17 <= stats.remembered_bytes <= 4 * (1016 + KEPT) + 17 + KEPT
            ends = LATER + settings.waits.remember
            stats = await remember(store, Memory(keys[1], b"last"), at=ends + 1)
            assert (stats.remembered, store.forgotten) == (1, {"time": 4, "number": 0, "bytes": 0})
            assert 0 < stats.remembered_bytes <= 20 + KEPT

    async def test_a_resource_counts_once_and_as_long_as_a_memory_has_it(
        self, place: Place, settings: Settings
    ) -> None:
        """Also where memories of another resource took the place of those, or of the same."""
        old, new = b"o" * 10_000, b"n" * 5_000
        keys = list(islice(one_bucket(), 4))
        async with place.open(settings) as store:
            for key in keys:
                stats = await remember(store, traced(key, old))
            assert 10_000 < stats.remembered_bytes < 11_500
            for at, key in enumerate(keys[:3]):
                stats = await remember(store, traced(key, new), at=LATER + at)
            assert 15_000 < stats.remembered_bytes < 16_500
            assert await store.recall([keys[0], keys[3]], LATER) == [traced(keys[0], new), traced(keys[3], old)]
            stats = await remember(store, traced(keys[3], new), at=LATER + 3)
            assert 5_000 < stats.remembered_bytes < 6_500
            assert await store.recall(keys, LATER) == [traced(key, new) for key in keys]
            ends = LATER + 4 + settings.waits.remember
            stats = await remember(store, Memory(CARRIER, b"b"), at=ends)
            assert stats.remembered == 1
            assert stats.remembered_bytes < 100

    async def test_past_its_bytes_the_oldest_memories_go(self, place: Place, settings: Settings) -> None:
        """However few there are; the newest is there, and what went is counted with the reason."""
        assert settings.waits.remember_bytes == 16 * MIB
        keys = list(islice(one_bucket(), 40))
        async with place.open(settings) as store:
            for at, key in enumerate(keys):
                stats = await remember(store, Memory(key, bytes([at]) * MIB), at=LATER + at)
                assert stats.remembered_bytes <= 16 * MIB + MIB // 4
            found = await store.recall(keys, LATER)
            gone = 40 - stats.remembered
            assert [memory is None for memory in found] == [True] * gone + [False] * (40 - gone)
            assert 24 <= gone <= 26
            assert store.forgotten == {"time": 0, "number": 0, "bytes": gone}

    async def test_resources_of_their_own_count_in_that_too(self, place: Place, settings: Settings) -> None:
        """What each sender has chosen anew is as bounded as the rest, and costs no more memories than it has to."""
        keys = list(islice(one_bucket(), 3000))
        waits = replace(settings.waits, remember_limit=10_000)
        async with place.open(replace(settings, waits=waits)) as store:
            for at in range(0, 3000, 100):
                some = [traced(key, key * 1000) for key in keys[at : at + 100]]
                stats = await remember(store, *some, at=LATER + at)
                assert stats.remembered_bytes <= waits.remember_bytes * 33 // 32
                assert min(800, at + 100) <= stats.remembered <= 1050
            assert await store.recall(keys[-1:], LATER) == [traced(keys[-1], keys[-1] * 1000)]

    async def test_what_is_remembered_again_and_again_takes_its_room_once(
        self, place: Place, settings: Settings
    ) -> None:
        """As in mode stream: of a trace the last one counts, and is as old as that; the others go before it."""
        again, *others = islice(one_bucket(), 12)
        waits = replace(settings.waits, remember_limit=8)
        async with place.open(replace(settings, waits=waits)) as store:
            for at in range(600):
                stats = await remember(store, Memory(again, b"%06d" % at * 1000), at=LATER + at)
                if at % 60 == 59:
                    stats = await remember(store, Memory(others[at // 60], b"b"), at=LATER + at)
                assert stats.remembered_bytes < 2 * (6000 + 16 + KEPT) + 9 * (17 + KEPT)
            found = await store.recall([again, *others], LATER)
            assert [m and m.blob for m in found] == [b"000599" * 1000, *[None] * 3, *[b"b"] * 7, None]
            assert store.forgotten == {"time": 0, "number": 3, "bytes": 0}


class DurableMemoryContract:
    """Claims about a store that outlives the process."""

    async def test_the_counts_outlive_the_process(self, place: Place, settings: Settings) -> None:
        """After a stop and after a kill they are what they were, and what is over goes as it would have gone."""
        keys = list(islice(one_bucket(), 6))
        resource = b"r" * 2000
        async with place.open(settings) as store:
            for key in keys[:3]:
                await remember(store, traced(key, resource))
            stats = await remember(store, Memory(keys[0], b"replaced"), at=LATER + 1)
        async with place.open(settings) as store:
            again = store.stats()
            assert (again.remembered, again.remembered_bytes) == (3, stats.remembered_bytes)
            await remember(store, Memory(keys[3], b"b"), at=LATER + 2)
            stats = store.stats()
            left = place.crashed()
        async with left.open(settings) as store:
            again = store.stats()
            assert (again.remembered, again.remembered_bytes) == (4, stats.remembered_bytes)
            over = LATER + 2 + settings.waits.remember
            last = await remember(store, Memory(keys[4], b"b"), at=over)
            assert last.remembered == 1
            assert last.remembered_bytes <= 17 + KEPT

    async def test_a_late_part_of_what_is_remembered_stays_late(self, place: Place, settings: Settings) -> None:
        """By its trace, over a stop: the decision that was made holds for what comes later."""
        key = next(one_bucket())
        async with place.open(settings) as store:
            await remember(store, traced(key, b"r" * 100))
        async with place.open(settings) as store:
            await store.recovered()
            await store.append([host_part(key=key), guest_part(host=key)], LATER)
            claims = await store.claim(UnixNano(LATER + 900 * 10**9), 10)
            assert {len(claim.key): claim.state.remembered for claim in claims} == {16: True, 17: False}
