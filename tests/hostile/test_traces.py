"""What one trace may cost the others: however it is made, it is joined, shown, refused or put aside, and they leave."""

import gzip
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from random import Random
from typing import Any

import aiohttp
import grpc
import grpc.aio
import orjson
import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from grafter.receiver.in_flight import BUDGET_BYTES
from tests.hostile.test_doors import BUSY, JSON, PROTOBUF, STANDSTILL, shown
from tests.hostile.test_resources import peer
from tests.hostile.watch import MIB, running, watched

ATTRIBUTES = 4_000_000
EMPTY_ATTRIBUTE = b"\x4a\x00"


def request(*names: str, trace_id: bytes) -> ExportTraceServiceRequest:
    """A root of the first name, and children of the others."""
    chance = Random(trace_id)
    made = ExportTraceServiceRequest()
    spans = made.resource_spans.add().scope_spans.add().spans
    root = chance.randbytes(8)
    spans.add(trace_id=trace_id, span_id=root, name=names[0], start_time_unix_nano=1, end_time_unix_nano=2)
    for at, name in enumerate(names[1:], 2):
        own = chance.randbytes(8)
        spans.add(
            trace_id=trace_id,
            span_id=own,
            parent_span_id=root,
            name=name,
            start_time_unix_nano=at,
            end_time_unix_nano=at + 10,
        )
    return made


def framed(field: int, body: bytes) -> bytes:
    """A message as the field of another."""
    length, size = b"", len(body)
    while size > 127:
        length += bytes((size & 127 | 128,))
        size >>= 7
    return bytes((field << 3 | 2,)) + length + bytes((size,)) + body


def span_of_attributes(count: int) -> bytes:
    """A request with one span, which is nothing but empty attributes."""
    span = request("heavy", trace_id=b"h" * 16).resource_spans[0].scope_spans[0].spans[0].SerializeToString()
    return framed(1, framed(2, framed(2, span + EMPTY_ATTRIBUTE * count)))


async def sums(grafter: Any, session: aiohttp.ClientSession, *names: str) -> list[float]:
    found = await grafter.counters(session)
    return [found[f"grafter_{name}"] for name in names]


@pytest.mark.parametrize("kind", ["debug", "file", "json"])
async def test_a_span_of_four_million_attributes(tmp_path: Path, kind: str) -> None:
    """Eight kilobytes that filled the memory of each start: the span is in the dead-letter box with a reason, what came
    beside it has left, and the books balance."""
    body = span_of_attributes(ATTRIBUTES)
    packed = gzip.compress(body)
    beside = request("beside", "child", trace_id=b"b" * 16).SerializeToString()
    async with peer(200) as (url, _sizes), aiohttp.ClientSession() as session:
        exporters: dict[str, Any] = {
            "debug": {"debug": {"verbosity": "detailed"}},
            "file": {"file": {"path": str(tmp_path / "out.jsonl")}},
            "json": {"otlp_http": {"endpoint": url, "encoding": "json", "compression": "none"}},
        }[kind]
        async with running(tmp_path, exporters=exporters) as (grafter, pid):

            async def left(session: aiohttp.ClientSession) -> bool:
                return await sums(grafter, session, "held_spans", "dead_spans_total") == [0, 1]

            with watched(pid, grafter.health) as cost:
                for one in (packed, gzip.compress(beside)):
                    async with session.post(f"{grafter.otlp_http}/v1/traces", data=one, headers=PROTOBUF) as answer:
                        cost.answers.append(answer.status)
                await grafter.until(left, "the heavy span to be refused and the others to have left")
            counted = await sums(grafter, session, "receiver_accepted_spans_total", "exporter_sent_spans_total")
    shown(f"a span of four million attributes ({len(packed):,} bytes gzip), {kind}", cost)
    assert cost.answers == [200, 200]
    assert counted == [3, 2]
    assert cost.memory < 4 * len(body) + 32 * MIB
    assert cost.standstill < BUSY


