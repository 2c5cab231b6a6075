"""OTLP over gRPC: handlers that take and give raw bytes, so that no request object is ever built.

The sizes, the compression and the framing are grpc core's own: a message that is too large, before or after gzip or
deflate, is answered RESOURCE_EXHAUSTED without a RetryInfo before a handler sees it.
"""

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

import grpc
import grpc.aio

from grafter.consumer import Consumer, PassThrough, Signal
from grafter.errors import UnavailableError
from grafter.otlp.status import retry_info
from grafter.receiver.address import check_endpoint, host_and_port
from grafter.receiver.http_server import TlsFiles, Tokens, tls_context
from grafter.receiver.otlp import MAX_BYTES, Export, Intake, SplitterLike
from grafter.receiver.outcomes import UnauthenticatedError, otlp_failure, refusal_of
from grafter.telemetry import Metrics

_SERVICES = {
    Signal.METRICS: "opentelemetry.proto.collector.metrics.v1.MetricsService",
    Signal.LOGS: "opentelemetry.proto.collector.logs.v1.LogsService",
}
_TRACES = "opentelemetry.proto.collector.trace.v1.TraceService"

# A Collector may be set to ping every 10 s, also while it sends nothing; core's default takes more than two such
# pings for an attack and closes the connection.
MIN_PING_SECONDS = 5.0

Context = grpc.aio.ServicerContext[bytes, bytes]
Handle = Callable[[bytes, Context], Awaitable[bytes]]


@asynccontextmanager
async def listening(
    consumer: Consumer,
    splitter: SplitterLike,
    metrics: Metrics,
    *,
    endpoint: str,
    tls: TlsFiles | None = None,
    tokens: Sequence[str] = (),
    max_bytes: int = MAX_BYTES,
    grace_seconds: float,
    pass_through: PassThrough | None = None,
    signals: frozenset[Signal] = frozenset(),
    share_port: bool = False,
    min_ping_seconds: float = MIN_PING_SECONDS,
) -> AsyncIterator[int]:
    """Take OTLP at ``endpoint`` while the context is open; yields the port.

    Metrics and logs are taken for ``signals`` only and go to ``pass_through``; without it they are UNIMPLEMENTED.
    With ``share_port`` other processes of grafter may listen at the same port; whoever starts them holds it.
    A client that pings more often than every ``min_ping_seconds`` while it sends nothing loses its connection.
    On leaving, new requests are refused at once and those in flight are waited for up to ``grace_seconds``.
    Raises ValueError for an endpoint or a TLS file that is wrong, OSError when the endpoint cannot be listened at.
    """
    credentials = _credentials(tls) if tls is not None else None
    if not share_port:
        # A check beside workers that listen would take connections of theirs, and reset them.
        await check_endpoint(endpoint)
    intake = Intake(consumer, splitter, metrics, "grpc", pass_through)
    exports: dict[str, Export] = {_TRACES: intake.traces}
    if pass_through is not None:
        exports |= {_SERVICES[signal]: partial(intake.passed, signal) for signal in signals}
    server = grpc.aio.server(
        options=[
            ("grpc.max_receive_message_length", max_bytes),
            ("grpc.max_send_message_length", max_bytes),
            # Otherwise a second process would silently share the port.
            ("grpc.so_reuseport", int(share_port)),
            ("grpc.keepalive_permit_without_calls", 1),
            # Core's header calls it MIN_RECV_PING_INTERVAL; its name has no "recv", and an unknown one is ignored.
            ("grpc.http2.min_ping_interval_without_data_ms", round(min_ping_seconds * 1000)),
        ]
    )
    allowed = Tokens(tokens) if tokens else None
    server.add_generic_rpc_handlers(
        [
            grpc.method_handlers_generic_handler(
                service, {"Export": grpc.unary_unary_rpc_method_handler(_handler(export, intake, allowed))}
            )
            for service, export in exports.items()
        ]
    )
    host, port = host_and_port(endpoint)
    address = f"[{host or '::'}]:{port}" if ":" in host or not host else endpoint
    try:
        if credentials is None:
            bound = server.add_insecure_port(address)
        else:
            bound = server.add_secure_port(address, credentials)
    except RuntimeError as error:
        raise OSError(f"endpoint {endpoint}: cannot be listened at") from error
    try:
        await server.start()
        yield bound
    finally:
        await server.stop(grace_seconds)


def _handler(export: Export, intake: Intake, tokens: Tokens | None) -> Handle:
    """The handler of one method: ``export``, behind the tokens, with errors as statuses."""

    async def handle(request: bytes, context: Context) -> bytes:
        try:
            if tokens is not None and not tokens.allows(_authorization(context)):
                raise UnauthenticatedError("a bearer token that is known here is required")
            return await export(request)
        except Exception as error:  # noqa: BLE001  # whatever a request does, the door stays open
            intake.count_refusal(error)
            refused = error
        await _abort(context, refused)
        raise AssertionError("abort returned")

    return handle


async def _abort(context: Context, error: Exception) -> None:
    status = otlp_failure(error)
    trailing: tuple[tuple[str, bytes], ...] = (("grpc-status-details-bin", status.SerializeToString()),)
    if isinstance(error, UnavailableError):
        # Where OpenTelemetry's Python exporter looks for the delay, instead of in the status.
        trailing += (("google.rpc.retryinfo-bin", retry_info(error.retry_after).SerializeToString()),)
    await context.abort(refusal_of(error).grpc, status.message, trailing)


def _authorization(context: Context) -> str | None:
    for key, value in context.invocation_metadata() or ():
        if key == "authorization":
            return value if isinstance(value, str) else value.decode("utf-8", "surrogateescape")
    return None


def _credentials(tls: TlsFiles) -> grpc.ServerCredentials:
    # grpc says only that the port could not be bound when a file is wrong.
    tls_context(tls.cert_file, tls.key_file, tls.client_ca_file)
    authority = Path(tls.client_ca_file).read_bytes() if tls.client_ca_file is not None else None
    pair = (Path(tls.key_file).read_bytes(), Path(tls.cert_file).read_bytes())
    return grpc.ssl_server_credentials([pair], authority, require_client_auth=authority is not None)
