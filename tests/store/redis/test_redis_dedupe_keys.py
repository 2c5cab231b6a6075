"""Dedupe keys in Redis: limited in number, and gone by themselves."""

from collections.abc import Iterator

import pytest

from grafter.core.model import DedupeKey, UnixNano
from grafter.core.policy import SECOND
from grafter.store.redis.dedupe_keys import DedupeKeys
from grafter.store.redis.layout import BUCKETS
from tests.store.contract import START, Settings
from tests.store.redis.places import Place
from tests.store.redis.servers import Server, server


@pytest.fixture(scope="module")
def redis() -> Iterator[Server]:
    with server() as running:
        yield running


async def test_past_their_number_those_that_end_first_go_first(redis: Server) -> None:
    """They are counted; what is over makes room without being counted; every set of them has an end."""
    async with Place([redis], redis.url).open(Settings()) as store:
        keys = DedupeKeys(store.engine, limit=2 * BUCKETS)
        many = [DedupeKey(f"id {n}", 100 * SECOND + n) for n in range(20 * BUCKETS)]
        await keys.add(many, START)
        seen = await keys.seen([key.id for key in many], START)
        assert sum(seen) + keys.forgotten == len(many)
        assert sum(seen) <= 2 * BUCKETS
        assert seen[-1]
        assert not any(seen[:BUCKETS])

        later = UnixNano(START + 200 * SECOND)
        forgotten = keys.forgotten
        await keys.add([DedupeKey(f"new {n}", SECOND) for n in range(BUCKETS)], later)
        assert not any(await keys.seen([key.id for key in many], later))
        assert keys.forgotten - forgotten < BUCKETS // 2

        tags = store.engine.layout.tags
        ends = await store.engine.commands([(n, ("PTTL", tags[n] + b"marks")) for n in range(BUCKETS)])
        assert all(end == -2 or end > 0 for end in ends)
        assert any(end > 0 for end in ends)
