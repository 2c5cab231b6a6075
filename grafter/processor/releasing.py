"""Decided claims to what the delivery takes: read in slices, assembled once, in batches of what one request may have.

One trace that cannot be read or assembled is tried again alone, and holds up no other. Of a claim of which an export
was begun the same parts are read again, and the same comes of them.
"""

import logging
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass

from grafter.core.lifecycle import ReleaseReason
from grafter.core.memory_blobs import decode_trace
from grafter.core.model import Key, TraceId, UnixNano, guest_key, is_guest_key
from grafter.core.policy import GraftPolicy, Mode
from grafter.errors import UnavailableError
from grafter.guests.sources import source_of
from grafter.otlp import build
from grafter.processor.assembling import Assembler
from grafter.processor.delivery import FINAL, Delivery
from grafter.processor.guest_keys import Found, GuestKeys, assembled_in_agreement
from grafter.processor.lanes import Limits
from grafter.processor.plain_traces import PlainRelease, assemble_plain
from grafter.processor.release_result import Assembled, Work
from grafter.processor.rules import Target
from grafter.processor.sampling import host_trace, late_guest
from grafter.store.base import Store
from grafter.store.model import Claim, Outcome, PlainBatch, StoredPart

logger = logging.getLogger(__name__)

# Payload that is read and assembled at a time: bounds memory when many large traces are due together.
_READ_BYTES = 32 << 20


@dataclass(frozen=True, slots=True)
class Due:
    """A claim that is to be released now."""

    claim: Claim
    reason: ReleaseReason
    due: UnixNano | None = None
    """When its wait ended; None where there was none."""
    found: Found | None = None
    """What a guest's key was decided by. None: a host's key, or one of which an export was begun."""
    target: Target | None = None
    """Under which other trace it is to leave, by a rule."""


def export_begun(claim: Claim) -> bool:
    """An export of the claim's parts was begun, and some of it may have arrived."""
    return any(outcome is not Outcome.WITHDRAWN for outcome in claim.outcomes.values())


