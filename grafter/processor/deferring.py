"""Backlogs: what some exporters have and another has not, put off for that one and sent to it when it takes something.

A batch of a backlog is laid out for the store as host parts: the spans of all its traces by envelope, and as the head
of each part whose those are. So it takes next to nothing of the index, nothing is decoded or joined for it a second
time, and what arrives late is byte for byte what arrived elsewhere.
"""

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import islice
from struct import Struct
from struct import error as StructError

from grafter.consumer import Batch, OutTrace, Piece, Result, Verdict
from grafter.core.model import Envelope, Key, Part, UnixNano
from grafter.core.policy import SECOND
from grafter.errors import UnavailableError
from grafter.processor.lanes import Lane, Limits
from grafter.processor.leases import Leases
from grafter.processor.quarantine import DEATHS, FULL_BOX_SECONDS, Quarantine, Refused, RefusedTraces, taken_of
from grafter.processor.release_result import Work
from grafter.store.base import Store
from grafter.store.model import DISK_FULL, Claim, Outcome, Settlement, StoredPart
from grafter.telemetry import Metrics

logger = logging.getLogger(__name__)

# After which a batch of an exporter that takes nothing, and was handed out all the same, is looked at again.
_DOWN_SECONDS = 10.0
# The same of one on which a process ended: while that is looked at nothing else is.
_SUSPECT_SECONDS = 60.0
# Batches that are claimed at a time to be sent together.
_FEW, _MANY = 8, 256
_OWNER = Struct("<B17sBII")
"""Before the next spans of a part's payload: length of their trace's key, the key, RESEND or 0, spans, their bytes."""
_RESEND = 1
# A part is read and written as a whole.
_PART_BYTES = 1 << 20


@dataclass(slots=True)
class DeferredBatch:
    traces: list[OutTrace]
    runs: list[tuple[Envelope, list[bytes]]] | None
    """All payloads by envelope, where none of the spans has to be marked."""
    spans: int
    size: int


