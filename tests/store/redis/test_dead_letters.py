"""One box for many replicas: each sees what the others put there, and any of them sends it again."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from itertools import count

import pytest

from grafter.core.model import UnixNano
from grafter.core.policy import SECOND, Waits
from grafter.exporter.answer import Accepted
from grafter.exporter.dead_letters import DeadLetters
from grafter.otlp.build import request
from grafter.store.model import DeadLetter, DeadLetterCounts, DeadLettersAdded
from grafter.store.redis.opening import opened
from grafter.store.redis.store import RedisStore
from grafter.telemetry import Metrics
from tests.exporter.doubles import Script, trace
from tests.exporter.test_sending import sending
from tests.store.contract import LEASE, START
from tests.store.redis.servers import Server, server

_NUMBERS = count()
_PATIENCE = 20.0


@pytest.fixture(scope="module")
def redis() -> Iterator[Server]:
    with server() as running:
        yield running


@pytest.fixture
def prefix() -> str:
    return f"letters-{next(_NUMBERS)}"


@asynccontextmanager
async def replica(
    redis: Server, prefix: str, letter_bytes: int = 1 << 20, *, drop_oldest: bool = False
) -> AsyncIterator[RedisStore]:
    async with opened(
        redis.url,
        waits=Waits(),
        max_bytes=1 << 30,
        max_trace_bytes=1 << 20,
        lease_ns=LEASE,
        guests_apart=False,
        prefix=prefix,
        letter_bytes=letter_bytes,
        drop_oldest_letters=drop_oldest,
        upkeep_seconds=0.05,
    ) as store:
        yield store


def letter(number: int) -> DeadLetter:
    one = trace(number)
    return DeadLetter(one.key, "out", "HTTP 400", UnixNano(START + number), one.spans, request([one]))


async def test_what_one_replica_buried_another_sends_again(redis: Server, prefix: str) -> None:
    """All of it, once; both say in the end that nothing lies there."""
    letters = [letter(n) for n in range(1, 251)]
    async with replica(redis, prefix) as one, replica(redis, prefix) as other:
        await one.add_dead_letters(letters)
        script, metrics = Script(lambda _: Accepted()), Metrics()
        dead_letters = DeadLetters(
            other, {"out": sending(script, metrics=metrics)}, metrics, lambda: START + 9 * SECOND
        )
        answer, taken = await dead_letters.answer("retry", {}), 0
        while answer["next"] is not None:
            assert isinstance(answer["taken"], int)
            taken += answer["taken"]
            answer = await dead_letters.answer("retry", {"skip": answer["next"], "until": answer["until"]})
        assert taken == 250
        assert await one.dead_letters(1) == []
        async with asyncio.timeout(_PATIENCE):
            while one.stats().dead_letters or other.stats().dead_letters:  # noqa: ASYNC110  # the upkeep tells nobody
                await asyncio.sleep(0.02)


async def test_a_replica_that_starts_knows_what_lies_there(redis: Server, prefix: str) -> None:
    """Its gauges are right from the first scrape on."""
    async with replica(redis, prefix) as one:
        await one.add_dead_letters([letter(1), letter(2)])
    async with replica(redis, prefix) as other:
        of = other.stats().dead_letters["out"]
        assert (of.letters, of.spans) == (2, 4)


async def test_the_box_has_a_limit_for_all_replicas(redis: Server, prefix: str) -> None:
    """Past it nothing is taken, all of it or none where it has to stay together; or the oldest go, and are told."""
    size = len(letter(1).payload) + 60
    async with replica(redis, prefix, 3 * size) as one, replica(redis, prefix, 3 * size) as other:
        assert await one.add_dead_letters([letter(1), letter(2)]) == DeadLettersAdded(2)
        assert await other.add_dead_letters([letter(3), letter(4)], together=True) == DeadLettersAdded(0)
        assert await other.add_dead_letters([letter(3), letter(4)]) == DeadLettersAdded(1)
    async with replica(redis, prefix, 3 * size, drop_oldest=True) as one:
        assert await one.add_dead_letters([letter(5), letter(6)]) == DeadLettersAdded(2, 4)
        assert list(await one.dead_letters(9, oldest=True)) == [letter(3), letter(5), letter(6)]
        of = one.stats().dead_letters["out"]
        assert of == DeadLetterCounts(3, 6, of.bytes)
        assert of.bytes <= 3 * size
