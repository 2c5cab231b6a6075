"""The way of plain traces: handed out, sent and settled many at a time, one by one only when something went wrong."""

import logging
from collections.abc import Awaitable, Callable, Sequence

from grafter.consumer import Batch, Exporter, Result, Verdict
from grafter.core.lifecycle import ReleaseReason
from grafter.core.model import UnixNano
from grafter.processor.plain_traces import bundled
from grafter.processor.release_result import Work
from grafter.store.base import Bundle, Store
from grafter.telemetry import Metrics

logger = logging.getLogger(__name__)

# Small traces: what has to be done for each of them should not hold the loop for too long.
_TRACES = 1000
_Left = tuple[list[Work], Sequence[Result]]
_NOTHING_LEFT: _Left = ([], [])


class Bundles:
    """Bundles on their way to one exporter."""

    def __init__(
        self,
        store: Store,
        exporter: Exporter,
        metrics: Metrics,
        clock: Callable[[], int],
        spans: int,
        size: int,
        until_settled: Callable[[Callable[[], Awaitable[bool]]], Awaitable[bool]],
    ) -> None:
        """``spans`` and ``size`` (bytes): how much goes out at a time."""
        self._until_settled = until_settled
        self.exporter = exporter
        self._store = store
        self._metrics = metrics
        self._clock = clock
        self._spans = spans
        self._size = size
        self._out: set[Bundle] = set()

    async def next(self, now: UnixNano) -> Bundle | None:
        """The plain traces that are due earliest; whoever gets them says ``done`` in the end."""
        bundle = await self._store.bundle(now, _TRACES, self._spans, self._size)
        if bundle is not None:
            self._out.add(bundle)
        return bundle

    def is_small(self, bundle: Bundle) -> bool:
        """It is far from every limit and ends before none that is large, so that it has all there was."""
        if bundle.more:
            return False
        return 2 * bundle.spans < self._spans and 2 * bundle.size < self._size and 2 * len(bundle.keys) < _TRACES

    def done(self, bundle: Bundle) -> None:
        """Nothing more will be done about it as a whole."""
        self._out.discard(bundle)

    async def renew(self) -> None:
        """Keep the leases of what is on its way."""
        for bundle in list(self._out):
            await self._store.renew_bundle(bundle, UnixNano(self._clock()))

    async def send(self, bundle: Bundle, now: UnixNano) -> _Left:
        """Send and settle; unless all of it was taken, each trace as a claim, with what the exporter said of it.

        Raises UnavailableError; then its traces are due again when their lease ends.
        """
        store = self._store
        try:
            out = bundled(bundle, await store.read_bundle(bundle), now)
        except Exception as error:  # noqa: BLE001  # whatever it is, one by one it shows whose it is
            logger.warning("a batch of traces is tried one by one: %s", type(error).__name__)
            self.done(bundle)
            await store.postpone([(claim, now) for claim in await store.open_bundle(bundle)])
            return _NOTHING_LEFT
        if not await store.intend_bundle(bundle, self.exporter.name):
            return _NOTHING_LEFT
        results = await self.exporter.export(Batch(out.traces, out.spans, out.size, out.runs))
        if all([result.verdict is Verdict.ACCEPTED for result in results]):  # noqa: C419  # a list is faster here
            moment = UnixNano(self._clock())
            if await self._until_settled(lambda: store.settle_bundle(bundle, out.blobs, moment)):
                self._metrics.released_traces.labels(ReleaseReason.COMPLETE.value).inc(len(bundle.keys))
                if out.merged:
                    self._metrics.merged_spans.labels("repeat").inc(out.merged)
            else:
                # They were sent, and are held all the same: whoever owns them now sends them again.
                self._metrics.recovered_spans.inc(out.spans)
            return _NOTHING_LEFT
        self.done(bundle)
        claims = await store.open_bundle(bundle)
        works = [
            Work(claim, ReleaseReason.COMPLETE, out.assembled(i, bundle.counts[i])) for i, claim in enumerate(claims)
        ]
        return works, results
