"""From a batch of traces to their settlement: what exporters are given, what they say, and what follows from it.

An exporter's intent is stored before bytes leave and its outcome after, so that only what has an unknown outcome is
ever sent again. With several exporters nobody waits for one that is slow or down: what the others have is put off for
it, and settled.
"""

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import TypeVar

from grafter.consumer import Batch, Exporter, OutTrace, Result, Verdict
from grafter.core.lifecycle import ReleaseReason
from grafter.core.model import Key, UnixNano
from grafter.core.policy import SECOND
from grafter.errors import UnavailableError
from grafter.otlp import build
from grafter.processor.call_records import CallRecords
from grafter.processor.deferring import Deferring
from grafter.processor.lanes import SOON_SECONDS, Lane, Lanes, Limits, Place
from grafter.processor.leases import Leases
from grafter.processor.plain_traces import PlainRelease
from grafter.processor.quarantine import FULL_BOX_SECONDS, Quarantine, RefusedTraces, taken_of
from grafter.processor.release_result import Work
from grafter.store.base import Store
from grafter.store.model import DISK_FULL, Claim, Outcome, PlainSettlement, Settlement
from grafter.tasks import task_group
from grafter.telemetry import Metrics

logger = logging.getLogger(__name__)

_T = TypeVar("_T")
_ACCEPTED = Result(Verdict.ACCEPTED)
FINAL = frozenset({Outcome.ACCEPTED, Outcome.REFUSED})
"""Outcomes after which an exporter is not asked again."""


