"""Redis goes while a backend has the spans already, before the store knows that they left."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import yaml
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from grafter.consumer import Batch, Result, Signal, Verdict
from grafter.core.model import Part, UnixNano
from grafter.core.policy import SECOND, GraftPolicy, Unlinked, Waits
from grafter.errors import UnavailableError
from grafter.otlp.split import Splitter
from grafter.processor.assembling import Assembler
from grafter.processor.lanes import Limits
from grafter.processor.processor import Processor
from grafter.store.redis.opening import opened
from grafter.store.redis.store import RedisStore
from grafter.telemetry import Metrics
from tests.e2e.process import Grafter
from tests.store.contract import HOST, guest_part
from tests.store.redis.servers import Server, server

PATIENCE = 60.0
LEASE = 1.5
POLICY = GraftPolicy(waits=Waits(after_root=SECOND // 10, idle=SECOND // 5))
# A plain trace leaves in a batch; one without its root is claimed alone.
KINDS = ("plain", "claim")


class Backend:
    """Takes everything; what happens while a batch is with it is the test's."""

    def __init__(self, name: str = "backend") -> None:
        self.name = name
        self.meanwhile: Callable[[], Awaitable[None]] | None = None
        self.taken: list[int] = []

    async def export(self, batch: Batch) -> Sequence[Result]:
        self.taken.append(batch.spans)
        meanwhile, self.meanwhile = self.meanwhile, None
        if meanwhile is not None:
            await meanwhile()
        return [Result(Verdict.ACCEPTED)] * len(batch.traces)

    def retry_in(self) -> float:
        return 0.0

    async def forward(self, signal: Signal, request: bytes) -> None:
        raise NotImplementedError


@pytest.fixture
def redis() -> Iterator[Server]:
    with server("--appendonly", "yes", "--appendfsync", "always") as running:
        yield running


@asynccontextmanager
async def a_store(redis: Server) -> AsyncIterator[RedisStore]:
    async with opened(
        redis.url,
        waits=POLICY.waits,
        max_bytes=1 << 30,
        max_trace_bytes=64 << 20,
        lease_ns=int(LEASE * SECOND),
        guests_apart=False,
        timeout=2.0,
    ) as store:
        yield store


async def until(said: Callable[[], bool]) -> None:
    async with asyncio.timeout(PATIENCE):
        while not said():  # noqa: ASYNC110  # a counter wakes nobody
            await asyncio.sleep(0.02)


def parts(kind: str) -> Sequence[Part]:
    request = ExportTraceServiceRequest()
    spans = request.resource_spans.add().scope_spans.add().spans
    spans.add(trace_id=HOST, span_id=b"one     ", parent_span_id=b"root    ", name="step")
    spans.add(trace_id=HOST, span_id=b"root    ", parent_span_id=b"" if kind == "plain" else b"above   ", name="call")
    return Splitter(()).split(request.SerializeToString()).parts


def driven(store: RedisStore, metrics: Metrics, *backends: Backend, policy: GraftPolicy = POLICY) -> Processor:
    limits = Limits(tick_seconds=0.05, lease_seconds=LEASE)
    return Processor(store, backends, policy, Assembler(policy, "test"), metrics, time.time_ns, limits)


def counted(metrics: Metrics, name: str) -> float:
    return sum(s.value for metric in metrics.registry.collect() for s in metric.samples if s.name == name)


@pytest.mark.parametrize("kind", KINDS)
async def test_what_a_backend_has_is_settled_when_redis_is_back(redis: Server, kind: str) -> None:
    """It leaves once; that the lease could not be renewed meanwhile ends nothing."""
    backend, metrics = Backend(), Metrics()
    async with a_store(redis) as store:
        failed = asyncio.Event()

        def noticing(renew: Callable[..., Awaitable[None]]) -> Callable[..., Awaitable[None]]:
            async def noticed(*args: object) -> None:
                try:
                    await renew(*args)
                except UnavailableError:
                    failed.set()
                    raise

            return noticed

        setattr(store, "renew", noticing(store.renew))  # noqa: B010  # it is a method for the type checker

        async def go_and_come() -> None:
            redis.kill()
            await asyncio.wait_for(failed.wait(), PATIENCE)
            restarting.append(asyncio.ensure_future(asyncio.to_thread(redis.start)))

        restarting: list[asyncio.Future[None]] = []
        backend.meanwhile = go_and_come
        async with driven(store, metrics, backend).running():
            await store.append(parts(kind), UnixNano(time.time_ns()))
            await until(lambda: bool(restarting))
            await restarting[0]
            await until(lambda: counted(metrics, "grafter_released_traces_total") == 1)
            assert await store.claim(UnixNano(time.time_ns() + 3600 * SECOND), 10) == []
        assert backend.taken == [2]
        assert counted(metrics, "grafter_recovered_spans_total") == 0


