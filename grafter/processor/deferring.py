"""What one exporter alone has not got is put off for it, and sent when it takes something: its backlog at work."""

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from grafter.consumer import OutTrace, Result, Verdict
from grafter.core.model import UnixNano
from grafter.core.policy import SECOND
from grafter.errors import UnavailableError
from grafter.processor.backlog import DeferredBatch, laid_out, read_back
from grafter.processor.lanes import Lane
from grafter.processor.leases import Leases
from grafter.processor.quarantine import DEATHS, FULL_BOX_SECONDS
from grafter.processor.refused import Refused, RefusedTraces
from grafter.processor.release_result import Work
from grafter.store.base import Claim, Outcome, Settlement, Store
from grafter.telemetry import Metrics

logger = logging.getLogger(__name__)

# After which a batch of an exporter that takes nothing, and was handed out all the same, is looked at again.
_DOWN_SECONDS = 10.0


class Deferring:
    """Keeps batches in the backlogs, and takes them out."""

    def __init__(
        self, store: Store, metrics: Metrics, clock: Callable[[], int], leases: Leases, refused: RefusedTraces
    ) -> None:
        self._store = store
        self._metrics = metrics
        self._clock = clock
        self._leases = leases
        self._refused = refused

    async def keep(self, exporter: str, traces: Sequence[OutTrace], *, resend: bool = False) -> None:
        """Put these off for an exporter. Before, an intent for it has to stand for what they are of; after, that is to
        be settled. ``resend``: what became of an attempt is unknown. Raises UnavailableError."""
        await self._store.defer(exporter, laid_out(traces, resend=resend), UnixNano(self._clock()))
        self._metrics.deferred_spans.labels(exporter).inc(sum([trace.spans for trace in traces]))

    async def keep_all(self, waiting: Mapping[str, Sequence[Work]]) -> list[Work]:
        """Put off, for each exporter, what it alone has not got; the works that could not be, which stay held."""
        left: dict[int, Work] = {}
        kept: list[tuple[str, Work]] = []
        for name, works in waiting.items():
            try:
                new = [w.claim for w in works if w.outcomes.get(name) is None and name not in w.void]
                if new:
                    await self._store.record(new, name, Outcome.INTENDED)
                traces = [w.trace_for(name) for w in works]
                await self.keep(name, traces)
            except UnavailableError as error:
                self._leases.store_is_away(error)
                left |= {id(work): work for work in works}
                for work in works:
                    work.retry_after = max(work.retry_after, 1.0)
                    if work.outcomes.get(name) is None:
                        work.void.add(name)
            else:
                kept += [(name, work) for work in works]
        for name in waiting if left else ():
            # These are that exporter's backlog by now, and must not be put off for it again.
            again = [work for of, work in kept if of == name and id(work) in left]
            for work in again:
                work.outcomes[name] = Outcome.ACCEPTED
            if again:
                await self._store.record([work.claim for work in again], name, Outcome.ACCEPTED)
        return list(left.values())

    async def send(self, lane: Lane | None, claim: Claim) -> None:
        """One batch to its exporter, and what follows from the answer; where that takes nothing it waits."""
        try:
            if lane is None or lane.is_down:
                await self._postpone(claim, _DOWN_SECONDS)
                return
            with lane.place(backlog=True), self._leases.leased([claim]):
                (parts,) = await self._store.read([claim])
                resend = claim.outcomes.get(lane.name) is Outcome.INTENDED
                await self._send(lane, claim, read_back(parts, resend=resend))
        except UnavailableError as error:
            self._leases.store_is_away(error)
        except Exception:
            logger.exception("a batch of a backlog failed; it is tried again when its lease ends")

    async def _send(self, lane: Lane, claim: Claim, found: DeferredBatch) -> None:
        name = lane.name
        results: Sequence[Result]
        if claim.deaths >= DEATHS:
            reason = f"ended the process {claim.deaths} times"
            results = [Result(Verdict.REFUSED, reason)] * len(found.traces)
        else:
            (own,) = await self._store.record([claim], name, Outcome.INTENDED)
            if not own:
                return
            results = await lane.ask(lambda exporter: exporter.export(found.batch()))
        left, wait = await self._left(name, found.traces, results)
        if len(left) == len(found.traces):
            was_known = claim.outcomes.get(name) is not Outcome.INTENDED
            if was_known and not any(result.unknown or result.part for result in results):
                await self._store.record([claim], name, Outcome.WITHDRAWN)
            await self._postpone(claim, wait)
            return
        if left:
            await self.keep(name, left)
        await self._leases.until_settled(lambda: self._store.settle([Settlement(claim)], UnixNano(self._clock())))
        self._metrics.resumed_spans.labels(name).inc(found.spans)

    async def _left(
        self, name: str, traces: Sequence[OutTrace], results: Sequence[Result]
    ) -> tuple[list[OutTrace], float]:
        """What is neither taken nor in the dead-letter box, and after how many seconds to try again."""
        left: list[OutTrace] = []
        refused: list[Refused] = []
        wait = self._leases.tick_seconds
        for trace, result in zip(traces, results, strict=True):
            if result.verdict is Verdict.REFUSED:
                refused.append((trace.key, trace, result))
            elif result.verdict is Verdict.LATER:
                wait = max(wait, result.retry_after)
                left.append(replace(trace, resend=True) if result.unknown else trace)
        kept = await self._refused.keep(name, refused) if refused else 0
        for _, trace, result in refused[kept:]:
            wait = max(wait, FULL_BOX_SECONDS)
            taken = trace.spans - result.part.spans if result.part is not None else 0
            # What the peer took of it was counted as sent, and goes out once more with the rest.
            self._metrics.recovered_spans.inc(taken)
            left.append(replace(trace, resend=True) if taken else trace)
        return left, wait

    async def _postpone(self, claim: Claim, seconds: float) -> None:
        await self._store.postpone([(claim, UnixNano(self._clock() + int(seconds * SECOND)))])