def in_slices(due: Sequence[Due]) -> Iterable[list[Due]]:
    """The due claims in runs of about _READ_BYTES."""
    some: list[Due] = []
    size = 0
    large: dict[Hashable, int] = {}
    for one in due:
        claim = one.claim
        own = claim.state.bytes - sum([large.get(each, 0) for each in claim.envelopes])
        if some and size + own > _READ_BYTES:
            yield some
            some, size, large, own = [], 0, {}, claim.state.bytes
        some.append(one)
        size += own
        large.update(claim.envelopes)
    if some:
        yield some


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Releases:
    """Reads and assembles; what leaves nothing behind is settled at once."""

    store: Store
    policy: GraftPolicy
    assembler: Assembler
    guest_keys: GuestKeys
    delivery: Delivery
    limits: Limits
    """How large a batch is."""

    async def assemble(self, some: Sequence[Due] | PlainBatch, now: UnixNano) -> Iterable[list[Work] | PlainRelease]:
        """Read and assemble what leaves, a batch at a time; what leaves nothing behind is settled here."""
        if not isinstance(some, PlainBatch):
            return self._batches(await self._assemble_each(some, now))
        try:
            return [assemble_plain(some, await self.store.read(some), now)]
        except Exception as error:  # noqa: BLE001  # whatever it is, one by one it shows whose it is
            logger.warning("a batch of traces is tried one by one: %s", type(error).__name__)
            await self.store.postpone([(claim, now) for claim in await self.store.split(some)])
            return []

    async def _assemble_each(self, due: Sequence[Due], now: UnixNano) -> list[Work]:
        works = []
        held: list[tuple[Claim, UnixNano]] = []
        room = self.assembler.sampling is not None and self._has_room()
        for one, parts in zip(due, await self._read_all(due), strict=True):
            if parts is None:
                continue
            claim = one.claim
            try:
                assembled = await self._assemble_one(one, parts, now, room=room)
            except UnavailableError as error:
                await self.delivery.leases.put_off(claim, error, now)
                continue
            except Exception as error:  # noqa: BLE001  # one trace that cannot be assembled must not hold up the others
                await self.delivery.quarantine.assembling(claim, parts, error, now)
                continue
            if assembled.held_until is not None:
                held.append((claim, assembled.held_until))
                continue
            work = Work(claim, assembled.reason or one.reason, assembled, dict(claim.outcomes))
            if self.delivery.lanes.alone is None:
                if claim.outcomes and claim.key not in self.delivery.begun:
                    work.earlier = [name for name, outcome in claim.outcomes.items() if outcome in FINAL]
                self.delivery.begun[claim.key] = one.reason
            works.append(work)
        if held:
            await self.store.postpone(held)
        empty = [w for w in works if w.assembled.trace is None]
        if empty:
            await self.delivery.settle(empty)
            works = [w for w in works if w.assembled.trace is not None]
        return works

    def _has_room(self) -> bool:
        """Incomplete traces may stay beyond their waits: together they never take more than half of the store."""
        stats = self.store.stats()
        return 2 * stats.bytes <= stats.limit_bytes

    async def _read_all(self, due: Sequence[Due]) -> list[Sequence[StoredPart] | None]:
        """The parts of each claim, of which some were read to decide; None for one that cannot be read."""
        known: dict[int, Sequence[StoredPart] | None] = {}
        for one in due:
            if one.found is not None and one.found.parts is not None:
                known[id(one.claim)] = one.found.parts.parts
        wanted = [one.claim for one in due if id(one.claim) not in known]
        if wanted:
            read = await self.delivery.quarantine.read(wanted, lambda _, parts: parts)
            known.update(zip(map(id, wanted), read, strict=True))
        return [known[id(one.claim)] for one in due]

    async def _assemble_one(self, due: Due, parts: Sequence[StoredPart], now: UnixNano, *, room: bool) -> Assembled:
        claim, state = due.claim, due.claim.state
        if is_guest_key(claim.key):
            return await self.guest_keys.assemble(claim, parts, due.reason, now, due.found)
        target = due.target
        late = state.remembered or self.policy.mode is Mode.STREAM or target is not None
        recalled = await self._recall(claim, parts, target, now) if state.guests or late else {}
        assembler, sampling = self.assembler, self.assembler.sampling

        def assemble(summed: str) -> Assembled:
            out = assembler.host(claim.key, state, parts, due.reason, now, recalled, target, summed)
            if sampling is None:
                return out
            begun = export_begun(claim)
            standing = host_trace(claim.key, state, due.reason, recalled, due.due, room=room, begun=begun)
            if target is not None:
                complete = due.reason is ReleaseReason.COMPLETE
                known: dict[bytes, bytes] = {Key(target.host): target.blob}
                standing = late_guest(claim.key, target.host, known, complete=complete, begun=begun)
            return sampling.apply(out, standing, now)

        return await assembled_in_agreement(self.store, TraceId(claim.key), state, assemble, now)

    async def _recall(
        self, claim: Claim, parts: Sequence[StoredPart], target: Target | None, now: UnixNano
    ) -> dict[bytes, bytes]:
        """The memories that matter to a host's key: its own, its guests', those that these name, and of the steps that
        guests took which left before."""
        sources = {guest_key(name): source_of(guest.source) for name, guest in claim.state.guests.items()}
        found: dict[bytes, bytes] = {}
        for memory in await self.store.recall([claim.key, *sources], now):
            if memory is not None:
                found[memory.key] = memory.blob
        further = [key for own, source in sources.items() if own in found for key in source.further_keys(found[own])]
        own = decode_trace(found[claim.key]) if claim.key in found else None
        under = TraceId(claim.key) if target is None else target.host
        if own is not None and own.moved is not None:
            under = own.moved.host
            further.append(Key(under))
        if claim.state.remembered or self.policy.mode is Mode.STREAM or target is not None:
            further += self.assembler.named_steps(under, parts)
        if further:
            found |= {m.key: m.blob for m in await self.store.recall(further, now) if m is not None}
        return found

    def _batches(self, works: Sequence[Work]) -> Iterable[list[Work]]:
        batch: list[Work] = []
        spans = size = 0
        large = build.LargeEnvelopes()
        for work in works:
            trace = work.assembled.trace
            assert trace is not None
            own = work.assembled.size + large.add_trace(trace)
            if batch and (spans + trace.spans > self.limits.batch_spans or size + own > self.limits.batch_bytes):
                yield batch
                batch, spans, size = [], 0, 0
                large = build.LargeEnvelopes()
                own = work.assembled.size + large.add_trace(trace)
            batch.append(work)
            spans += trace.spans
            size += own
        if batch:
            yield batch
