"""OTLP over gRPC, out. Bytes go in and bytes come back: no message object is built on this path."""

import re
from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import asynccontextmanager
from ssl import get_default_verify_paths
from typing import cast

import grpc
import grpc.aio

from grafter import __version__
from grafter.config.units import Target, is_loopback
from grafter.consumer import Signal
from grafter.exporter.answer import TRACES, ExportAnswer, Kind, Later, Refused, accepted, advised, retry_info, words
from grafter.exporter.tls import Advice, ClientTls, advice, read_pem

_METHODS: dict[Kind, str] = {
    TRACES: "/opentelemetry.proto.collector.trace.v1.TraceService/Export",
    Signal.METRICS: "/opentelemetry.proto.collector.metrics.v1.MetricsService/Export",
    Signal.LOGS: "/opentelemetry.proto.collector.logs.v1.LogsService/Export",
}

_COMPRESSIONS = {
    "": grpc.Compression.NoCompression,
    "none": grpc.Compression.NoCompression,
    "gzip": grpc.Compression.Gzip,
    "deflate": grpc.Compression.Deflate,
}

_Code = grpc.StatusCode

# Source: OTLP specification, "Failures", of OTLP/gRPC.
_RETRYABLE = frozenset(
    {
        _Code.CANCELLED,
        _Code.DEADLINE_EXCEEDED,
        _Code.ABORTED,
        _Code.OUT_OF_RANGE,
        _Code.UNAVAILABLE,
        _Code.DATA_LOSS,
    }
)
# Not retryable by the specification, and yet no word about the request: the key is wrong, or no such service listens
# here. Burying every trace until somebody has mended it would be the loss that the peer has not asked for.
_FAULTS = frozenset({_Code.UNAUTHENTICATED, _Code.PERMISSION_DENIED, _Code.UNIMPLEMENTED})
# A peer that gave up half-way may have taken the request all the same.
_UNKNOWN = frozenset({_Code.CANCELLED, _Code.DEADLINE_EXCEEDED})

# gRPC says UNAVAILABLE for its own troubles as for the peer's, and only its words tell them apart. No connection means
# that nothing was sent; REFUSED_STREAM (error code 7) is the peer's word that it did not look. Source: RFC 9113, 8.7.
_NOT_SENT = re.compile(
    r"^(failed to connect to all addresses|errors resolving |DNS resolution failed|no healthy upstream)|error code 7\b",
)
_CONNECTION_LOST = re.compile(
    r"stream removed|socket closed|connection (was )?(reset|aborted|closed|timed out)|recvmsg|sendmsg|broken pipe"
    r"|goaway|rst_stream|endpoint|ping timeout|keepalive|transport|cancelling all calls",
    re.IGNORECASE,
)

# Servers of the Go library close a connection that is pinged more often than every five minutes (their enforcement
# policy's default). Any keepalive at all also makes the kernel give up a half-open connection in KEEPALIVE_TIMEOUT.
_KEEPALIVE_MS = 330_000
_KEEPALIVE_TIMEOUT_MS = 20_000

_HEADER = re.compile(r"[0-9a-z_.-]+")
_PRINTABLE = re.compile(r"[\x20-\x7e]*")

_Metadata = tuple[tuple[str, str | bytes], ...]


@asynccontextmanager
async def opened(
    endpoint: Target,
    *,
    secure: bool = True,
    tls: ClientTls | None = None,
    headers: Mapping[str, str] | None = None,
    compression: str = "none",
    timeout_seconds: float = 5.0,
) -> AsyncIterator["GrpcAttempt"]:
    """Attempts at one OTLP/gRPC endpoint, over TLS if ``secure``; it need not be up yet.

    Raises ValueError for settings that cannot be kept.
    """
    metadata = _metadata(headers or {})
    channel = _channel(endpoint, (tls or ClientTls()) if secure else None, compression, timeout_seconds)
    async with channel:
        yield GrpcAttempt(channel, metadata, timeout_seconds, secure)


class GrpcAttempt:
    """One unary call of raw bytes; see Attempt."""

    def __init__(self, channel: grpc.aio.Channel, metadata: _Metadata, timeout_seconds: float, secure: bool) -> None:
        # Without serialisers bytes pass as they are.
        self._calls = {kind: channel.unary_unary(method, None, None) for kind, method in _METHODS.items()}
        self._metadata = metadata or None
        self._timeout = timeout_seconds
        self._secure = secure
        self._met = False

    async def send(self, kind: Kind, body: bytes) -> ExportAnswer:
        try:
            response = await self._calls[kind](body, timeout=self._timeout, metadata=self._metadata)
        except grpc.aio.AioRpcError as error:
            details = error.details() or ""
            answer = answer_to(error.code(), details, _status_details(error))
            return advised(answer, self._advice(details))
        self._met = True
        return accepted(response)

    def _advice(self, details: str) -> Advice | None:
        """What could be wrong with the address, where no connection came."""
        if not _NOT_SENT.search(details):
            self._met = True
            return None
        if "http1.x server" in details:
            return Advice("the peer speaks HTTP/1 there, which is otlp_http's to send", certain=True)
        return advice(
            details,
            secure=self._secure,
            met=self._met,
            plaintext="set tls: {insecure: true}",
            encrypted="set tls: {insecure: false}, or write https:// in the endpoint",
        )


