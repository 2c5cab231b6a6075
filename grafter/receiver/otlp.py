"""What both OTLP doors do with a request once they have its bytes: split, store, count, answer.

The doors differ in how bytes and answers travel; what is true of a request is said here once.
"""

import logging
from collections.abc import Awaitable, Callable
from time import perf_counter
from typing import Protocol

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceResponse

from grafter.consumer import Consumer, PassThrough, Signal
from grafter.errors import RejectedError, TooLargeError, UnavailableError
from grafter.otlp.split import Split
from grafter.otlp.status import Code, Status
from grafter.telemetry import Metrics

_log = logging.getLogger(__name__)

MAX_BYTES = 64 << 20
"""The largest request, before and after decompression. Source: OTLP 1.11, "Request size limits"."""

RECEIVER = "otlp"

Answer = Callable[[bytes], Awaitable[bytes]]
"""Takes a serialised request, returns a serialised response."""


class SplitterLike(Protocol):
    """What takes a request apart."""

    def split(self, request: bytes) -> Split:
        """The parts of one ExportTraceServiceRequest. Raises RejectedError when the bytes are none."""
        ...


class Intake:
    """One door's way to the store, with its counters."""

    def __init__(
        self,
        consumer: Consumer,
        splitter: SplitterLike,
        metrics: Metrics,
        transport: str,
        pass_through: PassThrough | None = None,
    ) -> None:
        self._consumer = consumer
        self._splitter = splitter
        self._pass_through = pass_through
        self._metrics = metrics
        self._transport = transport
        # Children are looked up once: labels() costs more than the increment.
        self._accepted_spans = metrics.accepted_spans.labels(RECEIVER, transport)
        self._accepted = metrics.receiver_requests.labels(RECEIVER, transport, "accepted")
        self._seconds = metrics.receiver_seconds.labels(RECEIVER)

    async def traces(self, request: bytes) -> bytes:
        """Store the spans of one ExportTraceServiceRequest; the serialised response.

        Raises RejectedError or UnavailableError; then nothing was acknowledged.
        """
        began = perf_counter()
        split = self._splitter.split(request)
        if split.parts:
            try:
                await self._consumer.consume(split.parts)
            except (RejectedError, UnavailableError) as error:
                self._refused_spans(split.spans, error.reason)
                raise
            self._accepted_spans.inc(split.spans)
        self._accepted.inc()
        self._seconds.observe(perf_counter() - began)
        if not split.rejected:
            return b""
        self._refused_spans(split.rejected, "invalid_id")
        return _partial_success(split.rejected, split.message)

    async def passed(self, signal: Signal, request: bytes) -> bytes:
        """Send one metrics or logs request on, unread; the serialised response.

        Raises RejectedError or UnavailableError.
        """
        if self._pass_through is None:
            raise ValueError(f"no pass-through for {signal}")
        began = perf_counter()
        await self._pass_through.forward(signal, request)
        self._accepted.inc()
        self._seconds.observe(perf_counter() - began)
        return b""

    def refusal(self, error: Exception) -> Status:
        """What to answer when a request failed, counted. A bug is logged here, with its traceback."""
        if isinstance(error, UnavailableError):
            self.count("unavailable")
            return Status(Code.UNAVAILABLE, str(error), retry_after=error.retry_after)
        if isinstance(error, TooLargeError):
            self.count("too_large")
            return Status(Code.RESOURCE_EXHAUSTED, str(error))
        if isinstance(error, RejectedError):
            self.count("rejected")
            return Status(Code.INVALID_ARGUMENT, str(error), violation=str(error))
        self.count("error")
        _log.error("request failed", exc_info=error, extra={"transport": self._transport})
        return Status(Code.INTERNAL, "internal error")

    def unauthenticated(self) -> Status:
        """What to answer to a missing or wrong token, counted."""
        self.count("unauthenticated")
        return Status(Code.UNAUTHENTICATED, "a bearer token that is known here is required")

    def count(self, outcome: str) -> None:
        """Count a request that was not accepted."""
        self._metrics.receiver_requests.labels(RECEIVER, self._transport, outcome).inc()

    def _refused_spans(self, spans: int, reason: str) -> None:
        self._metrics.refused_spans.labels(RECEIVER, self._transport, reason).inc(spans)


def _partial_success(rejected: int, message: str) -> bytes:
    response = ExportTraceServiceResponse()
    response.partial_success.rejected_spans = rejected
    response.partial_success.error_message = message
    return response.SerializeToString()
