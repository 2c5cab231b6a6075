"""What is remembered, as it lies in Redis: how much it takes, that nothing piles up, and what an older version left."""

import os
import re
from collections.abc import Iterator
from dataclasses import replace
from itertools import count, islice
from struct import Struct

import pytest

from grafter.core.lifecycle import ReleaseReason
from grafter.core.memory_edits import PlainMemories, taken_apart
from grafter.core.model import Facts, Key, UnixNano, guest_key
from grafter.store.model import Memory, PlainBatch, PlainLimits, PlainSettlement
from grafter.store.redis.layout import Layout, relative
from grafter.store.redis.store import RedisStore
from tests.store.contract import HOST, LATER, START, Settings, guest_part, host_part
from tests.store.memories_contract import CARRIER, one_bucket, remember, traced
from tests.store.redis.places import store
from tests.store.redis.servers import Server, server

_NUMBERS = count()
SETTINGS = Settings()
MANY = 20_000
RESOURCE = b"r" * 600
OLDER = Struct("<BBd")


@pytest.fixture(scope="module")
def redis() -> Iterator[Server]:
    with server() as running:
        yield running


@pytest.fixture
def prefix() -> str:
    return f"memories-{next(_NUMBERS)}"


async def release_plain(running: RedisStore, traces: int) -> None:
    """So many traces of one span come and leave."""
    await running.append([host_part("x", Key(os.urandom(16)), Facts.ROOT) for _ in range(traces)], START)
    while traces:
        (batch,) = await running.claim(LATER, traces, PlainLimits(traces, traces, 1 << 30))
        assert isinstance(batch, PlainBatch)
        memories = PlainMemories(ReleaseReason.COMPLETE, LATER)
        for _ in batch.keys:
            memories.add(b"12345678", 1, b"", RESOURCE, b"12345678")
        settlement = PlainSettlement(batch, memories.blobs, memories.digests, memories.resources)
        assert await running.settle(settlement, LATER) == [True]
        traces -= len(batch.keys)


def taken(redis: Server) -> tuple[int, int]:
    """What Redis says of all keys, and of all its memory."""
    names, info = redis.ask([("KEYS", "*"), ("INFO", "memory")])
    assert isinstance(names, list)
    assert isinstance(info, bytes)
    sizes = redis.ask([("MEMORY", "USAGE", name, "SAMPLES", 0) for name in names])
    facts = dict(line.split(":", 1) for line in info.decode().splitlines() if ":" in line)
    return sum(int(str(size)) for size in sizes), int(facts["used_memory"]) - int(facts["mem_clients_normal"])


