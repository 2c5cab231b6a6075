"""From a batch of traces to their settlement: what exporters are given, what they say, and what follows from it.

An exporter's intent is stored before bytes leave and its outcome after, so that only what has an unknown outcome is
ever sent again.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import TypeVar

from grafter.consumer import Batch, Exporter, OutTrace, Result, Verdict
from grafter.core.lifecycle import ReleaseReason
from grafter.core.model import Key, UnixNano
from grafter.core.policy import SECOND
from grafter.errors import UnavailableError
from grafter.logs import Throttle
from grafter.otlp import build
from grafter.processor.call_records import CallRecords
from grafter.processor.plain_traces import PlainRelease
from grafter.processor.quarantine import FULL_BOX_SECONDS, count_pushed_out
from grafter.processor.release_result import Work
from grafter.store.base import Claim, Claims, DeadLetter, Outcome, PlainSettlement, Settlement, Store
from grafter.telemetry import Metrics

logger = logging.getLogger(__name__)

_T = TypeVar("_T")
_SECONDS_BETWEEN_WARNINGS = 30.0
_NAMED = 5
_FINAL = frozenset({Outcome.ACCEPTED, Outcome.REFUSED})


class Delivery:
    """All exporters, and what is noted in the store of what they did."""

    def __init__(
        self,
        store: Store,
        exporters: Sequence[Exporter],
        metrics: Metrics,
        clock: Callable[[], int],
        tick_seconds: float,
        calls: CallRecords | None = None,
    ) -> None:
        """``tick_seconds``: the shortest time after which something is tried again. ``calls``: writes down what is of
        a call; None: nobody does."""
        self.exporters = tuple(exporters)
        self.begun: dict[Key, ReleaseReason] = {}
        """Why a key was released whose exporters have not all answered yet."""
        self._store = store
        self._metrics = metrics
        self._clock = clock
        self._tick_seconds = tick_seconds
        self._calls = calls
        self._warn_after = 0.0
        self._throttle = Throttle()
        self._leased: dict[object, Sequence[Claims]] = {}

    @contextmanager
    def leased(self, *owned: Claims) -> Iterator[None]:
        """Their leases are renewed meanwhile."""
        # The same claims may be here twice, when they are sent while others that were claimed with them still wait.
        place = object()
        self._leased[place] = owned
        try:
            yield
        finally:
            del self._leased[place]

    async def renew(self) -> None:
        """Keep the leases of what is on its way."""
        for claims in {id(claims): claims for owned in self._leased.values() for claims in owned}.values():
            await self._store.renew(claims, UnixNano(self._clock()))

    def down_for(self, exporters: Iterable[Exporter]) -> float:
        """Seconds until the first of these is worth a try; 0 when one is up now."""
        return min((exporter.retry_in() for exporter in exporters), default=0.0)

    def pending(self, claim: Claim) -> list[Exporter]:
        """The exporters that have no final outcome for it."""
        return [e for e in self.exporters if claim.outcomes.get(e.name) not in _FINAL]

    def store_is_away(self, error: UnavailableError) -> None:
        """Say so, now and then."""
        # Each tick meets it; the metrics and /readyz say for how long.
        now = asyncio.get_running_loop().time()
        if now >= self._warn_after:
            self._warn_after = now + _SECONDS_BETWEEN_WARNINGS
            logger.warning("the store is not available: %s", error)

    async def send(self, released: list[Work] | PlainRelease) -> None:
        """One batch to every exporter that has no outcome for it yet, then what follows from the answers."""
        try:
            if isinstance(released, PlainRelease):
                with self.leased(released.claims):
                    await self._send_plain(released)
                return
            with self.leased([work.claim for work in released]):
                if len(self.exporters) == 1:
                    await self._export(self.exporters[0], released)
                else:
                    await self._export_to_all(released)
                await self._conclude(released)
        except UnavailableError as error:
            self.store_is_away(error)
        except Exception:
            logger.exception("a batch failed; its traces are tried again when their leases end")

    async def _send_plain(self, plain: PlainRelease) -> None:
        """Plain traces to the one exporter, as one while all is well; else each is concluded by what was said of it."""
        (exporter,) = self.exporters
        (own,) = await self._store.record(plain.claims, exporter.name, Outcome.INTENDED)
        if not own:
            return
        results = await exporter.export(Batch(plain.traces, plain.spans, plain.size, plain.runs))
        if all([result.verdict is Verdict.ACCEPTED for result in results]):  # noqa: C419  # a list is faster here
            await self._settle_plain(plain)
            return
        claims = await self._store.split(plain.claims)
        places = {key: i for i, key in enumerate(plain.claims.keys)}
        at = [places[claim.key] for claim in claims]
        works = [plain.work(i, claim) for i, claim in zip(at, claims, strict=True)]
        with self.leased(claims):
            await self._record(exporter.name, works, [work.trace for work in works], [results[i] for i in at])
            await self._conclude(works)

    async def _export_to_all(self, works: list[Work]) -> None:
        exports = []
        for exporter in self.exporters:
            pending = [w for w in works if w.outcomes.get(exporter.name) not in _FINAL]
            if pending:
                exports.append(self._export(exporter, pending))
        # A failure of one must not cut off another on its way: what its backend has would go out again.
        for failure in await asyncio.gather(*exports, return_exceptions=True):
            if failure is not None:
                raise failure

    async def _export(self, exporter: Exporter, works: list[Work]) -> None:
        name = exporter.name
        owned = await self._store.record([w.claim for w in works], name, Outcome.INTENDED)
        works = [w for w, own in zip(works, owned, strict=True) if own]
        traces = [_marked(w, w.outcomes.get(name) is Outcome.INTENDED) for w in works]
        if not traces:
            return
        batch = Batch(tuple(traces), sum(t.spans for t in traces), sum(w.assembled.size for w in works))
        await self._record(name, works, traces, await exporter.export(batch))

    async def _record(
        self, name: str, works: Sequence[Work], traces: Sequence[OutTrace], results: Sequence[Result]
    ) -> None:
        """Keep what an exporter answered for each trace."""
        refused: list[tuple[Work, OutTrace, Result]] = []
        withdrawn: list[Claim] = []
        for work, trace, result in zip(works, traces, results, strict=True):
            if result.verdict is Verdict.ACCEPTED:
                work.outcomes[name] = Outcome.ACCEPTED
            elif result.verdict is Verdict.REFUSED:
                work.outcomes[name] = Outcome.REFUSED
                refused.append((work, trace, result))
            else:
                # LATER: nothing is known against the trace.
                work.retry_after = max(work.retry_after, result.retry_after, self._tick_seconds)
                if result.unknown or trace.resend:
                    work.outcomes[name] = Outcome.INTENDED
                    self.begun[work.claim.key] = work.reason
                else:
                    work.outcomes.pop(name, None)
                    withdrawn.append(work.claim)
        if len(self.exporters) > 1:
            # Another exporter may take long, or the process may die: what this one answered has to be known by then.
            accepted = [w.claim for w in works if w.outcomes.get(name) is Outcome.ACCEPTED]
            if accepted:
                await self._until_settled(lambda: self._store.record(accepted, name, Outcome.ACCEPTED))
        if refused:
            kept = await self._keep_refused(name, refused)
            if kept and len(self.exporters) > 1:
                claims = [work.claim for work, _, _ in refused[:kept]]
                await self._until_settled(lambda: self._store.record(claims, name, Outcome.REFUSED))
            for work, trace, result in refused[kept:]:
                work.retry_after = max(work.retry_after, FULL_BOX_SECONDS)
                taken = trace.spans - result.part.spans if result.part is not None else 0
                # What the peer took of it was counted as sent, and goes out once more with the rest.
                self._metrics.recovered_spans.inc(taken)
                if taken or trace.resend:
                    work.outcomes[name] = Outcome.INTENDED
                    self.begun[work.claim.key] = work.reason
                else:
                    work.outcomes.pop(name, None)
                    withdrawn.append(work.claim)
        if withdrawn:
            await self._store.record(withdrawn, name, Outcome.WITHDRAWN)

    async def _keep_refused(self, exporter: str, refused: list[tuple[Work, OutTrace, Result]]) -> int:
        """What a peer refuses for good is kept with its reason: it is never lost in silence. How many are kept; there
        was no room for the others."""
        now = UnixNano(self._clock())
        parts = [(work.claim.key, result.reason, result.part or trace) for work, trace, result in refused]
        letters = [
            DeadLetter(key, exporter, reason, now, part.spans, build.request([part])) for key, reason, part in parts
        ]
        added = await self._store.add_dead_letters(letters)
        count_pushed_out(self._metrics, added.pushed_out)
        kept = letters[: added.kept]
        for letter in kept:
            self._metrics.dead_spans.labels(exporter, "refused").inc(letter.spans)
        if kept:
            logger.error(
                "%s refused %d traces for good; they are in the dead-letter box (%s): %s",
                exporter,
                len(kept),
                _named(kept),
                kept[0].reason,
            )
        left = letters[len(kept) :]
        # They are brought again and again.
        if left and self._throttle.due(exporter):
            logger.error(
                "the dead-letter box is full: %d traces that %s refused stay held (%s); see `grafter dead list`: %s",
                len(left),
                exporter,
                _named(left),
                left[0].reason,
            )
        return added.kept

    async def _conclude(self, works: list[Work]) -> None:
        """Settle what every exporter has answered for good; note and give back the rest."""
        names = [e.name for e in self.exporters]
        done: list[Work] = []
        rest: list[Work] = []
        for work in works:
            final = all([work.outcomes.get(name) in _FINAL for name in names])  # noqa: C419  # a list is faster here
            (done if final else rest).append(work)
        if done:
            await self.settle(done)
        if not rest:
            return
        now = self._clock()
        await self._store.postpone([(w.claim, UnixNano(now + int(w.retry_after * SECOND))) for w in rest])

    async def _until_settled(self, settle: Callable[[], Awaitable[_T]]) -> _T:
        """What ``settle`` says, asked until the store answers.

        A backend has the spans by then. Left alone they would go out a second time when their lease ends, for nobody
        would know that they came. Raises UnavailableError when the store is stopping: there will be no answer.
        """
        while True:
            try:
                return await settle()
            except UnavailableError as error:
                if error.reason == "stopping":
                    raise
                self.store_is_away(error)
            await asyncio.sleep(self._tick_seconds)

    async def _settle_plain(self, plain: PlainRelease) -> None:
        now = UnixNano(self._clock())
        settlement = PlainSettlement(plain.claims, plain.blobs)
        calls = self._calls
        if calls is not None:
            await self._until_settled(lambda: calls.keep_plain(plain))
        (own,) = await self._until_settled(lambda: self._store.settle(settlement, now))
        if own:
            self._metrics.released_traces.labels(ReleaseReason.COMPLETE.value).inc(len(plain.blobs))
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
            await self._until_settled(lambda: calls.keep(works))
        settlements = [Settlement(w.claim, w.assembled.memories) for w in works]
        done = await self._until_settled(lambda: self._store.settle(settlements, now))
        reasons: dict[ReleaseReason, int] = {}
        for work, own in zip(works, done, strict=True):
            self.begun.pop(work.claim.key, None)
            if own:
                reasons[work.reason] = reasons.get(work.reason, 0) + 1
                if not work.assembled.plain:
                    work.assembled.count(self._metrics, work.reason)
            elif work.assembled.trace is not None and len(self.exporters) == 1:
                # They were sent, and are held all the same: whoever owns them now sends them again.
                self._metrics.recovered_spans.inc(work.assembled.trace.spans)
        for reason, releases in reasons.items():
            self._metrics.released_traces.labels(reason.value).inc(releases)


def _named(letters: Sequence[DeadLetter]) -> str:
    """Their trace ids, as many as a line of a log can have."""
    ids = [letter.key.hex() for letter in letters[:_NAMED]]
    return ", ".join(ids) + (f" and {len(letters) - _NAMED} more" if len(letters) > _NAMED else "")


def _marked(work: Work, resend: bool) -> OutTrace:
    trace = work.assembled.trace
    assert trace is not None
    return OutTrace(trace.key, trace.pieces, trace.spans, resend=True) if resend else trace
