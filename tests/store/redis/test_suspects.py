"""Keys on which a replica died are known to the others, and handed out apart; those of one that lives are not."""

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager

import pytest

from grafter.core.model import Facts, Key, UnixNano
from grafter.store.model import Claim, Outcome, PlainBatch, PlainLimits, Settlement
from grafter.store.redis.store import RedisStore
from tests.store.contract import LATER, LEASE, Settings, host_part
from tests.store.redis.places import store
from tests.store.redis.servers import Server, server

KEYS = [Key(bytes([i]) * 16) for i in range(100)]
LIMITS = PlainLimits(1000, 10_000, 1 << 20)


@pytest.fixture(scope="module")
def redis() -> Iterator[Server]:
    with server("--appendonly", "no") as running:
        yield running


@asynccontextmanager
async def two(redis: Server, prefix: str) -> AsyncIterator[tuple[RedisStore, RedisStore]]:
    """Replicas over one store; what each holds of the other is for the test to say."""
    async with store(redis.url, prefix, Settings()) as one, store(redis.url, prefix, Settings()) as other:
        for each in (one, other):
            each.engine.living = one.engine.owner + other.engine.owner
        yield one, other


def died(dead: RedisStore, living: RedisStore) -> None:
    """It is not heard of any more."""
    living.engine.living = living.engine.owner
    dead.engine.leases.clear()


async def taken(store: RedisStore, now: int) -> list[Claim]:
    claims = await store.claim(UnixNano(now), 1000, LIMITS)
    assert not any(isinstance(one, PlainBatch) for one in claims)
    return [one for one in claims if isinstance(one, Claim)]


async def until_taken(store: RedisStore, now: int) -> list[Claim]:
    """That a key is one on which somebody died shows when it is asked for; then it is handed out."""
    return await taken(store, now) or await taken(store, now)


async def test_a_lease_that_ended_by_a_death_counts_once(redis: Server) -> None:
    """A batch's keys come apart in groups, with the intent that stood for them; once given back they are as others."""
    async with two(redis, "batch") as (one, other):
        await one.append([host_part("root", key, Facts.ROOT) for key in KEYS], UnixNano(LATER - LEASE * 10))
        (batch,) = await one.claim(LATER, 1000, LIMITS)
        assert isinstance(batch, PlainBatch)
        assert await one.record(batch, "peer", Outcome.INTENDED) == [True]
        died(one, other)
        now = LATER + LEASE + 1
        found: list[Claim] = []
        while len(found) < len(KEYS):
            claims = await taken(other, now)
            if claims:
                assert len(claims) <= 64
                assert {claim.deaths for claim in claims} == {1}
                assert {tuple(claim.outcomes.items()) for claim in claims} == {(("peer", Outcome.INTENDED),)}
                assert await taken(other, now) == [], "nothing else while they are out"
                assert all(await other.settle([Settlement(claim) for claim in claims], UnixNano(now)))
                found += claims
        assert sorted(claim.key for claim in found) == KEYS


async def test_after_two_deaths_each_is_alone_and_the_one_that_does_it_is_found(redis: Server) -> None:
    """Those that were only beside it are handed out before it, one at a time, and clear themselves."""
    async with two(redis, "alone") as (one, other):
        await one.append([host_part("a", key) for key in KEYS[:3]], LATER)
        now = LATER + LEASE * 1000
        assert len(await one.claim(UnixNano(now), 10)) == 3
        died(one, other)
        now += LEASE + 1
        assert [claim.deaths for claim in await until_taken(other, now)] == [1, 1, 1]
        died(other, one)
        now += LEASE + 1
        (deadly,) = await until_taken(one, now)
        assert deadly.deaths == 2
        died(one, other)
        now += LEASE + 1
        for _ in range(2):
            (beside,) = await until_taken(other, now)
            assert (beside.deaths, beside.key != deadly.key) == (2, True)
            assert await other.settle([Settlement(beside)], UnixNano(now)) == [True]
        (again,) = await until_taken(other, now)
        assert (again.deaths, again.key) == (3, deadly.key)


async def test_who_lives_and_was_late_makes_no_suspects(redis: Server) -> None:
    """Frozen, or cut off; nor does the process that asks again, or one of which nothing is known yet."""
    async with two(redis, "late") as (one, other):
        await one.append([host_part("a")], LATER)
        now = LATER + LEASE * 1000
        for asks in (one, other, one, one):
            now += LEASE + 1
            (claim,) = await taken(asks, now)
            assert claim.deaths == 0
        other.engine.living = b"?"
        (claim,) = await taken(other, now + LEASE + 1)
        assert claim.deaths == 0


async def test_what_was_given_back_untouched_is_suspected_still(redis: Server) -> None:
    async with two(redis, "untouched") as (one, other):
        await one.append([host_part("a")], LATER)
        now = LATER + LEASE * 1000
        await taken(one, now)
        died(one, other)
        now += LEASE + 1
        (claim,) = await until_taken(other, now)
        await other.postpone([(claim, UnixNano(now + 1))], untouched=True)
        assert await until_taken(other, now) == []
        (claim,) = await until_taken(other, now + 1)
        assert claim.deaths == 1
        await other.postpone([(claim, UnixNano(now))])
        (claim,) = await taken(other, now)
        assert claim.deaths == 0