@pytest.mark.parametrize(
    "options",
    [
        (),
        ("--hash-max-ziplist-value", "200", "--hash-max-ziplist-entries", "512"),
        ("--hash-max-ziplist-entries", "0", "--list-max-ziplist-size", "-1"),
    ],
    ids=["as it comes", "large small hashes", "no small hashes"],
)
async def test_a_plain_trace_takes_a_quarter_of_a_kilobyte(options: tuple[str, ...]) -> None:
    """In a Redis of its own, whatever it says of itself; and the metric has most of that, the rest being Redis' own."""
    with server(*options) as redis:
        async with store(
            redis.url, "grafter", replace(SETTINGS, waits=replace(SETTINGS.waits, remember_limit=1 << 20))
        ) as s:
            keys, memory = taken(redis)
            for _ in range(MANY // 1000):
                await release_plain(s, 1000)
            stats = s.stats()
            keys_after, memory_after = taken(redis)
        assert stats.remembered == MANY
        assert 90 * MANY < stats.remembered_bytes < 110 * MANY
        assert stats.remembered_bytes < keys_after - keys <= 256 * MANY
        assert memory_after - memory <= 256 * MANY


async def test_entries_of_replaced_memories_do_not_pile_up(redis: Server, prefix: str) -> None:
    """Of keys that are remembered again and again, in any order, there are a few more entries than memories; and the
    oldest is known at any time. Whatever list they are in ends when all grafters leave."""
    again, *others = islice(one_bucket(), 40)
    tag = Layout(prefix).tags[7]
    lists = set()
    async with store(redis.url, prefix, SETTINGS) as running:
        await remember(running, *(Memory(key, b"b") for key in others))
        for at in range(1, 700):
            key = others[at * at % 10] if at % 3 == 0 else again
            stats = await remember(running, Memory(key, b"b%d" % at), at=LATER + at)
            lengths = redis.ask([("LLEN", tag + b"t"), ("LLEN", tag + b"u")])
            assert sum(int(str(length)) for length in lengths) <= 2 * 40 + 64 + 40
            lists.add(tuple(length != 0 for length in lengths))
            # -1 would be: never. -2: there is no such key.
            assert -1 not in redis.ask([("PTTL", tag + name) for name in (b"y", b"t", b"u")])
        assert lists == {(True, False), (True, True)}
        assert stats.remembered == 40
        assert running.engine.totals.buckets[7].head_at == LATER
        over = LATER + 1 + SETTINGS.waits.remember
        stats = await remember(running, Memory(HOST, b"b"), at=over)
        # What was remembered since is there: six squares are among the ten, and the one of each time.
        assert {memory and memory.blob for memory in await running.recall([again], UnixNano(over))} == {b"b698"}
        assert stats.remembered == len({at * at % 10 for at in range(3, 700, 3)}) + 1 + 1


async def test_what_is_over_leaves_nothing(redis: Server, prefix: str) -> None:
    """No key of what was remembered is there when the last memory has gone."""
    some = list(islice(one_bucket(), 5))
    async with store(redis.url, prefix, SETTINGS) as running:
        await remember(running, *(traced(key, RESOURCE) for key in some))
        names = ("y", "t")
        tag = Layout(prefix).tags[7]
        assert redis.ask([("EXISTS", tag + name.encode()) for name in names]) == [1, 1]
        assert all(int(str(ttl)) > 0 for ttl in redis.ask([("PTTL", tag + name.encode()) for name in names]))
        # In another bucket.
        await remember(running, Memory(Key(b"\1" * 16), b"b"), at=LATER + SETTINGS.waits.remember)
        assert redis.ask([("EXISTS", tag + name.encode()) for name in (*names, "u")]) == [0, 0, 0]
        assert running.stats().remembered == 1


def lpops(redis: Server) -> int:
    """How many entries were taken from lists since the server began."""
    (info,) = redis.ask([("INFO", "commandstats")])
    assert isinstance(info, bytes)
    found = re.search(rb"cmdstat_lpop:calls=(\d+)", info)
    return int(found[1]) if found else 0


async def test_no_script_drops_more_than_some_entries_of_replaced_memories(redis: Server, prefix: str) -> None:
    """However many there are in a row: nobody else is served while one runs. Those that are left are no memories."""
    first, *others = islice(one_bucket(), 2000)
    many = replace(SETTINGS, waits=replace(SETTINGS.waits, remember_limit=2000))
    tag = Layout(prefix).tags[7]
    async with store(redis.url, prefix, many) as running:
        await remember(running, Memory(first, b"old"), *(Memory(key, b"old") for key in others))
        for at in range(0, len(others), 400):
            await remember(running, *(Memory(key, b"new") for key in others[at : at + 400]), at=LATER + 1)
        before = lpops(redis)
        # The one behind which all the others were replaced.
        stats = await remember(running, Memory(first, b"new"), at=LATER + 2)
        assert 0 < lpops(redis) - before <= 300
        assert redis.ask([("LLEN", tag + b"t")])[0] > 3000
        # Past the limit the oldest go, and only those.
        more = islice(one_bucket(), 2000, 2100)
        stats = await remember(running, *(Memory(key, b"more") for key in more), at=LATER + 3)
        assert (stats.remembered, running.forgotten) == (2000, {"time": 0, "number": 100, "bytes": 0})
        assert redis.ask([("LLEN", tag + b"t")]) == [2000]
        found = await running.recall([first, *others], LATER)
        assert [memory and memory.blob for memory in found] == [b"new", *[None] * 100, *[b"new"] * 1899]
        # Then all others by their time.
        stats = await remember(running, Memory(CARRIER, b"b"), at=LATER + 3 + SETTINGS.waits.remember)
        assert (stats.remembered, running.forgotten) == (1, {"time": 2000, "number": 100, "bytes": 0})


async def test_what_redis_let_expire_was_not_forgotten(redis: Server, prefix: str) -> None:
    """A list may outlive its hash: an entry without its memory counts as none, and goes."""
    some = list(islice(one_bucket(), 6))
    tag = Layout(prefix).tags[7]
    async with store(redis.url, prefix, SETTINGS) as running:
        await remember(running, *(Memory(key, b"b") for key in some[:5]))
        redis.ask([("DEL", tag + b"y")])
        stats = await remember(running, Memory(some[5], b"b"), at=LATER + 1)
        assert stats.remembered == 1
        await remember(running, Memory(CARRIER, b"b"), at=LATER + SETTINGS.waits.remember)
        assert redis.ask([("LLEN", tag + b"t")]) == [1]
        assert (running.stats().remembered, running.forgotten) == (2, {"time": 0, "number": 0, "bytes": 0})


def leave_older(redis: Server, layout: Layout, at: int, *memories: Memory) -> None:
    """Remember as versions did that had a key for each memory and a sorted set for their order."""
    for number, memory in enumerate(memories):
        blob, digest, resource = taken_apart(memory.blob)
        head = OLDER.pack(1, memory.host is not None, relative(at))
        commands: list[tuple[bytes | str | int, ...]] = [
            ("SET", layout.name(b"y", memory.key), head + (memory.host or b"") + blob, "PX", 10**9),
            (
                "ZADD",
                layout.name(b"", memory.key).rpartition(b":" + memory.key)[0] + b"z",
                relative(at) // 1000 + number,
                memory.key,
            ),
        ]
        if digest:
            name = layout.name_of(b"w", memory.key, digest)
            commands += [("HSETNX", name, "b", resource), ("HINCRBY", name, "n", 1)]
        assert not any(isinstance(reply, Exception) for reply in redis.ask(commands))


def left_over(redis: Server, prefix: str) -> set[bytes]:
    """Keys of the older kind."""
    (names,) = redis.ask([("KEYS", f"{prefix}:*")])
    assert isinstance(names, list)
    ends = [name.split(b"}:", 1)[-1] for name in names]
    return {end for end in ends if end == b"z" or end.startswith((b"y:", b"w:"))}


async def test_what_an_older_version_remembers_is_remembered(redis: Server, prefix: str) -> None:
    """By their traces, late parts and links of guests as much; also what it adds while this one runs beside it."""
    first, second, third = islice(one_bucket(), 3)
    guest = Memory(guest_key("g"), b"guest", HOST)
    layout = Layout(prefix)
    leave_older(redis, layout, LATER, traced(first, RESOURCE), guest)
    async with store(redis.url, prefix, SETTINGS) as running:
        assert running.stats().remembered == 2
        leave_older(redis, layout, LATER + 5_000_000, traced(second, RESOURCE))
        await running.engine.refresh_totals()
        assert running.stats().remembered == 3
        found = await running.recall([first, third, guest.key, second], LATER)
        assert found == [traced(first, RESOURCE), None, guest, traced(second, RESOURCE)]
        await running.append([host_part("late", first), guest_part("more", "g")], LATER)
        claims = {claim.key: claim for claim in await running.claim(UnixNano(LATER + 900 * 10**9), 10)}
        assert claims[first].state.remembered
        assert set(claims) == {first, HOST}
        assert claims[HOST].state.guests["g"].host == HOST


async def test_older_memories_are_replaced_and_forgotten_with_the_others(redis: Server, prefix: str) -> None:
    """The oldest first, whoever stored it; what they had in common goes with the last of them, and nothing is left."""
    keys = list(islice(one_bucket(), 6))
    layout = Layout(prefix)
    leave_older(redis, layout, LATER, *(traced(key, RESOURCE) for key in keys[:3]))
    few = replace(SETTINGS, waits=replace(SETTINGS.waits, remember_limit=4))
    async with store(redis.url, prefix, few) as running:
        # The first of them is remembered anew, and is the newest.
        stats = await remember(running, traced(keys[0], RESOURCE), at=LATER + 1_000_000)
        assert stats.remembered == 3
        leave_older(redis, layout, LATER + 2_000_000, traced(keys[3], RESOURCE))
        stats = await remember(running, Memory(keys[4], b"b"), at=LATER + 3_000_000)
        assert (stats.remembered, dict(running.forgotten)) == (4, {"time": 0, "number": 1, "bytes": 0})
        found = [memory and memory.key for memory in await running.recall(keys, LATER)]
        assert found == [keys[0], None, keys[2], keys[3], keys[4], None]
        stats = await remember(running, Memory(keys[5], b"b"), at=LATER + 2_000_000 + few.waits.remember)
        assert (stats.remembered, dict(running.forgotten)) == (2, {"time": 3, "number": 1, "bytes": 0})
        assert left_over(redis, prefix) == set()
        assert await running.recall(keys[:4], LATER) == [None] * 4
