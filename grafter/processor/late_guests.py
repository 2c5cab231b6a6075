"""Guests that are held under a key of their own: without a link, or with a host that was released before.

The core decides; this room fetches the memories that the decision needs, a round trip for all claims together, and
moves a guest under its host when the host turns out to be held.
"""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

from grafter.core.lifecycle import Decision, Release, ReleaseReason, Wait, step_guest
from grafter.core.memory import GuestMemory
from grafter.core.model import Key, Source, TraceId, UnixNano, called, openai_trace_id
from grafter.core.policy import SECOND, GraftPolicy, Mode, Unlinked
from grafter.core.state import GuestState
from grafter.processor.assembling import Assembler
from grafter.processor.realtime_guests import (
    has_ended,
    is_call,
    is_final,
    is_large,
    only_named,
    session_keys,
    sip_host,
    spans_of,
)
from grafter.processor.release_result import Assembled
from grafter.store.base import Claim, Store, StoredPart

# In stream mode nothing wakes a guest when its anchor comes, so it is looked at this often while it waits.
_ANCHOR_POLL = SECOND // 2
_MAX_HOSTS = 100_000
# From here on a join takes more than some 50 ms, and runs beside the loop.
LARGE_BYTES, LARGE_GUEST = 2 << 20, 500


@dataclass(frozen=True, slots=True)
class _Known:
    """What was found of one guest's host."""

    guest: GuestState
    host: TraceId | None
    released: bool
    recalled: Mapping[bytes, bytes]


