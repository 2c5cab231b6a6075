"""OTLP over gRPC: handlers that take and give raw bytes, so that no request object is ever built.

The sizes and the framing are grpc core's own: a message that is too large as it is sent is answered RESOURCE_EXHAUSTED
without a RetryInfo before a handler sees it. Unpacked it is here, within the budget and beside the event loop; core
would do so on it, before anybody could bound it. It does not hand over how a message is packed; its first bytes say so.

Core reads a message before it calls the handler of a unary method, and only when asked by the handler of a
streaming one; on the wire the two are the same. So what can be refused by a call's metadata is refused by a streaming
handler that reads nothing, and when others wait, or the messages of a few calls are on their way, each further one
waits for its turn before it is read. Where a call is handed over at all, a connection has no more than ``_MAX_STREAMS``
calls at a time, and what a client begins beyond that waits in the client.
"""

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import grpc
import grpc.aio

from grafter.consumer import Signal
from grafter.errors import RejectedError, UnavailableError
from grafter.otlp.status import retry_info
from grafter.receiver.address import check_endpoint, host_and_port
from grafter.receiver.compression import encoding_of, unpack
from grafter.receiver.config import ServerTls
from grafter.receiver.http_body import BODY_SECONDS
from grafter.receiver.http_server import Tokens, connections_limit, tls_context
from grafter.receiver.in_flight import Held, InFlight, memory_may_be_refused
from grafter.receiver.otlp import MAX_BYTES, Export, Intake
from grafter.receiver.outcomes import UnauthenticatedError, otlp_failure, refusal_of, retry_after

_SERVICES = {
    Signal.METRICS: "opentelemetry.proto.collector.metrics.v1.MetricsService",
    Signal.LOGS: "opentelemetry.proto.collector.logs.v1.LogsService",
}
_TRACES = "opentelemetry.proto.collector.trace.v1.TraceService"

# A Collector may be set to ping every 10 s, also while it sends nothing; core's default takes more than two such
# pings for an attack and closes the connection.
MIN_PING_SECONDS = 5.0

Context = grpc.aio.ServicerContext[bytes, bytes]

# Calls whose messages core may be reading, and those whose messages are asked for beside them: what they take counts
# only when it is there, so in a small budget there are fewer.
_UNREAD, _READS = 4, 2
_READ_SECONDS = 0.5
# Core takes in what a connection sends before anybody reads it, the more of it the faster the network is, up to some
# 10 MiB each; where there is little memory no more than this.
_SMALL_WINDOWS = (("grpc.http2.bdp_probe", 0), ("grpc.http2.lookahead_bytes", 64 << 10))
# Of one connection at a time; more wait in the client. A Collector sends ten, an SDK one.
_MAX_STREAMS = 16


