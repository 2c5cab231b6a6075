"""Metrics and logs, passed through unread: the answer to the sender is the exporters' answer."""

import asyncio
from collections.abc import Mapping, Sequence

from grafter.consumer import Exporter, PassThrough, Signal
from grafter.errors import RejectedError
from grafter.telemetry import Metrics


class Forwarding(PassThrough):
    """Forwards each signal to the exporters of its pipeline."""

    def __init__(self, exporters: Mapping[Signal, Sequence[Exporter]], metrics: Metrics) -> None:
        self._exporters = exporters
        self._metrics = metrics

    @property
    def signals(self) -> frozenset[Signal]:
        """The signals that have a pipeline."""
        return frozenset(self._exporters)

    async def forward(self, signal: Signal, request: bytes) -> None:
        """See PassThrough. One exporter that cannot take it makes the sender try again, for all of them."""
        answers = await asyncio.gather(
            *(exporter.forward(signal, request) for exporter in self._exporters[signal]), return_exceptions=True
        )
        failures = [answer for answer in answers if isinstance(answer, BaseException)]
        # A retry can still help when one failure is passing; it never helps against a refusal.
        failures.sort(key=lambda failure: not isinstance(failure, RejectedError))
        outcome = "forwarded"
        if failures:
            outcome = "refused" if isinstance(failures[0], RejectedError) else "unavailable"
        self._metrics.passed_requests.labels(signal.value, outcome).inc()
        if failures:
            raise failures[0]
