"""A real Collector that sends to grafter over gRPC, as docs/collector.md has it, however it is to compress."""

from pathlib import Path
from typing import Any

import grpc.aio
import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import ResourceSpans, ScopeSpans, Span

from tests.e2e.process import Grafter
from tests.e2e.sink import listening

pytestmark = pytest.mark.slow

TRACES = "/opentelemetry.proto.collector.trace.v1.TraceService/Export"
REQUESTS, SPANS = 40, 200


def request(number: int) -> bytes:
    """Traces of a root and its child each, with enough text to be worth packing."""
    spans = []
    for each in range(1, SPANS, 2):
        trace_id = (number * SPANS + each).to_bytes(16, "big")
        times: dict[str, Any] = {"start_time_unix_nano": 1, "end_time_unix_nano": 2}
        spans.append(Span(trace_id=trace_id, span_id=b"r" * 8, name="call " * 20, **times))
        spans.append(Span(trace_id=trace_id, span_id=b"c" * 8, parent_span_id=b"r" * 8, name="turn " * 20, **times))
    return ExportTraceServiceRequest(
        resource_spans=[ResourceSpans(scope_spans=[ScopeSpans(spans=spans)])]
    ).SerializeToString()


@pytest.mark.parametrize("compression", ["gzip", "none"])
async def test_what_it_sends_arrives(collector, tmp_path: Path, compression: str) -> None:
    """Every span that the Collector took leaves grafter once."""
    async with listening() as sink:
        grafter = Grafter(tmp_path, {"otlp_http": {"endpoint": sink.http_endpoint}})
        await grafter.start()
        try:
            to = {"endpoint": grafter.otlp_grpc, "compression": compression, "tls": {"insecure": True}}
            async with (
                collector(tmp_path, {"exporters": {"otlp_grpc": to}}) as endpoint,
                grpc.aio.insecure_channel(endpoint) as channel,
            ):
                for number in range(REQUESTS):
                    await channel.unary_unary(TRACES)(request(number), timeout=30)
            await sink.until(lambda sink: len(sink.spans()) >= REQUESTS * SPANS, "all of it", 60)
            assert len({(each.span.trace_id, each.span.span_id) for each in sink.spans()}) == REQUESTS * SPANS
            assert len(sink.spans()) == REQUESTS * SPANS
        finally:
            await grafter.close()