@asynccontextmanager
async def listening(
    intake: Intake,
    *,
    endpoint: str,
    tls: ServerTls | None = None,
    tokens: Sequence[str] = (),
    max_bytes: int = MAX_BYTES,
    grace_seconds: float,
    share_port: bool = False,
    min_ping_seconds: float = MIN_PING_SECONDS,
    in_flight: InFlight | None = None,
) -> AsyncIterator[int]:
    """Take OTLP at ``endpoint`` while the context is open; yields the port.

    Metrics and logs that the intake does not take are UNIMPLEMENTED.
    With ``share_port`` other processes of grafter may listen at the same port; whoever starts them holds it.
    ``in_flight``: the budget in which messages count, and whose turn it is. A message that does not come within
    BODY_SECONDS after it was asked for is refused, with a hint.
    Past ``connections_limit`` connections a new one is closed.
    A client that pings more often than every ``min_ping_seconds`` while it sends nothing loses its connection.
    On leaving, new requests are refused at once and those in flight are waited for up to ``grace_seconds``.
    Raises ValueError for an endpoint or a TLS file that is wrong, OSError when the endpoint cannot be listened at.
    """
    credentials = _credentials(tls) if tls is not None else None
    if not share_port:
        # A check beside workers that listen would take connections of theirs, and reset them.
        await check_endpoint(endpoint)
    exports = {_TRACES: _Method(intake.traces, stores=True)}
    exports |= {_SERVICES[signal]: _Method(partial(intake.passed, signal), stores=False) for signal in intake.signals}
    budget = in_flight or InFlight()
    server = grpc.aio.server(
        options=[
            *(_SMALL_WINDOWS if _is_tight(budget, max_bytes) else ()),
            ("grpc.max_receive_message_length", max_bytes),
            # Core would unpack on the event loop, which is held by it: 40 MiB take 0.1 s.
            ("grpc.per_message_decompression", 0),
            ("grpc.max_send_message_length", max_bytes),
            # Otherwise a second process would silently share the port.
            ("grpc.so_reuseport", int(share_port)),
            ("grpc.max_concurrent_streams", _MAX_STREAMS),
            # It would cut calls off, without a hint, of a client that has begun as many as it may.
            ("grpc.http.overload_protection", 0),
            ("grpc.max_allowed_incoming_connections", connections_limit()),
            ("grpc.keepalive_permit_without_calls", 1),
            # Core's header calls it MIN_RECV_PING_INTERVAL; its name has no "recv", and an unknown one is ignored.
            ("grpc.http2.min_ping_interval_without_data_ms", round(min_ping_seconds * 1000)),
        ]
    )
    methods = {f"/{service}/Export": export for service, export in exports.items()}
    server.add_generic_rpc_handlers([_Methods(methods, intake, Tokens(tokens), budget, max_bytes)])
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


def _is_tight(in_flight: InFlight, max_bytes: int) -> bool:
    """There is not room for several of the largest messages at a time."""
    return in_flight.limit < 2 * max_bytes


if TYPE_CHECKING:
    _GenericHandler = grpc.GenericRpcHandler[bytes, bytes]
else:
    _GenericHandler = grpc.GenericRpcHandler


@dataclass(frozen=True, slots=True)
class _Method:
    export: Export
    stores: bool
    """Otherwise the answer is a backend's, which may take long."""


