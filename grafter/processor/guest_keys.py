"""Guests that are held under a key of their own: without a link, or with a host that was released before.

The core decides; this room fetches the memories that the decision needs, a round trip for all claims together, and
moves a guest under its host when the host turns out to be held. What was found for the decision is what the release
is assembled from.
"""

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from grafter.core.explain import Refusal
from grafter.core.lifecycle import Decision, Release, ReleaseReason, Wait, is_over, is_overdue, step_guest, whole_at
from grafter.core.memory_blobs import decode_guest, decode_trace
from grafter.core.model import Key, NamedLink, TraceId, UnixNano, called, guest_key, openai_trace_id
from grafter.core.policy import SECOND, GraftPolicy, Mode
from grafter.core.state import GuestState, TraceState
from grafter.errors import UnavailableError
from grafter.guests.sources import RULES, source_of
from grafter.processor.assembling import Assembler
from grafter.processor.guest_parts import GuestParts
from grafter.processor.leases import Leases
from grafter.processor.linking import Linking, left_alone, taking_up
from grafter.processor.release_result import Assembled
from grafter.processor.sampling import late_guest
from grafter.store.base import Store
from grafter.store.model import Claim, StoredPart
from grafter.tasks import in_thread_if

logger = logging.getLogger(__name__)

# In stream mode nothing wakes a guest when its anchor comes, so it is looked at this often while it waits.
_ANCHOR_POLL = SECOND // 2
_MAX_HOSTS = 100_000
# Parts that were read to decide are kept until they are assembled, up to this payload; what is beyond is read again.
# It bounds memory when many long calls are due together.
_KEPT_BYTES = 32 << 20
# From so many spans on a join takes more than some 50 ms.
_LARGE_GUEST = 500
_LARGE_BYTES = 1 << 20
# Under which the store has a note of sums: no id of OpenAI's, nor a rule's, begins so.
_SUMS = "grafter.sums "


def is_large(state: TraceState) -> bool:
    """To read and join the parts of this key takes longer than other requests should wait: it runs beside the loop."""
    if state.guest_spans > _LARGE_GUEST or state.bytes > _LARGE_BYTES:
        return True
    return any(state.bytes > source_of(guest.source).large_bytes for guest in state.guests.values())


async def assembled_in_agreement(
    store: Store, host: TraceId | None, state: TraceState, assemble: Callable[[str], Assembled], now: UnixNano
) -> Assembled:
    """What ``assemble`` makes of a key's parts when it is told what the sums are of that others state beside the host.

    Those sums are of waits or of runs, whichever was stated first: both may lie within each other, so they are never
    added up (see ``latencies``). Guests that come late leave under keys of their own, two of them perhaps in one
    moment, or from two replicas, and none knows what another one states. So before the first sums beside a host that
    has left leave, what they are of is noted in the store under the host's id. A note that stands never changes,
    whoever asks: who finds the other kind there states no sums. The note of a release that never arrives stands too;
    then a sum is missing rather than there twice. Repeated, the answer is the same.

    Raises UnavailableError when the store cannot be asked; a full one can.
    """
    large = is_large(state)
    out = await in_thread_if(large, assemble, "")
    if host is None or not out.summed or out.trace is None:
        return out
    # An older version left a memory instead, under a guest's key of no guest.
    (memory,) = await store.recall([guest_key(f"\0sums:{host.hex()}")], now)
    older = None if memory is None else decode_trace(memory.blob)
    stated = older.summed if older is not None and older.summed else out.summed
    stands = await store.first_link(f"{_SUMS}{host.hex()}", stated, now)
    return out if stands == out.summed else await in_thread_if(large, assemble, stands)


@dataclass(slots=True)
class Found:
    """What is known of a guest; the decision adds to it what it finds on its way."""

    guest: GuestState
    host: TraceId | None
    recalled: Mapping[bytes, bytes]
    """The memories of the guest's key, of those that it names, and of the host."""
    parts: GuestParts | None = None
    """Its parts, where the decision had to read them."""
    refused: tuple[Refusal, ...] = ()
    """What was found and not used."""

    @property
    def released(self) -> bool:
        """The host was released before."""
        return self.host is not None and Key(self.host) in self.recalled