@dataclass(slots=True, eq=False, repr=False)
class Deferring:
    """Keeps batches in the backlogs, and takes them out."""

    store: Store
    metrics: Metrics
    clock: Callable[[], int]
    limits: Limits
    """How much goes out together."""
    leases: Leases
    refused: RefusedTraces
    quarantine: Quarantine
    _together: dict[str, int] = field(default_factory=dict)
    """By exporter: how many of its batches were enough for one request last time, about."""

    async def keep(self, exporter: str, traces: Sequence[OutTrace], *, resend: bool = False) -> None:
        """Put these off for an exporter. Before, an intent for it has to stand for what they are of; after, that is to
        be settled. ``resend``: what became of an attempt is unknown. Raises UnavailableError."""
        await self.store.defer(exporter, _laid_out(traces, resend=resend), UnixNano(self.clock()))
        self.metrics.deferred_spans.labels(exporter).inc(sum([trace.spans for trace in traces]))

    async def keep_all(self, waiting: Mapping[str, Sequence[Work]]) -> list[Work]:
        """Put off, for each exporter, what it alone has not got; the works that could not be, which stay held.

        What is somebody else's by now is left to them: they have not heard of an intent that could not be stored.
        """
        left: dict[int, Work] = {}
        kept: list[tuple[str, Work]] = []
        for name, works in waiting.items():
            mine: list[Work] = []
            try:
                mine = await self._intended(name, works)
                if mine:
                    await self.keep(name, [w.trace_for(name) for w in mine])
            except UnavailableError as error:
                self.leases.store_is_away(error)
                left |= {id(work): work for work in works}
                # Before there was an intent, nothing was put off.
                unknown = bool(mine) and error.reason != DISK_FULL
                for work in works:
                    work.retry_after = max(work.retry_after, 1.0)
                    if unknown:
                        work.may_be_with(name)
                    elif work.outcomes.get(name) is None:
                        work.void.add(name)
            else:
                kept += [(name, work) for work in mine]
        for name in waiting if left else ():
            # These are that exporter's backlog by now, and must not be put off for it again.
            again = [work for of, work in kept if of == name and id(work) in left]
            for work in again:
                work.outcomes[name] = Outcome.ACCEPTED
                work.void.discard(name)
            if again:
                await self.store.record([work.claim for work in again], name, Outcome.ACCEPTED)
        return list(left.values())

    async def _intended(self, name: str, works: Sequence[Work]) -> list[Work]:
        """Those for which an intent stands, of which all that are not known to be somebody else's get one."""
        new = [w for w in works if w.outcomes.get(name) is None and name not in w.void]
        if not new:
            return list(works)
        owned = await self.store.record([w.claim for w in new], name, Outcome.INTENDED)
        lost = {id(work) for work, own in zip(new, owned, strict=True) if not own}
        return [work for work in works if id(work) not in lost] if lost else list(works)

    async def take_up(self, lane: Lane, now: UnixNano) -> list[list[Claim]]:
        """What may be sent of a lane's backlog now, as much together as goes in one request."""
        sends: list[list[Claim]] = []
        places = lane.places_for_backlog
        while len(sends) < places:
            claims = await self.store.claim_deferred(lane.name, now, self._together.get(lane.name, _FEW))
            some: list[Claim] = []
            spans = size = 0
            for claim in claims:
                spans, size = spans + claim.state.host_spans, size + claim.state.bytes
                if some and (spans > self.limits.batch_spans or size > self.limits.batch_bytes):
                    break
                some.append(claim)
            if len(some) < len(claims):
                await self.store.postpone([(claim, now) for claim in claims[len(some) :]])
                self._together[lane.name] = len(some)
            elif some:
                self._together[lane.name] = min(2 * len(some), _MANY)
            if not some:
                break
            sends.append(some)
        return sends

    async def send(self, lane: Lane | None, claims: Sequence[Claim]) -> None:
        """Batches to their exporter, and what follows from the answer; where that takes nothing they wait. They have
        their lane's place."""
        try:
            with self.leases.leased(claims):
                for claim in [claim for claim in claims if claim.deaths >= DEATHS]:
                    reason = f"ended the process {claim.deaths} times"
                    found = await self._read(claim.waits_for, [claim])
                    results = [Result(Verdict.REFUSED, reason) for _, batch in found for _ in batch.traces]
                    await self._conclude(claim.waits_for, found, results)
                others = [claim for claim in claims if claim.deaths < DEATHS]
                if lane is None or lane.is_down:
                    later = [(claim, _SUSPECT_SECONDS if claim.deaths else _DOWN_SECONDS) for claim in others]
                    await self._postpone(later, untouched=True)
                else:
                    await self._send(lane, others)
        except UnavailableError as error:
            self.leases.store_is_away(error)
        except Exception:
            logger.exception("a batch of a backlog failed; it is tried again when its lease ends")

    async def _read(self, name: str, claims: Sequence[Claim]) -> list[tuple[Claim, DeferredBatch]]:
        """Those that can be read; one that cannot, while others can, is set aside and given up in the end."""
        if not claims:
            return []
        read = await self.quarantine.read(claims, partial(_read_back, name))
        return [(claim, batch) for claim, batch in zip(claims, read, strict=True) if batch is not None]

    async def _send(self, lane: Lane, claims: Sequence[Claim]) -> None:
        read = await self._read(lane.name, claims)
        owned = await self.store.record([claim for claim, _ in read], lane.name, Outcome.INTENDED) if read else ()
        found = [one for one, own in zip(read, owned, strict=True) if own]
        if found:
            batch = _together([one for _, one in found])
            await self._conclude(lane.name, found, await lane.timed(lambda exporter: exporter.export(batch)))

    async def _conclude(
        self, name: str, found: Sequence[tuple[Claim, DeferredBatch]], results: Sequence[Result]
    ) -> None:
        """Settle each batch of which something was taken, the rest of it being put off anew; give back the others."""
        done: list[Claim] = []
        spans = 0
        void: list[Claim] = []
        later: list[tuple[Claim, float]] = []
        answers = iter(results)
        for claim, batch in found:
            own = list(islice(answers, len(batch.traces)))
            gone = sum(
                [trace.spans for trace, one in zip(batch.traces, own, strict=True) if one.verdict is Verdict.ACCEPTED]
            )
            try:
                left, wait = await self._left(name, batch.traces, own)
                if left and len(left) < len(batch.traces):
                    gone = batch.spans - sum([trace.spans for trace in left])
                    await self.keep(name, left)
            except UnavailableError as error:
                # An intent stands for all of it; the other batches must not go out again for it.
                self.leases.store_is_away(error)
                spans += gone
                later.append((claim, error.retry_after))
                continue
            if len(left) == len(batch.traces):
                was_known = claim.outcomes.get(name) is not Outcome.INTENDED
                if was_known and not any(result.unknown or result.part for result in own):
                    void.append(claim)
                later.append((claim, wait))
                continue
            done.append(claim)
            spans += batch.spans
        if done:
            now = UnixNano(self.clock())
            settlements = [Settlement(claim) for claim in done]
            await self.leases.until_settled(lambda: self.store.settle(settlements, now))
        # Also of what was taken of batches that go out once more: they are resumed as often as they are sent.
        self.metrics.resumed_spans.labels(name).inc(spans)
        if void:
            await self.store.record(void, name, Outcome.WITHDRAWN)
        if later:
            # A deadly one that finds no room in the dead-letter box comes alone, and was not sent.
            await self._postpone(later, untouched=all(claim.deaths >= DEATHS for claim, _ in later))

    async def _left(
        self, name: str, traces: Sequence[OutTrace], results: Sequence[Result]
    ) -> tuple[list[OutTrace], float]:
        """What is neither taken nor in the dead-letter box, and after how many seconds to try again."""
        left: list[OutTrace] = []
        refused: list[Refused] = []
        wait = self.leases.tick_seconds
        for trace, result in zip(traces, results, strict=True):
            if result.verdict is Verdict.REFUSED:
                refused.append((trace.key, trace, result))
            elif result.verdict is Verdict.LATER:
                wait = max(wait, result.retry_after)
                left.append(replace(trace, resend=True) if result.unknown else trace)
        kept = await self.refused.keep(name, refused) if refused else 0
        for _, trace, result in refused[kept:]:
            wait = max(wait, FULL_BOX_SECONDS)
            left.append(replace(trace, resend=True) if taken_of(trace, result) else trace)
        return left, wait

    async def _postpone(self, claims: Sequence[tuple[Claim, float]], *, untouched: bool = False) -> None:
        now = self.clock()
        later = [(claim, UnixNano(now + int(seconds * SECOND))) for claim, seconds in claims]
        await self.store.postpone(later, untouched=untouched)


