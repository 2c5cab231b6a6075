"""Small real things that the exporter tests share: a clock, traces, and peers that answer by script."""

import asyncio
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from ssl import SSLContext

import grpc
import grpc.aio
from aiohttp import web
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import ResourceSpans, Span

from grafter.consumer import Batch, OpenedExporter, OutTrace, Piece
from grafter.core.model import Envelope, Key
from grafter.exporter.answer import ExportAnswer, Kind
from grafter.otlp.frames import run_of
from grafter.otlp.spans import grafter_scope, service_resource
from grafter.telemetry import Metrics

ENVELOPE = Envelope(service_resource("shop"), grafter_scope("1"))
TRACES_METHOD = "/opentelemetry.proto.collector.trace.v1.TraceService/Export"


@dataclass
class Clock:
    """Time that passes only when told to, or when somebody sleeps on it."""

    now: float = 1000.0
    slept: list[float] = field(default_factory=list)

    def __call__(self) -> float:
        return self.now

    async def sleep(self, seconds: float) -> None:
        """Let the time pass at once."""
        self.slept.append(seconds)
        self.now += seconds


def middle() -> float:
    """Chance that always falls in the middle: a backoff without jitter."""
    return 0.5


@dataclass
class Script:
    """An Attempt that asks a function for its answer and keeps what was sent."""

    answer: Callable[[bytes], ExportAnswer]
    bodies: list[bytes] = field(default_factory=list)

    async def send(self, kind: Kind, body: bytes) -> ExportAnswer:
        """See Attempt."""
        self.bodies.append(body)
        await asyncio.sleep(0)
        return self.answer(body)


def span(trace: int, number: int, size: int = 0) -> bytes:
    """A serialised span; its id tells the trace and its number there."""
    return Span(
        trace_id=trace.to_bytes(16, "big"),
        span_id=trace.to_bytes(4, "big") + number.to_bytes(4, "big"),
        name="x" * size or "work",
    ).SerializeToString()


def trace(
    number: int,
    spans: int = 2,
    *,
    size: int = 0,
    resend: bool = False,
    pieces: Iterable[int] | None = None,
    envelope: Envelope = ENVELOPE,
) -> OutTrace:
    """A trace of some spans, each with a name of ``size`` bytes, in pieces of the given numbers of spans."""
    made: list[Piece] = []
    first = 1
    for count in pieces or (spans,):
        run = run_of([span(number, first + i, size) for i in range(count)])
        made.append(Piece(envelope, run, count))
        first += count
    return OutTrace(Key(number.to_bytes(16, "big")), tuple(made), first - 1, resend)


def large_envelope(size: int) -> Envelope:
    """One whose resource has about so many bytes."""
    return Envelope(ResourceSpans(schema_url="x" * size).SerializeToString(), b"")


def batch(*traces: OutTrace, letters: bool = False) -> Batch:
    """A batch, with its sums; of ``letters`` every refusal is believed at once."""
    size = sum(len(piece.payload) for one in traces for piece in one.pieces)
    return Batch(tuple(traces), sum(one.spans for one in traces), size, letters=letters)


def spans_in(body: bytes) -> list[Span]:
    """All spans of a request."""
    request = ExportTraceServiceRequest.FromString(body)
    return [s for rs in request.resource_spans for ss in rs.scope_spans for s in ss.spans]


def traces_in(body: bytes) -> set[int]:
    """The numbers of the traces in a request."""
    return {int.from_bytes(s.trace_id, "big") for s in spans_in(body)}


def count(metrics: Metrics, name: str, exporter: str = "out") -> float:
    """A counter of one exporter; 0 when it was never touched."""
    return metrics.registry.get_sample_value(f"grafter_{name}_total", {"exporter": exporter}) or 0.0


Context = grpc.aio.ServicerContext[bytes, bytes]
GrpcAnswer = Callable[[bytes, Context], Awaitable[bytes]]


@dataclass
class Peer:
    """A server that keeps what came."""

    address: str
    bodies: list[bytes] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)
    paths: list[str] = field(default_factory=list)


@asynccontextmanager
async def grpc_peer(
    answer: GrpcAnswer, *, port: int = 0, credentials: grpc.ServerCredentials | None = None
) -> AsyncIterator[Peer]:
    """A gRPC server that answers every method by one function."""
    peer = Peer("")

    async def handle(body: bytes, context: Context) -> bytes:
        peer.bodies.append(body)
        peer.headers.append({key: str(value) for key, value in context.invocation_metadata() or ()})
        return await answer(body, context)

    class Handler(grpc.GenericRpcHandler):  # type: ignore[type-arg]  # generic in its stubs only
        def service(self, details: grpc.HandlerCallDetails) -> "grpc.RpcMethodHandler[bytes, bytes]":
            peer.paths.append(details.method)
            return grpc.unary_unary_rpc_method_handler(handle)

    server = grpc.aio.server(options=[("grpc.so_reuseport", 0), ("grpc.max_receive_message_length", 4 << 20)])
    server.add_generic_rpc_handlers((Handler(),))
    address = f"127.0.0.1:{port}"
    bound = server.add_secure_port(address, credentials) if credentials else server.add_insecure_port(address)
    peer.address = f"127.0.0.1:{bound}"
    await server.start()
    try:
        yield peer
    finally:
        await server.stop(None)


HttpAnswer = Callable[[bytes], Awaitable[web.StreamResponse]]


@asynccontextmanager
async def http_peer(answer: HttpAnswer, *, ssl_context: SSLContext | None = None) -> AsyncIterator[Peer]:
    """An HTTP server that answers every request by one function; bodies are kept as they stood on the wire."""
    peer = Peer("")

    async def handle(request: web.BaseRequest) -> web.StreamResponse:
        body = await request.content.read()
        peer.bodies.append(body)
        peer.headers.append(dict(request.headers))
        peer.paths.append(request.path)
        return await answer(body)

    runner = web.ServerRunner(web.Server(handle, auto_decompress=False), shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0, ssl_context=ssl_context)
    await site.start()
    host, port = runner.addresses[0][:2]
    peer.address = f"{host}:{port}"
    try:
        yield peer
    finally:
        await runner.cleanup()


@contextmanager
def black_hole() -> Iterator[str]:
    """An address that answers no connection: its queue is full and nobody takes from it."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        waiting = [socket.socket() for _ in range(4)]
        try:
            for one in waiting:
                one.setblocking(False)
                one.connect_ex(listener.getsockname())
            yield f"127.0.0.1:{listener.getsockname()[1]}"
        finally:
            for one in waiting:
                one.close()


def last_error(exporter: OpenedExporter) -> str:
    """Why its peer takes no traces now."""
    return exporter.outages()[exporter.name].reason
