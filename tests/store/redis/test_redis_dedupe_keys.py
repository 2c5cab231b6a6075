"""Dedupe keys in Redis: limited in number, and gone by themselves."""

from collections.abc import Iterator

import pytest

from grafter.core.model import Mark, UnixNano
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
        marks = DedupeKeys(store.engine, limit=2 * BUCKETS)
        many = [Mark(f"id {n}", 100 * SECOND + n) for n in range(20 * BUCKETS)]
        await marks.add(many, START)
        seen = await marks.seen([mark.id for mark in many], START)
        assert sum(seen) + marks.forgotten == len(many)
        assert sum(seen) <= 2 * BUCKETS
        assert seen[-1]
        assert not any(seen[:BUCKETS])

        later = UnixNano(START + 200 * SECOND)
        forgotten = marks.forgotten
        await marks.add([Mark(f"new {n}", SECOND) for n in range(BUCKETS)], later)
        assert not any(await marks.seen([mark.id for mark in many], later))
        assert marks.forgotten - forgotten < BUCKETS // 2

        tags = store.engine.layout.tags
        ends = await store.engine.commands([(n, ("PTTL", tags[n] + b"marks")) for n in range(BUCKETS)])
        assert all(end == -2 or end > 0 for end in ends)
        assert any(end > 0 for end in ends)