def _laid_out(traces: Sequence[OutTrace], *, resend: bool = False) -> list[Part]:
    """The parts of a batch. ``resend``: an attempt has an unknown outcome, whatever the traces say."""
    parts: list[Part] = []
    open_: dict[tuple[bytes, bytes], tuple[Envelope, list[bytes], list[bytes], list[int]]] = {}

    def close(envelope: Envelope, heads: list[bytes], payloads: list[bytes], spans: list[int]) -> None:
        parts.append(Part(Key(b""), b"".join(payloads), sum(spans), envelope, span_ids=b"".join(heads)))

    sizes: dict[tuple[bytes, bytes], int] = {}
    for trace in traces:
        key, flags = bytes(trace.key), _RESEND if resend or trace.resend else 0
        for piece in trace.pieces:
            envelope, size = piece.envelope, len(piece.payload)
            of = (envelope.resource, envelope.scope)
            run = open_.get(of)
            if run is not None and sizes[of] + size > _PART_BYTES:
                close(*open_.pop(of))
                run = None
            if run is None:
                run = open_[of] = (envelope, [], [], [])
                sizes[of] = 0
            sizes[of] += size
            run[1].append(_OWNER.pack(len(key), key, flags, piece.spans, size))
            run[2].append(piece.payload)
            run[3].append(piece.spans)
    for run in open_.values():
        close(*run)
    return parts


def _together(batches: Sequence[DeferredBatch]) -> Batch:
    """Several of them for the exporter, trace by trace in their order."""
    runs: list[tuple[Envelope, list[bytes]]] = []
    for batch in batches:
        runs += batch.runs or ()
    traces = [trace for batch in batches for trace in batch.traces]
    spans, size = sum([batch.spans for batch in batches]), sum([batch.size for batch in batches])
    return Batch(traces, spans, size, runs if all(batch.runs is not None for batch in batches) else None)


def _read_back(exporter: str, claim: Claim, parts: Sequence[StoredPart]) -> DeferredBatch:
    """Raises UnavailableError where nothing of it is there, or something else."""
    # It was on its way before, with an unknown outcome.
    resend = claim.outcomes.get(exporter) is Outcome.INTENDED
    pieces: dict[bytes, list[Piece]] = {}
    marked: set[bytes] = set()
    runs: list[tuple[Envelope, list[bytes]]] = []
    try:
        for part in parts:
            assert part.envelope is not None
            runs.append((part.envelope, [part.payload]))
            at = 0
            for length, padded, flags, spans, size in _OWNER.iter_unpack(part.span_ids):
                key = padded[:length]
                pieces.setdefault(key, []).append(Piece(part.envelope, part.payload[at : at + size], spans))
                at += size
                if flags & _RESEND:
                    marked.add(key)
    except StructError as error:
        raise UnavailableError(f"a batch of a backlog is damaged: {error}", reason="store_down") from error
    if not pieces:
        raise UnavailableError("nothing is left of a batch of a backlog", reason="store_down")
    traces = [
        OutTrace(Key(key), tuple(own), sum([piece.spans for piece in own]), resend=resend or key in marked)
        for key, own in pieces.items()
    ]
    some_marked = resend or bool(marked)
    spans = sum([part.spans for part in parts])
    return DeferredBatch(traces, None if some_marked else runs, spans, sum([len(part.payload) for part in parts]))
