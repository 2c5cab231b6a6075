"""A large resource over many traces costs its bytes once: in memory, on the disk, in Redis, and on the way out."""

import asyncio
import gzip
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from random import Random
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from bench.redis_memory import used
from tests.hostile.test_doors import PROTOBUF, shown
from tests.hostile.watch import MIB, running, watched
from tests.store.redis.servers import server

TRACES = 1000
RESOURCE = 160 << 10


def request(anchors: bool, traces: int = TRACES, resource: int = RESOURCE) -> bytes:
    """Some 30 KiB when it is compressed; each root may be one under which guests hang, of which more is remembered."""
    chance = Random(1)
    made = ExportTraceServiceRequest()
    run = made.resource_spans.add()
    run.resource.attributes.add(key="k").value.string_value = "x" * resource
    spans = run.scope_spans.add().spans
    for _ in range(traces):
        name = "gen_ai.realtime.session" if anchors else "call"
        spans.add(trace_id=chance.randbytes(16), span_id=chance.randbytes(8), name=name)
    return made.SerializeToString()


@asynccontextmanager
async def peer(status: int) -> AsyncIterator[tuple[str, list[int]]]:
    """A backend that answers all the same, and the sizes of what it got."""
    sizes: list[int] = []

    async def post(one: web.Request) -> web.Response:
        sizes.append(len(await one.read()))
        return web.Response(status=status, content_type="application/x-protobuf")

    app = web.Application(client_max_size=64 * MIB)
    app.router.add_post("/v1/traces", post)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        yield f"http://127.0.0.1:{runner.addresses[0][1]}", sizes
    finally:
        await runner.cleanup()


def on_disk(home: Path) -> int:
    return sum(file.stat().st_size for file in (home / "store").rglob("*"))


@pytest.mark.parametrize("anchors", [False, pytest.param(True, marks=pytest.mark.slow)], ids=["plain", "anchors"])
@pytest.mark.parametrize("place", ["embedded", "redis"])
async def test_a_resource_over_a_thousand_traces(tmp_path: Path, place: str, anchors: bool) -> None:
    """Held, remembered and sent it is there once, and it counts in what is held."""
    body = request(anchors)
    packed = gzip.compress(body)
    with server("--appendonly", "no") as redis:
        settings: dict[str, Any] = {"wait": {"after_root": "1s", "for_guest": "1s"}}
        if place == "redis":
            settings["store"] = {"redis": {"url": redis.url}}
        async with peer(200) as (url, sizes), aiohttp.ClientSession() as session:
            settings["exporters"] = {"otlp_http": {"endpoint": url, "compression": "none"}}
            async with running(tmp_path, **settings) as (grafter, pid):
                # The first of all makes a segment.
                async with session.post(
                    f"{grafter.otlp_http}/v1/traces", data=gzip.compress(request(False, 1, 10)), headers=PROTOBUF
                ) as answer:
                    assert answer.status == 200
                before = used(redis) if place == "redis" else on_disk(tmp_path)
                sizes.clear()

                def stored() -> int:
                    return (used(redis) if place == "redis" else on_disk(tmp_path)) - before

                with watched(pid, grafter.health) as cost:
                    async with session.post(f"{grafter.otlp_http}/v1/traces", data=packed, headers=PROTOBUF) as answer:
                        cost.answers = [answer.status]
                    counted = (await grafter.counters(session))["grafter_held_bytes"]
                    held = stored()
                    async with asyncio.timeout(30):
                        while (await grafter.counters(session))["grafter_held_spans"]:  # noqa: ASYNC110  # from outside
                            await asyncio.sleep(0.1)
                    remembered = stored()
    kept = f"held {held >> 10} KiB, remembered {remembered >> 10} KiB, sent {sum(sizes) >> 10} KiB"
    shown(f"a resource of 160 KiB over 1,000 traces ({len(packed) >> 10} KiB gzip), {place}, {kept}", cost)
    assert cost.answers == [200]
    assert RESOURCE < counted < 4 * len(body)
    # What is kept of a trace beside its spans is some 1,200 bytes in Redis.
    assert held < 4 * len(body) + TRACES * 1500
    assert remembered < 4 * len(body) + TRACES * 1500
    assert sum(sizes) < 4 * len(body)
    assert cost.memory < 4 * len(body) + 32 * MIB
