"""What both OTLP servers do with a request once they have its bytes: split, store, count, answer.

They differ in how bytes and answers travel; what is true of a request stands here once.
"""

import asyncio
import logging
from collections.abc import Awaitable, Mapping, Sequence
from time import perf_counter
from typing import Protocol

from grafter.consumer import Consumer, Exporter, PassThrough, Signal
from grafter.errors import RejectedError, UnavailableError
from grafter.logs import Throttle
from grafter.otlp.from_json import Oddities
from grafter.otlp.split import Splitter
from grafter.otlp.status import partial_success
from grafter.receiver.outcomes import Outcome, log_refusal, reason_of, refusal_of
from grafter.tasks import in_thread
from grafter.telemetry import Metrics

_log = logging.getLogger(__name__)

MAX_BYTES = 64 << 20
"""The largest request, before and after decompression. Source: OTLP 1.11, "Request size limits"."""

_LONG_BYTES = 8 << 20
"""To split as much takes some 20 ms; more is split in a thread, so that others do not wait for it."""

RECEIVER = "otlp"

NOTHING_ODD = Oddities()


class Export(Protocol):
    """Takes a serialised request, and what was odd where it was read from JSON; returns a serialised response."""

    def __call__(self, request: bytes, odd: Oddities = ..., /) -> Awaitable[bytes]: ...


class Intake:
    """One server's way to the store, with its counters."""

    def __init__(
        self,
        consumer: Consumer,
        splitter: Splitter,
        metrics: Metrics,
        transport: str,
        pass_through: PassThrough | None = None,
        signals: frozenset[Signal] = frozenset(),
    ) -> None:
        """``signals``: those beside traces that are taken, for ``pass_through``."""
        self.signals = signals
        self._consumer = consumer
        self._splitter = splitter
        self._pass_through = pass_through
        self._metrics = metrics
        self._transport = transport
        self._throttle = Throttle()
        # What several long ones are split into at once would be more than the budget of requests.
        self._aside = asyncio.Lock()
        # Children are looked up once: labels() costs more than the increment.
        self._accepted_spans = metrics.accepted_spans.labels(RECEIVER, transport)
        self._accepted = metrics.receiver_requests.labels(RECEIVER, transport, Outcome.ACCEPTED.value)
        self._seconds = metrics.receiver_seconds.labels(RECEIVER)

    async def traces(self, request: bytes, odd: Oddities = NOTHING_ODD) -> bytes:
        """Store the spans of one ExportTraceServiceRequest; the serialised response.

        What was not taken of it, or not as it came, stands in the response as ``partial_success``.

        Raises RejectedError or UnavailableError; then nothing was acknowledged.
        """
        began = perf_counter()
        if len(request) <= _LONG_BYTES:
            split = self._splitter.split(request)
        else:
            async with self._aside:
                split = await in_thread(self._splitter.split, request, aside=True)
        if split.parts:
            try:
                await self._consumer.consume(split.parts, links=split.links)
            except Exception as error:
                self._refused_spans(split.spans, reason_of(error))
                raise
            self._accepted_spans.inc(split.spans)
        self._accepted.inc()
        self._seconds.observe(perf_counter() - began)
        if split.rejected:
            self._refused_spans(split.rejected, "invalid_id")
        return self._partial(odd, split.rejected, split.message) if split.rejected or odd.first else b""

    async def passed(self, signal: Signal, request: bytes, odd: Oddities = NOTHING_ODD) -> bytes:
        """Send one metrics or logs request on, unread; the serialised response.

        Raises RejectedError or UnavailableError.
        """
        assert self._pass_through is not None
        began = perf_counter()
        await self._pass_through.forward(signal, request)
        self._accepted.inc()
        self._seconds.observe(perf_counter() - began)
        return self._partial(odd, 0, "") if odd.first else b""

    def _partial(self, odd: Oddities, rejected: int, message: str) -> bytes:
        """The response of a request of which something was left out or mended, and now and then a line in the log."""
        if odd.rejected:
            self._refused_spans(odd.rejected, "odd_shape")
        messages = [message] if message else []
        if odd.first:
            messages.append(f"OTLP JSON: {odd.first} ({odd.rejected} items rejected, {odd.mended} values mended)")
        message = "; ".join(messages)
        if requests := self._throttle.due("partial"):
            _log.warning(
                "requests were not taken as they came",
                extra={"transport": self._transport, "reason": message, "requests": requests},
            )
        return partial_success(rejected + odd.rejected, message)

    def count_refusal(self, error: Exception) -> None:
        """Count a request that was not accepted. A bug is logged, with its traceback."""
        outcome = refusal_of(error).outcome
        self._metrics.receiver_requests.labels(RECEIVER, self._transport, outcome.value).inc()
        if outcome is Outcome.ERROR:
            _log.error("request failed", exc_info=error, extra={"transport": self._transport})
        else:
            log_refusal(self._throttle, error, self._transport)

    def _refused_spans(self, spans: int, reason: str) -> None:
        self._metrics.refused_spans.labels(RECEIVER, self._transport, reason).inc(spans)


class Forwarding(PassThrough):
    """Metrics and logs, passed through unread to the exporters of their pipeline, whose answer is the sender's."""

    def __init__(self, exporters: Mapping[Signal, Sequence[Exporter]], metrics: Metrics) -> None:
        self._exporters = exporters
        self._metrics = metrics

    @property
    def signals(self) -> frozenset[Signal]:
        return frozenset(self._exporters)

    async def forward(self, signal: Signal, request: bytes) -> None:
        """See PassThrough. Every exporter is given the request, whatever the others say of it.

        One that cannot take it now makes the sender try again, for all of them: a copy too many is better than none.
        """
        answers = await asyncio.gather(
            *(exporter.forward(signal, request) for exporter in self._exporters[signal]), return_exceptions=True
        )
        failures = [answer for answer in answers if isinstance(answer, BaseException)]
        # Said to be refused, the sender would forget what another exporter would still have taken.
        for kind, outcome in ((UnavailableError, "unavailable"), (RejectedError, "refused"), (BaseException, "error")):
            for failure in failures:
                if isinstance(failure, kind):
                    self._metrics.passed_requests.labels(signal.value, outcome).inc()
                    raise failure
        self._metrics.passed_requests.labels(signal.value, "forwarded").inc()