def answer_to(code: grpc.StatusCode, details: str, status: bytes) -> ExportAnswer:
    """What a status other than OK means.

    ``status``: the serialised google.rpc.Status that came with it, or nothing.
    """
    reason = f"{code.name}: {words(details)}" if details else code.name
    hint = retry_info(status)
    if code is _Code.RESOURCE_EXHAUSTED:
        return Refused(reason, too_large=True) if hint is None else Later(reason, hint)
    if code in _FAULTS:
        return Later(reason, hint, fault=True)
    if code not in _RETRYABLE:
        return Refused(reason)
    if code is _Code.UNAVAILABLE:
        lost = not status and not _NOT_SENT.search(details) and _CONNECTION_LOST.search(details) is not None
        return Later(reason, hint, unknown=lost)
    return Later(reason, hint, unknown=code in _UNKNOWN)


def _status_details(error: grpc.aio.AioRpcError) -> bytes:
    for key, value in cast(Iterable[tuple[str, str | bytes]], error.trailing_metadata() or ()):
        if key == "grpc-status-details-bin" and isinstance(value, bytes):
            return value
    return b""


def _channel(target: Target, tls: ClientTls | None, compression: str, timeout_seconds: float) -> grpc.aio.Channel:
    if compression not in _COMPRESSIONS:
        raise ValueError(f"compression: gRPC in Python has no {compression!r}, expected gzip, deflate or none")
    options: list[tuple[str, int | str]] = [
        ("grpc.max_send_message_length", -1),
        ("grpc.primary_user_agent", f"grafter/{__version__}"),
        ("grpc.keepalive_time_ms", _KEEPALIVE_MS),
        ("grpc.keepalive_timeout_ms", _KEEPALIVE_TIMEOUT_MS),
        # gRPC's own backoff between connections grows to two minutes; the gate already sees to it that a peer is not
        # overrun, and a probe must find a peer that is back.
        ("grpc.initial_reconnect_backoff_ms", 500),
        # This is also the time that a connection may take. It must end before the attempt does: nothing was sent then,
        # and that is known.
        ("grpc.min_reconnect_backoff_ms", int(min(2.0, timeout_seconds / 2) * 1000)),
        ("grpc.max_reconnect_backoff_ms", 5_000),
    ]
    if is_loopback(target.host):
        # As Go's library has it: a proxy is never asked for this very machine.
        options.append(("grpc.enable_http_proxy", 0))
    if tls is None:
        return grpc.aio.insecure_channel(target.address, options=options, compression=_COMPRESSIONS[compression])
    if tls.server_name_override:
        options.append(("grpc.ssl_target_name_override", tls.server_name_override))
    return grpc.aio.secure_channel(
        target.address, _credentials(tls), options=options, compression=_COMPRESSIONS[compression]
    )


def _credentials(tls: ClientTls) -> grpc.ChannelCredentials:
    if tls.insecure_skip_verify:
        raise ValueError(
            "tls.insecure_skip_verify: gRPC in Python always checks the certificate; give its authority as "
            "tls.ca_file, or use otlp_http"
        )
    certificate = tls.certificate()
    roots = read_pem("ca_file", tls.ca_file) if tls.ca_file else _system_roots()
    if certificate is None:
        return grpc.ssl_channel_credentials(roots)
    cert_file, key_file = certificate
    return grpc.ssl_channel_credentials(roots, read_pem("key_file", key_file), read_pem("cert_file", cert_file))


def _system_roots() -> bytes | None:
    """The system's authorities, a company's own among them; None: those that gRPC brings."""
    path = get_default_verify_paths().cafile
    return read_pem("ca_file", path) if path else None


def _metadata(headers: Mapping[str, str]) -> _Metadata:
    """Headers as gRPC metadata. Raises ValueError, without the value: it is a secret."""
    metadata: list[tuple[str, str | bytes]] = []
    for key, value in headers.items():
        lowered = key.lower()
        if not _HEADER.fullmatch(lowered) or lowered.startswith("grpc-"):
            raise ValueError(f"headers: {key!r} is not a name that gRPC metadata can have")
        if not _PRINTABLE.fullmatch(value):
            raise ValueError(f"headers: the value of {key!r} has characters that are not printable ASCII")
        metadata.append((lowered, value.encode() if lowered.endswith("-bin") else value))
    return tuple(metadata)
