"""A backend that keeps what it gets: OTLP over gRPC and HTTP, in this process, on free ports of the loopback."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import grpc
import grpc.aio
from aiohttp import web
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from tests.e2e.tree import Node, SpanOf, tree_of

DEADLINE = 120.0
"""Seconds until a wait gives up; far more than any test needs, for a busy machine."""


@dataclass
class Sink:
    """What one backend has received, and where it listens."""

    grpc_endpoint: str = ""
    """host:port"""
    http_endpoint: str = ""
    """http://host:port, to which exporters add /v1/traces"""
    requests: list[ExportTraceServiceRequest] = field(default_factory=list)
    refuse: bool = False
    """While set, every request is answered UNAVAILABLE or 503 and not kept."""
    refuse_for_good: Callable[[ExportTraceServiceRequest], bool] = lambda _: False
    """Requests that are answered INVALID_ARGUMENT or 400 and not kept."""
    news: asyncio.Condition = field(default_factory=asyncio.Condition)
    """Told of each request."""

    async def keep(self, request: ExportTraceServiceRequest) -> None:
        """Take a request in and wake those who wait."""
        async with self.news:
            self.requests.append(request)
            self.news.notify_all()

    def spans(self, trace_id: str | None = None) -> list[SpanOf]:
        """Every span that came, of one trace (32 hex digits) or of all, in order of arrival."""
        return [
            SpanOf(span, resource_spans.resource, scope_spans.scope)
            for request in self.requests
            for resource_spans in request.resource_spans
            for scope_spans in resource_spans.scope_spans
            for span in scope_spans.spans
            if trace_id is None or span.trace_id.hex() == trace_id
        ]

    def trace_ids(self) -> set[str]:
        return {each.span.trace_id.hex() for each in self.spans()}

    def raw(self, trace_id: str) -> dict[str, bytes]:
        """Span id to the span's bytes as they are written anew, to compare two backends."""
        return {each.span.span_id.hex(): each.span.SerializeToString() for each in self.spans(trace_id)}

    def repeats(self) -> dict[str, int]:
        """Span ids that came more than once."""
        counts = Counter(each.span.trace_id.hex() + each.span.span_id.hex() for each in self.spans())
        return {span: count for span, count in counts.items() if count > 1}

    def tree(self, trace_id: str) -> Node:
        """The one tree that the spans of a trace make. Fails when they are no single connected tree."""
        return tree_of(self.spans(trace_id))

    async def until(self, enough: Callable[["Sink"], bool], what: str, deadline: float = DEADLINE) -> None:
        """Return as soon as ``enough`` holds; fail with ``what`` and what came instead at the deadline."""
        try:
            async with asyncio.timeout(deadline), self.news:
                await self.news.wait_for(lambda: enough(self))
        except TimeoutError:
            names = [f"{each.span.trace_id.hex()[:8]} {each.span.name}" for each in self.spans()]
            raise AssertionError(f"{what}: not within {deadline} s; came: {names}") from None

    async def until_spans(self, trace_id: str, count: int) -> None:
        """Return once at least so many spans of a trace are here."""
        await self.until(lambda sink: len(sink.spans(trace_id)) >= count, f"{count} spans of {trace_id}")


@asynccontextmanager
async def listening() -> AsyncIterator[Sink]:
    """A backend for the duration of the block."""
    sink = Sink()

    async def export(request: bytes, context: grpc.aio.ServicerContext[bytes, bytes]) -> bytes:
        if sink.refuse:
            await context.abort(grpc.StatusCode.UNAVAILABLE, "refusing")
        read = ExportTraceServiceRequest.FromString(request)
        if sink.refuse_for_good(read):
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, "not this one")
        await sink.keep(read)
        return ExportTraceServiceResponse().SerializeToString()

    async def post(request: web.Request) -> web.Response:
        if sink.refuse:
            return web.Response(status=503)
        read = ExportTraceServiceRequest.FromString(await request.read())
        if sink.refuse_for_good(read):
            return web.Response(status=400, text="not this one")
        await sink.keep(read)
        return web.Response(
            body=ExportTraceServiceResponse().SerializeToString(), content_type="application/x-protobuf"
        )

    server = grpc.aio.server(options=[("grpc.max_receive_message_length", 64 << 20)])
    server.add_generic_rpc_handlers(
        (
            grpc.method_handlers_generic_handler(
                "opentelemetry.proto.collector.trace.v1.TraceService",
                {"Export": grpc.unary_unary_rpc_method_handler(export)},
            ),
        )
    )
    sink.grpc_endpoint = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    app = web.Application(client_max_size=64 << 20)
    app.router.add_post("/v1/traces", post)
    runner = web.AppRunner(app)
    await runner.setup()
    try:
        await server.start()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        sink.http_endpoint = f"http://127.0.0.1:{runner.addresses[0][1]}"
        yield sink
    finally:
        await server.stop(None)
        await runner.cleanup()


def spans_of(request: ExportTraceServiceRequest) -> list[Span]:
    """The spans of one request."""
    return [span for each in request.resource_spans for scope in each.scope_spans for span in scope.spans]
