"""The app's own trace through grafter, sent by the OpenTelemetry SDK's own exporters."""

import asyncio
from collections.abc import Callable

import pytest
from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter as GrpcExporter
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter as HttpExporter
from opentelemetry.sdk.trace.export import SpanExporter

from tests.e2e.conftest import Start, to_grpc, to_http
from tests.e2e.process import Grafter
from tests.e2e.reference_call import HOST_TREE, Services, play, reference_call
from tests.e2e.sink import Sink, listening
from tests.e2e.tree import outline

HOST_SPANS = 10
NO_GUEST = {"for_guest": "300ms"}
"""The session span makes grafter expect a guest; in these tests none comes."""


def by_grpc(grafter: Grafter) -> SpanExporter:
    return GrpcExporter(endpoint=grafter.otlp_grpc, insecure=True)


def by_http(grafter: Grafter) -> SpanExporter:
    return HttpExporter(endpoint=f"{grafter.otlp_http}/v1/traces")


@pytest.mark.parametrize("door", [by_grpc, by_http])
async def test_the_whole_call_comes_out_as_it_went_in(
    start: Start, sink: Sink, door: Callable[[Grafter], SpanExporter]
) -> None:
    """Whichever OTLP door the SDK uses, each span comes out once, with its bytes, in the tree that the app made."""
    grafter = await start(wait=NO_GUEST)
    async with listening() as direct:
        trace_id = await asyncio.to_thread(
            call_to, lambda: [door(grafter), GrpcExporter(endpoint=direct.grpc_endpoint, insecure=True)]
        )
        await sink.until_spans(trace_id, HOST_SPANS)

        assert sink.tree(trace_id).text() == outline(HOST_TREE)
        assert sink.raw(trace_id) == direct.raw(trace_id)


async def test_two_exporters_get_the_same(start: Start, sink: Sink) -> None:
    """Every exporter of the pipeline gets the whole trace, over gRPC and over HTTP."""
    async with listening() as second:
        grafter = await start({"otlp_grpc/one": to_grpc(sink), "otlp_http/two": to_http(second)}, NO_GUEST)
        trace_id = await asyncio.to_thread(call_to, lambda: [by_grpc(grafter)])
        await sink.until_spans(trace_id, HOST_SPANS)
        await second.until_spans(trace_id, HOST_SPANS)

        assert sink.tree(trace_id).text() == second.tree(trace_id).text() == outline(HOST_TREE)


async def test_one_backend_down_does_not_keep_the_other_waiting(start: Start, sink: Sink) -> None:
    """While one backend refuses, the other gets the trace; the first gets it once it is back; none gets it twice."""
    async with listening() as second:
        second.refuse = True
        grafter = await start({"otlp_grpc/one": to_grpc(sink), "otlp_http/two": to_http(second)}, NO_GUEST)
        trace_id = await asyncio.to_thread(call_to, lambda: [by_grpc(grafter)])
        await sink.until_spans(trace_id, HOST_SPANS)
        assert second.spans() == []

        second.refuse = False
        await second.until_spans(trace_id, HOST_SPANS)
        assert second.tree(trace_id).text() == sink.tree(trace_id).text() == outline(HOST_TREE)


def call_to(exporters: Callable[[], list[SpanExporter]]) -> str:
    """Play the reference call into these exporters; the trace id."""
    services = Services(exporters)
    with reference_call(services) as call:
        play(call)
    services.flush()
    services.shutdown()
    return call.trace_id
