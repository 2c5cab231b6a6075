"""Ends and restarts of the process, at bad moments."""

import asyncio
import itertools

import grpc.aio
import pytest
from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from tests.e2e.apps import python_app
from tests.e2e.conftest import Start
from tests.e2e.reference_call import HOST_TREE, Services, play, reference_call
from tests.e2e.sink import DEADLINE, Sink, listening
from tests.e2e.test_guest import PYTHON_TREE
from tests.e2e.tree import outline, spans_in

LONG = {"for_guest": "1500ms", "idle": "60s", "local_root": "60s"}
"""Nothing may be released between the end of one process and the start of the next."""

SENDERS = 8
KILLS = 3
MORE = 250
"""Acknowledged traces before each kill and after the last."""
EXPORT = "/opentelemetry.proto.collector.trace.v1.TraceService/Export"


@pytest.mark.parametrize("how", ["SIGTERM", "SIGKILL"])
async def test_a_call_survives_a_restart_in_its_middle(start: Start, sink: Sink, how: str) -> None:
    """Spans acknowledged before the end and spans sent after the start make one tree; nothing leaves in between."""
    grafter = await start(wait=LONG)
    services = Services(lambda: [OTLPSpanExporter(endpoint=grafter.otlp_grpc, insecure=True)])
    with reference_call(services) as call:
        play(call)
        # The root and the session are still open: what has ended by now goes out first.
        await asyncio.to_thread(services.flush)
        if how == "SIGKILL":
            await grafter.kill()
        else:
            assert await grafter.terminate() == 0, grafter.log()
        assert sink.spans() == []
        await grafter.start()
    await asyncio.to_thread(services.flush)
    services.shutdown()
    await sink.until_spans(call.trace_id, spans_in(HOST_TREE))

    assert sink.tree(call.trace_id).text() == outline(HOST_TREE)


async def test_a_guest_survives_a_kill_before_its_host_comes(start: Start, sink: Sink, model: str) -> None:
    """A guest that was acknowledged and killed with the process is joined by the next one: no id twice, none lost."""
    grafter = await start(wait=LONG)
    async with listening() as app:
        trace_id = await python_app(grafter, model, otlp=app.grpc_endpoint)
        await grafter.kill()
        assert sink.spans() == []
        await grafter.start()
        async with grpc.aio.insecure_channel(grafter.otlp_grpc) as channel:
            for request in app.requests:
                await channel.unary_unary(EXPORT)(request.SerializeToString())
    await sink.until_spans(trace_id, spans_in(PYTHON_TREE))

    assert sink.tree(trace_id).text() == outline(PYTHON_TREE)


async def test_kills_under_load_lose_nothing(start: Start, sink: Sink) -> None:
    """Killed three times while eight senders send: each trace that was acknowledged comes out whole, and once, or
    again with every repeated span marked ``grafter.resend``."""
    grafter = await start()
    acknowledged: set[str] = set()
    numbers = itertools.count(1)
    news = asyncio.Condition()
    up = asyncio.Event()
    up.set()
    done = asyncio.Event()

    async def send() -> None:
        async with grpc.aio.insecure_channel(
            grafter.otlp_grpc, options=[("grpc.use_local_subchannel_pool", 1)]
        ) as channel:
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

    async def acknowledge(more: int) -> None:
        enough = len(acknowledged) + more
        async with news:
            await news.wait_for(lambda: len(acknowledged) >= enough)

    async with asyncio.timeout(3 * DEADLINE), asyncio.TaskGroup() as group:
        for _ in range(SENDERS):
            group.create_task(send())
        for _ in range(KILLS):
            await acknowledge(MORE)
            up.clear()
            await grafter.kill()
            await grafter.start()
            up.set()
        await acknowledge(MORE)
        done.set()

    await sink.until(lambda it: acknowledged <= it.trace_ids(), "all that was acknowledged")
    for trace_id in acknowledged:
        spans = sink.spans(trace_id)
        assert {each.span.name for each in spans} == {"call", "leg"}
        again = [each for each in spans if each.attributes.get("grafter.resend") is True]
        assert len(spans) - len(again) <= 2, f"{trace_id} came twice unmarked"


def small_trace(number: int) -> bytes:
    """A request with one whole trace of two spans, whose trace id is the number."""
    request = ExportTraceServiceRequest()
    spans = request.resource_spans.add().scope_spans.add().spans
    root = spans.add(name="call", span_id=b"\1" * 8, start_time_unix_nano=1, end_time_unix_nano=3)
    leg = spans.add(name="leg", span_id=b"\2" * 8, parent_span_id=b"\1" * 8)
    leg.start_time_unix_nano, leg.end_time_unix_nano = 1, 2
    for span in (root, leg):
        span.trace_id = number.to_bytes(16, "big")
    return request.SerializeToString()