@pytest.mark.parametrize("spans", [20_000, pytest.param(150_000, marks=pytest.mark.slow)])
async def test_a_trace_of_anchors_and_a_guest_that_fits_each(tmp_path: Path, spans: int) -> None:
    """Each of its spans may be the one under which a guest hangs, and fifty guests do not say which."""
    host = bytes(range(16))
    body = request("call", *["gen_ai.realtime.session"] * spans, trace_id=host).SerializeToString()
    packed = gzip.compress(body, 1)
    guests = []
    for number in range(50):
        trace_id = f"trace_{number:032x}"
        item = {"object": "trace.span", "id": f"span_{number}", "trace_id": trace_id, "span_data": {"type": "agent"}}
        trace = {"object": "trace", "id": trace_id, "workflow_name": "w", "metadata": {"trace_id": host.hex()}}
        guests += [trace, item]
    beside = request("beside", trace_id=b"b" * 16).SerializeToString()
    async with peer(200) as (url, sizes), aiohttp.ClientSession() as session:
        exporters = {"otlp_http": {"endpoint": url, "compression": "none"}}
        async with running(tmp_path, exporters=exporters, wait={"for_guest": "1s"}) as (grafter, pid):

            async def left(session: aiohttp.ClientSession) -> bool:
                held, sent = await sums(grafter, session, "held_spans", "exporter_sent_spans_total")
                return (held, sent) == (0, spans + 52)

            with watched(pid, grafter.health) as cost:
                for url, data, headers in (
                    (grafter.ingest, orjson.dumps({"data": guests}), JSON),
                    (f"{grafter.otlp_http}/v1/traces", packed, PROTOBUF),
                    (f"{grafter.otlp_http}/v1/traces", gzip.compress(beside), PROTOBUF),
                ):
                    async with session.post(url, data=BytesIO(data), headers=headers) as answer:
                        cost.answers.append(answer.status)
                await grafter.until(left, "all of it to have left")
    shown(f"a trace of {spans:,} anchors, {len(body) >> 10} KiB ({len(packed) >> 10} KiB gzip), 50 guests", cost)
    assert cost.answers == [204, 200, 200]
    assert sum(sizes) < 4 * len(body)
    assert cost.standstill < BUSY


def filler(size: int) -> bytes:
    """A request of so many bytes without a span."""
    made = ExportTraceServiceRequest()
    made.resource_spans.add().schema_url = "x" * size
    return made.SerializeToString()


def small_traces(size: int) -> bytes:
    """A request of about so many bytes, each of whose spans is a trace of its own."""
    made = ExportTraceServiceRequest()
    spans = made.resource_spans.add().scope_spans.add().spans
    for number in range(1, size // 250):
        own = number.to_bytes(16, "big")
        span = spans.add(trace_id=own, span_id=own[8:], name="n", start_time_unix_nano=1, end_time_unix_nano=2)
        span.attributes.add(key="k").value.string_value = "v" * 170
    return made.SerializeToString()


@pytest.mark.parametrize(
    ("request_of", "size"),
    [
        (filler, 3),
        pytest.param(small_traces, 3, marks=pytest.mark.slow),
        pytest.param(filler, 40, marks=pytest.mark.slow),
    ],
    ids=["small", "small traces", "large"],
)
async def test_many_calls_at_once(tmp_path: Path, request_of: Callable[[int], bytes], size: int) -> None:
    """Over gRPC: of calls that unpack to far more than they are each is taken or told to come again, however many come
    together, and a sender that comes then is taken."""
    # Packed ahead, or the attacker would be the slower one of the two.
    message = gzip.compress(request_of(size * MIB))
    options = [("grpc.max_send_message_length", 64 * MIB), ("grpc.enable_http_proxy", 0)]
    async with running(tmp_path) as (grafter, pid):
        with watched(pid, grafter.health) as cost:
            channels = []
            calls = []
            for _ in range(4):
                # A connection of its own each.
                own = [*options, ("grpc.use_local_subchannel_pool", 1)]
                channel = grpc.aio.insecure_channel(grafter.otlp_grpc, options=own)
                channels.append(channel)
                export = channel.unary_unary("/opentelemetry.proto.collector.trace.v1.TraceService/Export")
                calls += [export(message) for _ in range(8)]
            cost.answers = [await call.code() for call in calls]
            for channel in channels:
                await channel.close()
        async with grpc.aio.insecure_channel(grafter.otlp_grpc, options=options) as channel:
            export = channel.unary_unary("/opentelemetry.proto.collector.trace.v1.TraceService/Export")
            await export(request("after", trace_id=b"a" * 16).SerializeToString(), timeout=30)
    shown(f"32 gRPC calls of {size} MiB ({len(message) >> 10} KiB gzip), {request_of.__name__}", cost)
    assert set(cost.answers) <= {grpc.StatusCode.OK, grpc.StatusCode.UNAVAILABLE}
    assert cost.memory < 3 * BUDGET_BYTES
    assert cost.standstill < STANDSTILL