class GuestKeys:
    """Decides and assembles guest keys for the processor."""

    def __init__(
        self, store: Store, policy: GraftPolicy, assembler: Assembler, linking: Linking, leases: Leases
    ) -> None:
        self._store = store
        self._leases = leases
        self._linking = linking
        self._policy = policy
        self._assembler = assembler
        self._stream = policy.mode is Mode.STREAM
        self._hosts: dict[Key, TraceId | None] = {}
        """The host that the last attempt of a guest found; for attempts that have to be made again."""

    async def decide(self, claims: Sequence[Claim], now: UnixNano) -> list[tuple[Claim, Decision, Found]]:
        """One decision a claim that stays this caller's; a claim that was moved to its host has none, nor one that was
        given back because a link was found, or because the store did not take what it needs."""
        decisions: list[tuple[Claim, Decision, Found]] = []
        kept = 0
        guests = [_guest(claim) for claim in claims]
        everything = await self._find(claims, guests, now)
        unlinked = [called(known.guest.guest) for known in everything if known.host is None]
        named = await self._linking.find(unlinked, now) if unlinked else {}
        for claim, found in zip(claims, everything, strict=True):
            decision = None
            try:
                decision = await self._decide(claim, found, named, now)
            except UnavailableError as error:
                await self._leases.put_off(claim, error, now)
            if found.parts is not None and isinstance(decision, Release):
                kept += claim.state.bytes
            if kept > _KEPT_BYTES or not isinstance(decision, Release):
                found.parts = None
            if decision is not None:
                decisions.append((claim, decision, found))
        return decisions

    async def _decide(
        self, claim: Claim, found: Found, named: Mapping[str, NamedLink], now: UnixNano
    ) -> Decision | None:
        """None when the claim is no longer this caller's. ``named``: the links that were noted for guests."""
        link = named.get(called(found.guest.guest)) if found.host is None else None
        if link is not None and not _stays_alone(claim, found) and await self._by_name(claim, found, link, now):
            return None
        if found.host is not None and not found.released and not self._stream:
            # The host is held, or nothing is known of it yet: either way the guest waits there.
            await self._store.move(claim, Key(found.host))
            return None
        if found.host is None and source_of(found.guest.source).has_hints and await self._by_hint(claim, found, now):
            return None
        decision = await self._step(claim, found, now)
        if isinstance(decision, Release) and found.host is None:
            if await self._moved_by_id(claim, found):
                return None
            spelt = openai_trace_id(called(found.guest.guest))
            is_spelt = spelt is not None and bool(await self._memory(spelt, now))
            if not is_spelt and await self._by_content(claim, found, decision.reason, now):
                return None
        return decision

    async def assemble(
        self, claim: Claim, parts: Sequence[StoredPart], reason: ReleaseReason, now: UnixNano, found: Found | None
    ) -> Assembled:
        """What leaves of a guest whose release was decided.

        ``found`` is what it was decided by. None: an export of these parts was begun, so the host is the one that was
        found then, whatever has become known since.
        """
        again = found is None
        if found is None:
            # A claim's state knows of all parts; those that the first attempt did not see must not speak here.
            named = (part.guest.host for part in parts if part.guest is not None and part.guest.host is not None)
            (found,) = await self._find([claim], [replace(_guest(claim), host=next(named, None))], now)
        guest = found.parts or GuestParts(parts, found.recalled, self._policy)
        host, recalled = await self._host(claim, guest, found, now, again=again)
        if len(self._hosts) >= _MAX_HOSTS:
            self._hosts.clear()
        self._hosts[claim.key] = host
        waits = self._policy.waits
        overdue = self._stream and is_overdue(claim.state, now, waits)
        assembler, sampling, state = self._assembler, self._assembler.sampling, found.guest
        refused = found.refused

        def assemble(summed: str) -> Assembled:
            out = assembler.guest(
                *(claim.key, state, guest, reason, now, host, recalled),
                overdue=overdue,
                refused=refused,
                summed=summed,
            )
            if sampling is None:
                return out
            complete = whole_at(state, waits, RULES) is not None
            standing = late_guest(claim.key, host, recalled, complete=complete, begun=again)
            return sampling.apply(out, standing, now)

        assembled = await assembled_in_agreement(self._store, host, claim.state, assemble, now)
        if host is not None and reason is ReleaseReason.UNLINKED:
            assembled.reason = ReleaseReason.LATE_GUEST
        return assembled

    async def _step(self, claim: Claim, found: Found, now: UnixNano) -> Decision:
        """What the core says of it."""
        guest, sent = found.guest, frozenset[bytes]()
        memory = found.recalled.get(claim.key)
        known = None if memory is None else decode_guest(memory)
        if known is not None:
            sent = frozenset(known.sent_ids())
            guest = source_of(guest.source).resumed(guest, known.head, sent=bool(sent))
        state = replace(claim.state, guests={guest.guest: guest})
        # Of a call that runs there may be nothing yet that could leave: then its next part wakes it.
        runs = source_of(guest.source).wholeness.runs
        host = found.host
        polled = self._stream and host is not None and (not runs or guest.top_level or guest.ended)
        anchor_known = False
        if polled and host is not None and found.recalled:
            parts = await self._parts(claim, found)
            over = is_over(claim.state, now, self._policy.waits)
            # As the release will read it, should there be one now.
            final = parts.is_final(guest, ReleaseReason.MAX if over else ReleaseReason.STREAM, now)
            anchor_known = self._assembler.anchor_known(parts, host, found.recalled, final=final)
        decision = step_guest(
            state,
            now,
            self._policy,
            RULES,
            host_released=host is not None,
            anchor_known=anchor_known,
            missing_ok=sent,
        )
        if polled and isinstance(decision, Wait):
            decision = Wait(UnixNano(min(decision.until, now + _ANCHOR_POLL)))
        return decision

    async def _find(self, claims: Sequence[Claim], guests: Sequence[GuestState], now: UnixNano) -> list[Found]:
        """The guests' own memories first: they may hold the link; then the hosts'."""
        own = await self._store.recall([claim.key for claim in claims], now)
        hosts: list[TraceId | None] = []
        further: list[Sequence[Key]] = []
        for guest, memory in zip(guests, own, strict=True):
            remembered = None if memory is None or memory.host is None else TraceId(memory.host)
            hosts.append(guest.host or remembered)
            further.append(() if memory is None else source_of(guest.source).further_keys(memory.blob))
        wanted = {Key(host) for host in hosts if host is not None}.union(*further)
        blobs = {m.key: m.blob for m in await self._store.recall(list(wanted), now) if m is not None} if wanted else {}
        found = []
        for guest, memory, host, keys in zip(guests, own, hosts, further, strict=True):
            recalled: dict[bytes, bytes] = {} if memory is None else {memory.key: memory.blob}
            recalled |= {key: blobs[key] for key in (*keys, *(() if host is None else (host,))) if key in blobs}
            found.append(Found(guest, host, recalled))
        return found

    async def _host(
        self, claim: Claim, guest: GuestParts, found: Found, now: UnixNano, *, again: bool
    ) -> tuple[TraceId | None, Mapping[bytes, bytes]]:
        """The host at last, with its memory among the others; it may have been released since the decision."""
        if again and claim.key in self._hosts:
            before = self._hosts[claim.key]
            if before is None or Key(before) in found.recalled:
                return before, found.recalled
            return before, {**found.recalled, **await self._memory(before, now)}
        if found.host is not None:
            return found.host, found.recalled
        for host in (openai_trace_id(called(guest.name)), guest.hinted_host()):
            if host is not None and (memory := await self._memory(host, now)):
                return host, {**found.recalled, **memory}
        return None, found.recalled

    async def _moved_by_id(self, claim: Claim, found: Found) -> bool:
        """An OpenAI trace id may spell the trace id of a host that is held: then the guest moves there."""
        named = openai_trace_id(called(found.guest.guest))
        if named is None or self._stream:
            return False
        return await self._store.move(claim, Key(named), if_held=True)

    async def _by_hint(self, claim: Claim, found: Found, now: UnixNano) -> bool:
        """Find the host that somebody else names, should it have come; True when the guest was moved there."""
        parts = await self._parts(claim, found)
        named = parts.hinted_host()
        if named is None or parts.only_hints():
            # A host that it was moved to would wait for a guest of which nothing may ever come.
            return False
        if not self._stream and await self._store.move(claim, Key(named), if_held=True):
            return True
        if memory := await self._memory(named, now):
            found.host, found.recalled = named, {**found.recalled, **memory}
        return False

    async def _by_name(self, claim: Claim, found: Found, link: NamedLink, now: UnixNano) -> bool:
        """Have the guest take up a link that somebody noted under its name: True when it did, and is due again at
        once."""
        if source_of(found.guest.source).has_hints and (await self._parts(claim, found)).only_hints():
            return False
        await self._take_up(claim, found, link, now)
        return True

    async def _by_content(self, claim: Claim, found: Found, reason: ReleaseReason, now: UnixNano) -> bool:
        """The same by the ids of what is in it: of those that are as good as each other all must name one host."""
        parts = await self._parts(claim, found)
        if parts.only_hints() or _stays_alone(claim, found):
            return False
        # As the release will read it, so that it is read once.
        final = parts.is_final(found.guest, reason, now)
        ids = await in_thread_if(is_large(claim.state), parts.ids, final=final)
        named = await self._linking.find([each for equal in ids for each in equal], now)
        for equal in ids:
            links = [named[each] for each in equal if each in named]
            if len({link.host for link in links}) > 1:
                found.refused = (Refusal("link", "two_hosts"),)
                return False
            if links:
                await self._take_up(claim, found, links[0], now)
                return True
        return False

    async def _take_up(self, claim: Claim, found: Found, link: NamedLink, now: UnixNano) -> None:
        # Given back first, for the store may move what is held.
        await self._store.postpone([(claim, now)])
        try:
            await self._store.append([taking_up(found.guest.guest, found.guest.source, link)], now)
        except UnavailableError as error:
            # It is due again; a full store takes it once something has left, and what is due beside it does not wait.
            logger.debug("%s is not taken up yet: %s", claim.key.hex(), error)

    async def _parts(self, claim: Claim, found: Found) -> GuestParts:
        if found.parts is None:
            (parts,) = await self._store.read([claim])
            found.parts = GuestParts(parts, found.recalled, self._policy)
        return found.parts

    async def _memory(self, host: TraceId, now: UnixNano) -> dict[bytes, bytes]:
        """What is remembered of a host; empty for one that is not."""
        (memory,) = await self._store.recall([Key(host)], now)
        return {} if memory is None else {memory.key: memory.blob}


def _stays_alone(claim: Claim, found: Found) -> bool:
    """Some of it left as a trace of its own: no link that somebody else names parts the rest from that."""
    return claim.key in found.recalled and left_alone(found.recalled[claim.key])


def _guest(claim: Claim) -> GuestState:
    """A guest's own key holds that guest alone."""
    (guest,) = claim.state.guests.values()
    return guest