class LateGuests:
    """Decides and assembles guest keys for the processor."""

    def __init__(self, store: Store, policy: GraftPolicy, assembler: Assembler) -> None:
        self._store = store
        self._policy = policy
        self._assembler = assembler
        self._stream = policy.mode is Mode.STREAM
        self._hosts: dict[Key, TraceId | None] = {}
        """The host that the last attempt of a guest found; for attempts that have to be made again."""

    async def decide(self, claims: Sequence[Claim], now: UnixNano) -> list[tuple[Claim, Decision]]:
        """One decision a claim that stays this caller's; a claim that was moved to its host has none."""
        decisions: list[tuple[Claim, Decision]] = []
        for claim, known in zip(claims, await self._known(claims, now), strict=True):
            if known.host is not None and not known.released and not self._stream:
                # The host is held, or nothing is known of it yet: either way the guest waits there.
                await self._store.move(claim, Key(known.host))
                continue
            if known.host is None and known.guest.source is Source.REALTIME:
                named = await self._by_sip(claim, known, now)
                if named is None:
                    continue
                known = named
            decision = await self._step(claim, known, now)
            if isinstance(decision, Release) and known.host is None and await self._found_by_id(claim, known, now):
                continue
            decisions.append((claim, decision))
        return decisions

    async def assemble(
        self, claim: Claim, parts: Sequence[StoredPart], reason: ReleaseReason, now: UnixNano, *, pinned: bool
    ) -> Assembled:
        """What leaves of a guest whose release was decided.

        ``pinned``: an export of these parts was begun, so the host is the one that was found then, whatever has become
        known since.
        """
        if pinned:
            # A claim's state knows of all parts; those that the first attempt did not see must not speak here.
            said = (part.guest.host for part in parts if part.guest is not None and part.guest.host is not None)
            _guest(claim).host = next(said, None)
        (known,) = await self._known([claim], now)
        host, recalled = known.host, known.recalled
        if pinned and claim.key in self._hosts:
            host = self._hosts[claim.key]
            if host is not None and Key(host) not in recalled:
                recalled = {**recalled, **await self._memory(host, now)}
        elif host is None:
            host, recalled = await self._host_by_id(known, now)
            sip = sip_host(parts, recalled) if host is None and is_call(parts) else None
            if sip is not None and (found := await self._memory(sip, now)):
                host, recalled = sip, {**known.recalled, **found}
        if host is None and self._policy.unlinked is Unlinked.DROP:
            read = spans_of(parts, recalled, self._policy) if is_call(parts) else 0
            dropped = read or sum(part.spans for part in parts)
            # Of a call there may be nothing yet but what its SIP headers say, which is remembered.
            if dropped or not is_call(parts):
                return Assembled(None, dropped=dropped, dropped_reason="unlinked", read=read)
        if len(self._hosts) >= _MAX_HOSTS:
            self._hosts.clear()
        self._hosts[claim.key] = host
        waits = self._policy.waits
        overdue = self._stream and now >= claim.state.last + min(waits.for_guest, waits.idle)
        final = is_final(parts, known.guest, reason, self._policy, now) if is_call(parts) else True
        assemble = partial(
            self._assembler.guest, claim.key, known.guest, parts, now, host, recalled, overdue=overdue, final=final
        )
        large = claim.state.bytes > LARGE_BYTES or claim.state.guest_spans > LARGE_GUEST or is_large(claim.state)
        assembled = await asyncio.to_thread(assemble) if large else assemble()
        if host is not None and reason is ReleaseReason.UNLINKED:
            assembled.reason = ReleaseReason.LATE_GUEST
        return assembled

    async def _step(self, claim: Claim, known: _Known, now: UnixNano) -> Decision:
        anchor_known = False
        memory = _own_memory(claim.key, known.recalled)
        if memory is not None and memory.sent and known.guest.source is not Source.REALTIME:
            # What left before counts: the rest is whole when nothing that it names is missing.
            known.guest.head = known.guest.top_level = True
        if known.guest.source is Source.REALTIME and memory is not None:
            known.guest.ended |= has_ended(memory.head, goes_on=known.guest.head)
        guest = known.guest
        # Of a call that runs there may be nothing yet that could leave: then its next part wakes it.
        polled = self._stream and known.host is not None
        polled = polled and (guest.source is not Source.REALTIME or guest.top_level or guest.ended)
        if polled and known.host is not None and known.recalled:
            (parts,) = await self._store.read([claim])
            anchor_known = self._assembler.anchor_known(parts, known.host, known.recalled)
        decision = step_guest(
            claim.state,
            now,
            self._policy,
            host_released=known.host is not None,
            anchor_known=anchor_known,
            missing_ok=frozenset(memory.sent_ids()) if memory is not None else frozenset(),
        )
        if polled and isinstance(decision, Wait):
            return Wait(UnixNano(min(decision.until, now + _ANCHOR_POLL)))
        return decision

    async def _known(self, claims: Sequence[Claim], now: UnixNano) -> list[_Known]:
        """The guests' own memories first: they may hold the link; then the hosts'."""
        own = await self._store.recall([claim.key for claim in claims], now)
        hosts: list[TraceId | None] = []
        for claim, memory in zip(claims, own, strict=True):
            host = _guest(claim).host
            if host is None and memory is not None and memory.host is not None:
                host = TraceId(memory.host)
            hosts.append(host)
        wanted = [Key(host) for host in {h for h in hosts if h is not None}]
        sessions: list[list[Key]] = []
        for claim, memory in zip(claims, own, strict=True):
            call = memory is not None and _guest(claim).source is Source.REALTIME
            sessions.append(session_keys([memory.blob]) if memory is not None and call else [])
            wanted += sessions[-1]
        found = {m.key: m.blob for m in await self._store.recall(wanted, now) if m is not None} if wanted else {}
        known = []
        for claim, memory, host, keys in zip(claims, own, hosts, sessions, strict=True):
            recalled: dict[bytes, bytes] = {memory.key: memory.blob} if memory is not None else {}
            recalled |= {key: found[key] for key in keys if key in found}
            if host is not None and Key(host) in found:
                recalled[host] = found[Key(host)]
            known.append(_Known(_guest(claim), host, host is not None and Key(host) in found, recalled))
        return known

    async def _found_by_id(self, claim: Claim, known: _Known, now: UnixNano) -> bool:
        """An OpenAI trace id may spell the trace id of a host that is held: then the guest moves there."""
        named = openai_trace_id(called(known.guest.guest))
        if named is None or self._stream or not await self._store.held(Key(named)):
            return False
        return await self._store.move(claim, Key(named))

    async def _by_sip(self, claim: Claim, known: _Known, now: UnixNano) -> _Known | None:
        """The same with the host that a SIP header names, should it have come; None when the call was moved to it."""
        (parts,) = await self._store.read([claim])
        named = sip_host(parts, known.recalled)
        if named is None or only_named(parts):
            # A host that it was moved to would wait for a call of which nothing may ever come.
            return known
        if not self._stream and await self._store.held(Key(named)):
            await self._store.move(claim, Key(named))
            return None
        found = await self._memory(named, now)
        return replace(known, host=named, released=True, recalled={**known.recalled, **found}) if found else known

    async def _host_by_id(self, known: _Known, now: UnixNano) -> tuple[TraceId | None, Mapping[bytes, bytes]]:
        """… or of a host that was released before."""
        named = openai_trace_id(called(known.guest.guest))
        found = await self._memory(named, now) if named is not None else {}
        return (named, {**known.recalled, **found}) if found else (None, known.recalled)

    async def _memory(self, host: TraceId, now: UnixNano) -> dict[bytes, bytes]:
        (memory,) = await self._store.recall([Key(host)], now)
        return {} if memory is None else {memory.key: memory.blob}


def _guest(claim: Claim) -> GuestState:
    """A guest's own key holds that guest alone."""
    (guest,) = claim.state.guests.values()
    return guest


def _own_memory(key: Key, recalled: Mapping[bytes, bytes]) -> GuestMemory | None:
    return GuestMemory.decode(recalled[key]) if key in recalled else None