@pytest.mark.parametrize("kind", KINDS)
async def test_an_answer_that_was_lost_is_no_failure(redis: Server, kind: str) -> None:
    """Redis has settled it, only nobody was told: the memory that this left says so when it is asked again."""
    backend, metrics = Backend(), Metrics()
    async with a_store(redis) as store:
        settle = store._settling._settle
        asked: list[object] = []

        async def losing(*args: object) -> object:
            answer = await settle(*args)
            asked.append(answer)
            if len(asked) == 1:
                raise UnavailableError("the connection was lost", reason="store_down")
            return answer

        store._settling._settle = losing
        async with driven(store, metrics, backend).running():
            await store.append(parts(kind), UnixNano(time.time_ns()))
            await until(lambda: counted(metrics, "grafter_released_traces_total") == 1)
        assert len(asked) == 2
        assert backend.taken == [2]
        assert counted(metrics, "grafter_recovered_spans_total") == 0


@pytest.mark.parametrize("kind", KINDS)
async def test_what_another_took_over_counts_as_held_again(redis: Server, kind: str) -> None:
    """Its owner was thought dead while the backend had the spans: they go out again by another, as the books say."""
    backend, metrics = Backend(), Metrics()
    async with a_store(redis) as store, a_store(redis) as other:

        async def taken_over() -> None:
            late = UnixNano(time.time_ns() + int(2 * LEASE * SECOND))
            claims = await other.claim(late, 10)
            assert [claim.key for claim in claims] == [HOST]

        backend.meanwhile = taken_over
        async with driven(store, metrics, backend).running():
            await store.append(parts(kind), UnixNano(time.time_ns()))
            await until(lambda: counted(metrics, "grafter_recovered_spans_total") == 2)
        assert backend.taken == [2]
        assert counted(metrics, "grafter_released_traces_total") == 0


async def test_what_one_of_two_backends_said_is_known_when_redis_is_back(redis: Server) -> None:
    """The other one is still at it then: neither is cut off, and neither gets anything twice."""
    quick, slow, metrics = Backend("quick"), Backend("slow"), Metrics()
    async with a_store(redis) as store:
        failed = asyncio.Event()
        record = store.record

        async def noticing(*args: Any) -> Sequence[bool]:
            try:
                return await record(*args)
            except UnavailableError:
                failed.set()
                raise

        store.record = noticing  # type: ignore[method-assign]

        async def go() -> None:
            await until(lambda: bool(slow.taken))
            redis.kill()

        async def come() -> None:
            await asyncio.wait_for(failed.wait(), PATIENCE)
            await asyncio.to_thread(redis.start)

        quick.meanwhile, slow.meanwhile = go, come
        async with driven(store, metrics, quick, slow).running():
            await store.append(parts("claim"), UnixNano(time.time_ns()))
            await until(lambda: counted(metrics, "grafter_released_traces_total") == 1)
            assert await store.claim(UnixNano(time.time_ns() + 3600 * SECOND), 10) == []
        assert (quick.taken, slow.taken) == ([2], [2])


async def test_a_stop_while_redis_is_away_ends(redis: Server) -> None:
    """Also when what is to be settled leaves nothing for a backend, so that no batch is on its way."""
    backend, metrics = Backend(), Metrics()
    policy = replace(POLICY, waits=replace(POLICY.waits, for_guest=SECOND // 5), unlinked=Unlinked.DROP)
    async with a_store(redis) as store:
        settle, asked = store.settle, asyncio.Event()

        async def away(*args: Any) -> Sequence[bool]:
            if not asked.is_set():
                redis.kill()
                asked.set()
            return await settle(*args)

        store.settle = away  # type: ignore[method-assign]
        async with asyncio.timeout(PATIENCE), driven(store, metrics, backend, policy=policy).running(grace_seconds=0.5):
            await store.append([guest_part()], UnixNano(time.time_ns()))
            await asked.wait()
        assert backend.taken == []


async def test_a_stop_ends_in_time_while_redis_is_frozen(redis: Server, tmp_path: Path) -> None:
    """Whatever the store and the interpreter do; what was acknowledged is there for the next start."""
    exporters = {"otlp_http": {"endpoint": "http://127.0.0.1:9"}}
    grafter = Grafter(tmp_path, exporters, {"idle": "10m"}, store={"redis": {"url": redis.url, "timeout": "2s"}})
    config = yaml.safe_load(grafter.config.read_text())
    config["service"]["shutdown_timeout"] = "3s"
    grafter.config.write_text(yaml.safe_dump(config))
    request = ExportTraceServiceRequest()
    request.resource_spans.add().scope_spans.add().spans.add(
        trace_id=HOST, span_id=b"one     ", parent_span_id=b"root    ", name="step"
    )
    async with AsyncExitStack() as stack:
        http = await stack.enter_async_context(aiohttp.ClientSession())
        stack.push_async_callback(grafter.close)
        await grafter.start("tests.faults.slow_to_end")
        headers = {"Content-Type": "application/x-protobuf"}
        body = request.SerializeToString()
        async with http.post(f"{grafter.otlp_http}/v1/traces", data=body, headers=headers) as answer:
            assert answer.status == 200
        redis.pause()
        try:
            # It fails when the process is still there after DEADLINE.
            assert await grafter.terminate() in (0, 1)
        finally:
            redis.resume()
        await grafter.start()
        await grafter.until(lambda session: holds(grafter, session), "holding the span")


async def holds(grafter: Grafter, session: aiohttp.ClientSession) -> bool:
    return (await grafter.counters(session))["grafter_held_spans"] == 1
