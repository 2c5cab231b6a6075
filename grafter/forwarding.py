"""Metrics and logs, passed through unread: the answer to the sender is the exporters' answer."""

import asyncio
from collections.abc import Mapping, Sequence

from grafter.consumer import Exporter, PassThrough, Signal
from grafter.errors import RejectedError, UnavailableError
from grafter.telemetry import Metrics


class Forwarding(PassThrough):
    """Forwards each signal to the exporters of its pipeline."""

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