class Delivery:
    """All exporters, and what is noted in the store of what they did."""

    def __init__(
        self,
        store: Store,
        exporters: Sequence[Exporter],
        metrics: Metrics,
        clock: Callable[[], int],
        limits: Limits,
        calls: CallRecords | None = None,
    ) -> None:
        """``calls``: writes down what is of a call; None: nobody does."""
        self.begun: dict[Key, ReleaseReason] = {}
        """Why a key was released whose exporters have not all answered yet."""
        self.lanes = Lanes(exporters, limits.in_flight)
        self.leases = Leases(store, clock, limits.tick_seconds)
        self._store = store
        self._metrics = metrics
        self._clock = clock
        self._tick_seconds = limits.tick_seconds
        self._calls = calls
        self.quarantine = Quarantine(store, metrics, clock)
        self._refused = RefusedTraces(store, metrics, clock)
        self.deferring = Deferring(store, metrics, clock, limits, self.leases, self._refused, self.quarantine)

    def down_for(self, lanes: Iterable[Lane]) -> float:
        """Seconds until the first of these is worth a try; 0 when one is up now."""
        return min((lane.exporter.retry_in() for lane in lanes), default=0.0)

    def pending(self, claim: Claim) -> list[Lane]:
        """Those that have no final outcome for it."""
        return [lane for lane in self.lanes if claim.outcomes.get(lane.name) not in FINAL]

    async def send(self, released: list[Work] | PlainRelease, place: Place) -> None:
        """One batch to every exporter that has no outcome for it yet, then what follows from the answers.

        Its place is left as soon as it waits for slow exporters alone.
        """
        alone = self.lanes.alone
        try:
            if isinstance(released, PlainRelease):
                with self.leases.leased(released.claims):
                    if alone is not None:
                        await self._send_plain_to(alone, released)
                        return
                    async with self.lanes.taking_part() as taking_part:
                        await self._send_plain_to_all(taking_part, released, place)
                return
            with self.leases.leased([work.claim for work in released]):
                await (self._export_to_all(released, place) if alone is None else self._export(alone, released))
                await self._conclude(released)
        except UnavailableError as error:
            self.leases.store_is_away(error)
        except Exception:
            logger.exception("a batch failed; its traces are tried again when their leases end")

    async def _send_plain_to(self, lane: Lane, plain: PlainRelease) -> None:
        """Plain traces to the one exporter, as one while all is well; else each is concluded by what was said of it."""
        (own,) = await self._store.record(plain.claims, lane.name, Outcome.INTENDED)
        if not own:
            return
        results = await lane.exporter.export(plain.batch())
        if all([result.verdict is Verdict.ACCEPTED for result in results]):  # noqa: C419  # a list is faster here
            await self._settle_plain(plain)
            return
        works, at = await self._split(plain)
        with self.leases.leased([work.claim for work in works]):
            await self._record(lane.name, works, [work.trace for work in works], [results[i] for i in at])
            await self._conclude(works)

    async def _send_plain_to_all(self, taking_part: Mapping[Lane, Place], plain: PlainRelease, place: Place) -> None:
        """The same to several: as one while each takes all of it, or has all of it put off."""
        batch = plain.batch()
        intents = [self._store.record(plain.claims, lane.name, Outcome.INTENDED) for lane in self.lanes]
        if not all([own for (own,) in await asyncio.gather(*intents)]):  # noqa: C419  # a list is faster here
            return
        async with self._answers(
            taking_part, lambda lane: lane.timed(lambda exporter: exporter.export(batch)), place
        ) as answers:
            put_off: dict[str, Outcome] = {}
            if all(answer.done() for answer in answers.values()) and await self._settle_as_one(plain, answers, put_off):
                return
            works, at = await self._split(plain)
            traces = [work.trace for work in works]
            left_out = {lane.name for lane in self.lanes if lane not in answers and lane.name not in put_off}
            for work in works:
                work.void |= left_out
            with self.leases.leased([work.claim for work in works]):
                for name, outcome in put_off.items():
                    if outcome is Outcome.ACCEPTED:
                        await self._record(name, works, traces, [_ACCEPTED] * len(works))
                failures: list[Exception] = []
                for lane, answer in sorted(answers.items(), key=lambda one: not one[1].done()):
                    if put_off.get(lane.name) is Outcome.ACCEPTED:
                        continue
                    try:
                        results = await answer
                        await self._record(lane.name, works, traces, [results[i] for i in at])
                    except Exception as error:  # noqa: BLE001  # raised below: it must not cut off one on its way
                        failures.append(error)
                if failures:
                    raise failures[0]
                for name, outcome in put_off.items():
                    if outcome is Outcome.INTENDED:
                        for work in works:
                            work.may_be_with(name)
                await self._conclude(works)

    async def _settle_as_one(
        self, plain: PlainRelease, answers: dict[Lane, asyncio.Future[Sequence[Result]]], put_off: dict[str, Outcome]
    ) -> bool:
        """Whether that could be done. ``put_off`` gets the exporters that have it in their backlogs (ACCEPTED) or may
        have it there (INTENDED), also when the store took it for some alone."""
        waiting: list[tuple[str, bool]] = []
        for lane in self.lanes:
            results = answers[lane].result() if lane in answers else ()
            verdicts = {(result.verdict, result.unknown) for result in results}
            if len(verdicts) > 1 or (Verdict.REFUSED, False) in verdicts:
                return False
            if verdicts != {(Verdict.ACCEPTED, False)}:
                waiting.append((lane.name, (Verdict.LATER, True) in verdicts))
        if len(waiting) == len(self.lanes):
            return False
        for name, unknown in waiting:
            try:
                await self.deferring.keep(name, plain.traces, resend=unknown)
            except UnavailableError as error:
                self.leases.store_is_away(error)
                if error.reason != DISK_FULL:
                    put_off[name] = Outcome.INTENDED
                return False
            put_off[name] = Outcome.ACCEPTED
        await self._settle_plain(plain)
        return True

    async def _split(self, plain: PlainRelease) -> tuple[list[Work], list[int]]:
        """Its traces one by one, with the place of each in the batch."""
        claims = await self._store.split(plain.claims)
        places = {key: i for i, key in enumerate(plain.claims.keys)}
        at = [places[claim.key] for claim in claims]
        return [plain.work(i, claim) for i, claim in zip(at, claims, strict=True)], at

    @asynccontextmanager
    async def _answers(
        self, lanes: Mapping[Lane, Place], send: Callable[[Lane], Awaitable[_T]], place: Place
    ) -> AsyncIterator[dict[Lane, asyncio.Future[_T]]]:
        """Have each do it, for as long as the context is open; entered when all have done so, or some are slow. Who
        has done so leaves its place."""

        async def one(lane: Lane, answer: asyncio.Future[_T]) -> None:
            try:
                answer.set_result(await send(lane))
            except Exception as error:  # noqa: BLE001  # it is for who waits for the answer, and cuts off no other
                answer.set_exception(error)
            finally:
                lanes[lane].leave()

        loop = asyncio.get_running_loop()
        answers: dict[Lane, asyncio.Future[_T]] = {lane: loop.create_future() for lane in lanes}
        async with task_group() as tasks:
            for lane, answer in answers.items():
                tasks.create_task(one(lane, answer), name=f"processor.send {lane.name}")
            if answers:
                await asyncio.wait(answers.values(), timeout=SOON_SECONDS)
            if late := [lane for lane, answer in answers.items() if not answer.done()]:
                for lane in late:
                    lane.slow = True
                place.leave()
            yield answers

    async def _export_to_all(self, works: list[Work], place: Place) -> None:
        """To those that take part now; each answer is stored when it comes."""
        async with self.lanes.taking_part() as taking_part:
            pending: dict[Lane, list[Work]] = {}
            for lane, own in taking_part.items():
                if mine := [w for w in works if w.outcomes.get(lane.name) not in FINAL]:
                    pending[lane] = mine
                else:
                    own.leave()
            places = {lane: taking_part[lane] for lane in pending}
            async with self._answers(places, lambda lane: self._export(lane, pending[lane]), place) as answers:
                # A failure of one must not cut off another on its way: what its backend has would go out again.
                for failure in await asyncio.gather(*answers.values(), return_exceptions=True):
                    if failure is not None:
                        raise failure

    async def _export(self, lane: Lane, works: list[Work]) -> None:
        name = lane.name
        owned = await self._store.record([w.claim for w in works], name, Outcome.INTENDED)
        works = [w for w, own in zip(works, owned, strict=True) if own]
        traces = [w.trace_for(name) for w in works]
        if not traces:
            return
        large = build.LargeEnvelopes()
        size = sum(w.assembled.size for w in works) + sum(map(large.add_trace, traces))
        batch = Batch(tuple(traces), sum(t.spans for t in traces), size)
        results = await lane.timed(lambda exporter: exporter.export(batch))
        await self._record(name, works, traces, results)

    async def _record(
        self, name: str, works: Sequence[Work], traces: Sequence[OutTrace], results: Sequence[Result]
    ) -> None:
        """Keep what an exporter answered for each trace."""
        refused: list[tuple[Work, OutTrace, Result]] = []
        withdrawn: list[Work] = []

        def not_taken(work: Work, retry_after: float, *, may_have_come: bool) -> None:
            work.retry_after = max(work.retry_after, retry_after)
            if may_have_come:
                work.outcomes[name] = Outcome.INTENDED
                self.begun[work.claim.key] = work.reason
            else:
                work.outcomes.pop(name, None)
                withdrawn.append(work)

        for work, trace, result in zip(works, traces, results, strict=True):
            if result.verdict is Verdict.ACCEPTED:
                work.outcomes[name] = Outcome.ACCEPTED
            elif result.verdict is Verdict.REFUSED:
                work.outcomes[name] = Outcome.REFUSED
                refused.append((work, trace, result))
            else:
                # LATER: nothing is known against the trace.
                again = max(result.retry_after, self._tick_seconds)
                not_taken(work, again, may_have_come=result.unknown or trace.resend)
        if len(self.lanes) > 1:
            for work in works:
                self.begun.setdefault(work.claim.key, work.reason)
            # Another exporter may take long, or the process may die: what this one answered has to be known by then.
            accepted = [w.claim for w in works if w.outcomes.get(name) is Outcome.ACCEPTED]
            if accepted:
                await self.leases.until_settled(lambda: self._store.record(accepted, name, Outcome.ACCEPTED))
        if refused:
            kept = await self._refused.keep(name, [(work.claim.key, trace, result) for work, trace, result in refused])
            if kept and len(self.lanes) > 1:
                claims = [work.claim for work, _, _ in refused[:kept]]
                await self.leases.until_settled(lambda: self._store.record(claims, name, Outcome.REFUSED))
            for work, trace, result in refused[kept:]:
                not_taken(work, FULL_BOX_SECONDS, may_have_come=taken_of(trace, result) > 0 or trace.resend)
        for work in withdrawn:
            work.void.add(name)
        if len(self.lanes) == 1:
            await self._withdraw(withdrawn)

    async def _withdraw(self, works: Sequence[Work]) -> None:
        """Have the store know of the intents that are void."""
        for name in {name for work in works for name in work.void}:
            await self._store.record([work.claim for work in works if name in work.void], name, Outcome.WITHDRAWN)

    async def _conclude(self, works: list[Work]) -> None:
        """Settle what every exporter has answered for good, or has in its backlog; note and give back the rest."""
        done: list[Work] = []
        rest: list[Work] = []
        waiting: dict[str, list[Work]] = {}
        for work in works:
            left = [lane.name for lane in self.lanes if work.outcomes.get(lane.name) not in FINAL]
            if len(left) == len(self.lanes):
                rest.append(work)
                continue
            done.append(work)
            for name in left:
                waiting.setdefault(name, []).append(work)
        if waiting:
            stay = await self.deferring.keep_all(waiting)
            rest += stay
            done = [work for work in done if work not in stay] if stay else done
        if done:
            await self.settle(done)
        if not rest:
            return
        if len(self.lanes) > 1:
            await self._withdraw(rest)
        now = self._clock()
        await self._store.postpone([(w.claim, UnixNano(now + int(w.retry_after * SECOND))) for w in rest])

    async def _settle_plain(self, plain: PlainRelease) -> None:
        now = UnixNano(self._clock())
        memories = plain.memories
        settlement = PlainSettlement(plain.claims, memories.blobs, memories.digests, memories.resources)
        calls = self._calls
        if calls is not None:
            await self.leases.until_settled(lambda: calls.keep_plain(plain))
        (own,) = await self.leases.until_settled(lambda: self._store.settle(settlement, now))
        if own:
            self._metrics.released_traces.labels(ReleaseReason.COMPLETE.value).inc(len(plain.traces))
            self._metrics.merged_spans.labels("repeat").inc(plain.merged)
        else:
            # They were sent, and are held all the same: whoever owns them now sends them again.
            self._metrics.recovered_spans.inc(plain.spans)

    async def settle(self, works: list[Work]) -> None:
        """Forget and remember what has left, or leaves nothing."""
        now = UnixNano(self._clock())
        # Before the settle: should the process die between the two, one look too many does no harm.
        follow_ups = [part for w in works if w.assembled.follow_ups for part in w.assembled.follow_ups]
        if follow_ups:
            try:
                await self._store.append(follow_ups, now)
            except UnavailableError as error:
                # Full: the place of a parent may stay empty, but what left must not leave again.
                logger.warning("parents that have not come will not be stood in for: %s", error)
        calls = self._calls
        if calls is not None:
            await self.leases.until_settled(lambda: calls.keep(works))
        settlements = [Settlement(w.claim, w.assembled.memories) for w in works]
        done = await self.leases.until_settled(lambda: self._store.settle(settlements, now))
        reasons: dict[ReleaseReason, int] = {}
        for work, own in zip(works, done, strict=True):
            self.begun.pop(work.claim.key, None)
            if own:
                reasons[work.reason] = reasons.get(work.reason, 0) + 1
                for name in work.earlier if work.assembled.trace is not None else ():
                    self._metrics.earlier_spans.labels(name).inc(work.trace.spans)
                if not work.assembled.plain:
                    work.assembled.count(self._metrics, work.reason)
            elif work.assembled.trace is not None and len(self.lanes) == 1:
                # They were sent, and are held all the same: whoever owns them now sends them again.
                self._metrics.recovered_spans.inc(work.assembled.trace.spans)
        for reason, releases in reasons.items():
            self._metrics.released_traces.labels(reason.value).inc(releases)
