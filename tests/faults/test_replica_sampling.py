"""Two grafters over one Redis decide alike about a trace, whoever gets which part of it."""

import random
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

from grafter.core.policy import SECOND, GraftPolicy
from grafter.core.sampling.error import Error
from grafter.core.sampling.first_token import FirstToken
from grafter.core.sampling.policies import SamplingPolicy
from grafter.core.sampling.probabilistic import Probabilistic
from grafter.core.sampling.weights import randomness, threshold
from grafter.otlp.split import Splitter
from grafter.processor.assembling import Assembler
from grafter.processor.lanes import Limits
from grafter.processor.processor import Processor
from grafter.telemetry import Metrics
from tests.processor.test_tail_sampling import request, said, span
from tests.rig import START, Peer
from tests.store.contract import Settings
from tests.store.redis.places import store
from tests.store.redis.servers import server

SAMPLING = SamplingPolicy((Error("error"), FirstToken("first_token"), Probabilistic("probabilistic", 10)))
SPLITTER = Splitter(GraftPolicy().anchors)


@asynccontextmanager
async def replicas(now: list[int]) -> AsyncIterator[list[tuple[Processor, Peer]]]:
    policy = GraftPolicy()
    with server() as redis:
        async with AsyncExitStack() as stack:
            found = []
            for _ in range(2):
                opened = await stack.enter_async_context(store(redis.url, "sampling", Settings(waits=policy.waits)))
                peer = Peer()
                assembler = Assembler(policy, "test", SAMPLING)
                one = Processor(opened, [peer], policy, assembler, Metrics(), lambda: now[0], Limits())
                found.append((one, peer))
            yield found


async def test_late_parts_at_another_replica_follow_the_decision() -> None:
    """200 traces in three parts, each at a replica by chance, the last one late and released by the other: a trace
    leaves whole or not at all, those that every sampler of one in ten keeps do, and both write the same weight."""
    rng, now = random.Random(5), [START]
    ids = [rng.randbytes(16) for _ in range(200)]
    async with replicas(now) as two:
        for (decides, _), parts in zip(two, ([(1, 0), (2, 1)], [(3, 1)]), strict=True):
            for number, parent in parts:
                for own in ids:
                    split = SPLITTER.split(request(span(own, number, parent)))
                    await rng.choice(two)[0].consume(split.parts)
            for _ in range(15):
                now[0] += SECOND
                await decides.drain()
        spans = [found for _, peer in two for found, _ in peer.spans]
        kept = {own for own in ids if randomness(own) >= threshold(10)}
        assert kept
        assert sorted((found.trace_id, found.span_id[-1]) for found in spans) == sorted(
            (own, number) for own in kept for number in (1, 2, 3)
        )
        assert {said(found, "SampleRate") for found in spans} == {10}
        assert all(peer.requests for _, peer in two)


async def test_regret_is_kept_by_whoever_takes_the_trace() -> None:
    """A trace without its root is held beyond its waits in the shared store, and an error at the other replica takes
    all of it along."""
    now = [START]
    own = bytes(15) + b"\x01"
    async with replicas(now) as ((first, out), (second, other)):
        await first.consume(SPLITTER.split(request(span(own, 2, 1))).parts)
        for _ in range(60):
            now[0] += 12 * SECOND
            await first.drain()
            await second.drain()
        assert out.requests + other.requests == []
        await second.consume(SPLITTER.split(request(span(own, 1), span(own, 3, 1, error=True))).parts)
        for _ in range(15):
            now[0] += SECOND
            await second.drain()
        assert sorted(found.span_id[-1] for found, _ in other.spans) == [1, 2, 3]
        assert {said(found, "grafter.policy") for found, _ in other.spans} == {"error"}
