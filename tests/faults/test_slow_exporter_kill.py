"""A process that is killed while one of its two backends is in trouble: both have everything in the end, and whatever
comes a second time to either says so."""

import asyncio
import itertools
import random
from collections import Counter
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import grpc.aio
import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from tests.e2e.process import Grafter
from tests.e2e.sink import Sink, listening
from tests.e2e.test_restart import EXPORT, small_trace
from tests.store.redis.servers import server

SENDERS = 4
TROUBLES = ("slow", "hanging", "refusing")


class Troubled:
    """A backend that answers late, not at all, or with UNAVAILABLE."""

    def __init__(self, sink: Sink, seconds: float) -> None:
        self.sink = sink
        self.seconds = seconds
        self._answers = asyncio.Event()
        self._keep = sink.keep
        sink.keep = self._late  # type: ignore[method-assign]
        self.become("well")

    def become(self, how: str) -> None:
        """``well``, or one of the troubles."""
        self._how = how
        self.sink.refuse = how == "refusing"
        if how == "hanging":
            self._answers.clear()
        else:
            self._answers.set()

    async def _late(self, request: ExportTraceServiceRequest) -> None:
        # It takes it in, and then does not say so.
        await self._keep(request)
        if self._how == "slow":
            await asyncio.sleep(self.seconds)
        await self._answers.wait()


@asynccontextmanager
async def two_backends(home: Path, store: Mapping[str, Any] | None, seconds: float) -> AsyncIterator[Any]:
    async with listening() as well, listening() as other:
        troubled = Troubled(other, seconds)
        exporters = {
            f"otlp_grpc/{name}": {"endpoint": sink.grpc_endpoint, "tls": {"insecure": True}, "timeout": "5s"}
            for name, sink in (("well", well), ("other", other))
        }
        grafter = Grafter(home, exporters, store=store)
        try:
            await grafter.start()
            yield grafter, well, troubled
        finally:
            troubled.become("well")
            await grafter.close()


async def labelled(grafter: Grafter) -> dict[tuple[str, str], float]:
    """Each metric by name and exporter; those of all exporters under an empty name."""
    async with aiohttp.ClientSession() as session, session.get(grafter.metrics) as answer:
        page = await answer.text()
    sums: Counter[tuple[str, str]] = Counter()
    for line in page.splitlines():
        if not line.startswith("#"):
            name, value = line.rsplit(" ", 1)
            _, _, rest = name.partition('exporter="')
            sums[name.partition("{")[0], rest.partition('"')[0]] += float(value)
    return dict(sums)


def sides(page: Mapping[tuple[str, str], float], exporter: str) -> tuple[float, float]:
    """Both sides of one exporter's books."""

    def of(term: str, exporter: str = "") -> float:
        return page.get((f"grafter_{term}_spans_total", exporter), 0)

    came = of("receiver_accepted") + of("recovered") + of("taken_over") + of("exporter_resumed", exporter)
    went = of("handed_over") + of("merged") + of("exporter_sent", exporter) + of("exporter_deferred", exporter)
    went += of("exporter_earlier", exporter)
    return came, went + page["grafter_held_spans", ""]


async def kills(home: Path, store: Mapping[str, Any] | None, troubles: list[str], more: int, seconds: float) -> None:
    acknowledged: set[str] = set()
    numbers = itertools.count(1)
    news, up, done = asyncio.Condition(), asyncio.Event(), asyncio.Event()
    up.set()
    async with two_backends(home, store, seconds) as (grafter, well, troubled):

        async def send() -> None:
            options = [("grpc.use_local_subchannel_pool", 1)]
            async with grpc.aio.insecure_channel(grafter.otlp_grpc, options=options) as channel:
                export = channel.unary_unary(EXPORT)
                while not done.is_set():
                    await up.wait()
                    number = next(numbers)
                    try:
                        await export(small_trace(number), wait_for_ready=True, timeout=60)
                    except grpc.aio.AioRpcError:
                        continue
                    async with news:
                        acknowledged.add(f"{number:032x}")
                        news.notify_all()

        async def acknowledge() -> None:
            enough = len(acknowledged) + more
            async with news:
                await news.wait_for(lambda: len(acknowledged) >= enough)

        async with asyncio.timeout(60 + 60 * len(troubles)), asyncio.TaskGroup() as group:
            for _ in range(SENDERS):
                group.create_task(send())
            for how in troubles:
                troubled.become(how)
                await acknowledge()
                # The well one has all of it meanwhile, whatever the other does.
                before = set(acknowledged)
                await well.until(lambda it, before=before: before <= it.trace_ids(), f"while the other is {how}")
                await acknowledge()
                up.clear()
                await grafter.kill()
                await grafter.start()
                up.set()
            await acknowledge()
            done.set()
        troubled.become("well")
        for sink in (well, troubled.sink):
            await sink.until(lambda it: acknowledged <= it.trace_ids(), "all that was acknowledged", 120)
        async with asyncio.timeout(60):
            while True:
                page = await labelled(grafter)
                waits = sum(value for (name, _), value in page.items() if name == "grafter_exporter_backlog_spans")
                if not waits and not page["grafter_held_spans", ""]:
                    break
                await asyncio.sleep(0.1)
        for name, sink in (("otlp_grpc/well", well), ("otlp_grpc/other", troubled.sink)):
            came, went = sides(page, name)
            assert came == went, (name, page)
            unmarked = Counter(
                (each.span.trace_id, each.span.span_id)
                for each in sink.spans()
                if each.attributes.get("grafter.resend") is not True
            )
            assert max(unmarked.values()) == 1, f"{name}: {unmarked.most_common(3)} came unmarked"


async def test_a_kill_while_one_backend_is_in_trouble(tmp_path: Path) -> None:
    await kills(tmp_path, None, ["hanging"], 60, 1.5)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("where", ["disk", "redis"])
async def test_kills_while_one_backend_is_in_all_kinds_of_trouble(tmp_path: Path, where: str, seed: int) -> None:
    """Drawn by the seed; thousands of traces each."""
    troubles = random.Random(seed).choices((*TROUBLES, "well"), k=6)
    if where == "disk":
        await kills(tmp_path, None, troubles, 800, 4)
        return
    with server() as running:
        await kills(tmp_path, {"redis": {"url": running.url}}, troubles, 400, 4)