class _Methods(_GenericHandler):
    """Chooses how each call is handled, by its metadata alone."""

    def __init__(
        self,
        methods: Mapping[str, _Method],
        intake: Intake,
        tokens: Tokens,
        in_flight: InFlight,
        max_bytes: int,
    ) -> None:
        self._methods = methods
        self._intake = intake
        self._tokens = tokens
        self._in_flight = in_flight
        self._max_bytes = max_bytes
        self._unread = 0
        tight = _is_tight(in_flight, max_bytes)
        self._most_unread = 1 if tight else min(_UNREAD, 2 * in_flight.limit // max_bytes)
        self._reads = asyncio.Semaphore(1 if tight else _READS)
        # Of a message that is being read core and Python have three copies, which count nowhere; where there is not
        # room for several of them beside what is stored, those that are stored count for them.
        self._times = 2 if tight else 1
        # A message for which there is no memory, grpc would answer before the handler, as UNKNOWN: it would be lost.
        self._limited = memory_may_be_refused()

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> "grpc.RpcMethodHandler[bytes, bytes] | None":
        """The handler of a call; None for a method that is not served."""
        turns = self._in_flight.turns
        turns.arrived()
        method = self._methods.get(handler_call_details.method)
        if method is None:
            return None
        if not self._tokens.allows(_authorization(handler_call_details)):
            return grpc.stream_unary_rpc_method_handler(self._refuse)
        task = asyncio.current_task()
        if task is None or self._limited or self._unread >= self._most_unread or not turns.is_free(self._unread):
            return grpc.stream_unary_rpc_method_handler(partial(self._in_turn, method))
        call = _Unread(self)
        self._unread += 1
        # A call that ends before its message has come never gets to its handler.
        task.add_done_callback(call.is_read)
        return grpc.unary_unary_rpc_method_handler(partial(self._at_once, method, call))

    def read(self) -> None:
        """The message of one more call has come, or never will."""
        self._unread -= 1

    async def _refuse(self, _messages: AsyncIterator[bytes], context: Context) -> bytes:
        return await self._fail(context, UnauthenticatedError("a bearer token that is known here is required"))

    async def _at_once(self, method: _Method, call: "_Unread", request: bytes, context: Context) -> bytes:
        call.is_read()
        message = [request]
        del request
        with self._in_flight.request(context.peer()) as held:
            held.begin()
            return await self._answer(method, held, message, context)

    async def _in_turn(self, method: _Method, _messages: AsyncIterator[bytes], context: Context) -> bytes:
        with self._in_flight.request(context.peer()) as held:
            try:
                await held.turn()
                with held.reading():
                    message = [await self._read(context)]
            except Exception as error:  # noqa: BLE001  # also where there is no memory for the message
                refused = error
            else:
                return await self._answer(method, held, message, context)
        return await self._fail(context, refused)

    async def _read(self, context: Context) -> bytes:
        # Not from the iterator: that keeps what it gave, for as long as grpc keeps the call.
        try:
            async with asyncio.timeout(_READ_SECONDS):
                await self._reads.acquire()
        except TimeoutError:
            raise UnavailableError("other calls are still being read", reason="in_flight") from None
        try:
            async with asyncio.timeout(BODY_SECONDS):
                message = await context.read()
        except TimeoutError:
            raise UnavailableError(f"no message came within {BODY_SECONDS:g} s", reason="slow_body") from None
        finally:
            self._reads.release()
        if not isinstance(message, bytes):
            raise RejectedError("the call has no message", reason="truncated")
        return message

    async def _answer(self, method: _Method, held: Held, message: list[bytes], context: Context) -> bytes:
        """The response, with errors as statuses. ``message``: what is in it is taken out.

        An abort is kept by grpc with its frames, which keep what is grpc's: the request must be in none of them, or it
        stays until garbage is collected.
        """

        def take(size: int) -> None:
            held.take(self._times * size)

        try:
            take(len(message[0]))
            await held.read(len(message[0]))
            encoding = encoding_of(message[0])
            if encoding != "identity":
                message[0] = await unpack(encoding, message[0], self._max_bytes, take, held.unpacking)
            if not method.stores:
                held.end_turn()
            return await method.export(message.pop())
        except Exception as error:  # noqa: BLE001  # whatever a request does, the server stays up
            refused = error
        message.clear()
        return await self._fail(context, refused)

    async def _fail(self, context: Context, error: Exception) -> bytes:
        self._intake.count_refusal(error)
        # The frames in which it came about have the request too, and those of what it was raised from.
        error.__traceback__ = error.__cause__ = error.__context__ = None
        await _abort(context, error)
        raise AssertionError("abort returned")


class _Unread:
    """A call whose message is on its way."""

    __slots__ = ("_methods",)

    def __init__(self, methods: _Methods) -> None:
        self._methods: _Methods | None = methods

    def is_read(self, _task: object = None) -> None:
        """It is no longer; said more than once it counts once."""
        if self._methods is not None:
            self._methods.read()
            self._methods = None


async def _abort(context: Context, error: Exception) -> None:
    status = otlp_failure(error)
    trailing: tuple[tuple[str, bytes], ...] = (("grpc-status-details-bin", status.SerializeToString()),)
    seconds = retry_after(error)
    if seconds is not None:
        # Where OpenTelemetry's Python exporter looks for the delay, instead of in the status.
        trailing += (("google.rpc.retryinfo-bin", retry_info(seconds).SerializeToString()),)
    await context.abort(refusal_of(error).grpc, status.message, trailing)


def _authorization(details: grpc.HandlerCallDetails) -> str | None:
    for key, value in details.invocation_metadata or ():
        if key == "authorization":
            return value if isinstance(value, str) else value.decode("utf-8", "surrogateescape")
    return None


def _credentials(tls: ServerTls) -> grpc.ServerCredentials:
    # grpc says only that the port could not be bound when a file is wrong.
    tls_context(tls.cert_file, tls.key_file, tls.client_ca_file)
    authority = Path(tls.client_ca_file).read_bytes() if tls.client_ca_file is not None else None
    pair = (Path(tls.key_file).read_bytes(), Path(tls.cert_file).read_bytes())
    return grpc.ssl_server_credentials([pair], authority, require_client_auth=authority is not None)
