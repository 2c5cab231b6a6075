"""Claims and bundles: keys that are due, each to one owner for the time of a lease.

A bundle is of keys about which nothing is left to decide, which is nearly every trace. It is one lease and one token
for all of them; where its owner is not heard of in time, or something comes to be decided after all, it is opened, and
its keys are like others. Leases and tokens are not in the log: they end with the process.
"""

import os
from dataclasses import replace

from grafter.core.model import Key, TraceId, UnixNano, guest_key
from grafter.core.state import GuestState, TraceState, guest_state
from grafter.store import records
from grafter.store.base import Bundle, Claim, Outcome
from grafter.store.embedded.due_queue import DueQueue
from grafter.store.embedded.trace_table import ExportAttempt, TraceEntry, TraceTable
from grafter.store.records import chunk_arrival, unpack_chunks

# Below this a claim sums the guests' facts anew, which costs less memory than keeping the sums.
_KEEP_SUMS_FROM = 16
# Old entries of the due queue are skipped when they come up, but must not outnumber the keys by more than this.
_SPARE_ENTRIES = 4096


class Claims:
    """Hands out keys, one by one with all that is known of them, or many as a bundle."""

    def __init__(self, table: TraceTable, due_queue: DueQueue, lease: int) -> None:
        """``lease`` in nanoseconds."""
        self._table = table
        self._due_queue = due_queue
        self._lease = lease
        self._bundles: dict[int, Bundle] = {}
        """Those that are out, by token; few, since what is on its way is bounded."""
        # A claim of an earlier process must never fit: tokens start anywhere.
        self._token = int.from_bytes(os.urandom(6), "little") << 16

    def claim(self, now: int, limit: int, *, bundles: bool) -> list[Claim]:
        """Hand out keys that are due, earliest first; with ``bundles`` only what ``bundle`` has passed over."""
        claims: list[Claim] = []
        entries, due_queue = self._table.entries, self._due_queue
        if due_queue.size > 2 * len(entries) + _SPARE_ENTRIES:
            due_queue.refill(entries)
        self._end_leases(now)
        popped = due_queue.popped
        again: list[tuple[int, Key]] = []
        while len(claims) < limit:
            if not popped:
                moment = None if bundles else due_queue.pop(now)
                if moment is None:
                    break
                popped.extend([(moment[0], key) for key in moment[1]])
            at, key = popped.popleft()
            entry = entries.get(key)
            if entry is None or entry.queued != at:
                continue
            if self._is_bundled(entry):
                # Its bundle's lease is the one that runs; where that ends the key is scheduled anew.
                entry.queued = None
                continue
            due = due_queue.next_due(key, entry)
            if due > (now if bundles else at):
                entry.queued = None
                due_queue.schedule(key, entry, due)
            elif key in self._table.busy:
                again.append((at, key))
            else:
                claims.append(self._hand_out(key, entry, now))
        popped.extendleft(reversed(again))
        return claims

    def owner(self, claim: Claim) -> TraceEntry | None:
        """The key, if the claim is still its own."""
        entry = self._table.entries.get(claim.key)
        return entry if entry is not None and entry.lease is not None and entry.token == claim.token else None

    def renew(self, claim: Claim, now: int) -> None:
        """Let its lease run from now again, if it is still its owner's."""
        entry = self.owner(claim)
        if entry is not None:
            entry.lease = now + self._lease
            self._due_queue.schedule(claim.key, entry, entry.lease)

    def postpone(self, claim: Claim, due: int) -> None:
        """End its lease, if it is still its owner's; what came during it may make the key due earlier."""
        entry = self.owner(claim)
        if entry is None:
            return
        entry.lease = None
        entry.token = 0
        entry.due = min(due, self._due_queue.compute_due(claim.key, entry)) if entry.fresh else due
        entry.fresh = False
        self._due_queue.schedule(claim.key, entry, entry.due)

    def bundle(self, now: int, traces: int, spans: int, size: int) -> Bundle | None:
        """Hand out due keys about which nothing is left to decide; None when there are none.

        As many as stay within these limits, and one in any case. Keys whose time has come and that are not like that
        are left to ``claim``.
        """
        self._end_leases(now)
        due_queue = self._due_queue
        out = Bundle(self._next_token(), UnixNano(now), now + self._lease)
        full = False
        while not full:
            moment = due_queue.pop(now)
            if moment is None:
                break
            at, keys = moment
            taken, full = self._fill(out, at, keys, traces, spans, size)
            if taken < len(keys):
                due_queue.put(at, keys[taken:])
        if not out.keys:
            return None
        self._bundles[out.token] = out
        return out

    def _fill(self, out: Bundle, at: int, keys: list[Key], traces: int, spans: int, size: int) -> tuple[int, bool]:
        """Take the plain ones of these keys, which are due at one moment, into a bundle.

        How many keys were dealt with, and whether the bundle is full.
        """
        entries, busy, due_queue = self._table.entries, self._table.busy, self._due_queue
        plain_due, now, lease, token = due_queue.plain_due, out.at, out.lease, out.token
        taken, ends, counts = out.keys, out.ends, out.counts
        spans_left, size_left = spans - out.spans, size - out.size
        dealt_with, full = len(keys), False
        for i, key in enumerate(keys):
            entry = entries.get(key)
            if entry is None or entry.queued != at:
                continue
            due = plain_due(entry)
            if due is None or key in busy:
                due_queue.popped.append((at, key))
                continue
            if due > now:
                entry.queued = due
                due_queue.put(due, [key])
                continue
            if taken and (entry.host_spans > spans_left or entry.size > size_left):
                out.more = full = True
                dealt_with = i
                break
            entry.queued = None
            entry.lease = lease
            entry.token = token
            entry.fresh = False
            taken.append(key)
            ends.append(len(entry.chunks))
            counts.append(entry.host_spans)
            spans_left -= entry.host_spans
            size_left -= entry.size
            if spans_left <= 0 or size_left <= 0 or len(taken) >= traces:
                full = True
                dealt_with = i + 1
                break
        out.spans, out.size = spans - spans_left, size - size_left
        return dealt_with, full

    def owns(self, bundle: Bundle) -> bool:
        """The bundle is still its owner's."""
        return self._bundles.get(bundle.token) is bundle

    def renew_bundle(self, bundle: Bundle, now: int) -> None:
        """Let its lease run from now again, if it is still its owner's."""
        if self.owns(bundle):
            bundle.lease = now + self._lease

    def bundle_keys(self, bundle: Bundle) -> list[tuple[Key, int]]:
        """The keys of a bundle, with the arrival of the last part that it covers."""
        entries = self._table.entries
        return [
            (key, chunk_arrival(entries[key].chunks, end)) for key, end in zip(bundle.keys, bundle.ends, strict=True)
        ]

    def open_bundle(self, bundle: Bundle) -> list[Claim]:
        """Make claims of a bundle, and of its intent theirs; none when it is no longer its owner's."""
        if not self.owns(bundle):
            return []
        claims = []
        for key, up_to in self._dissolve(bundle):
            claim = self._claim_of(key, self._table.entries[key])
            claim.up_to = up_to
            claims.append(claim)
        return claims

    def end_bundle(self, bundle: Bundle) -> None:
        """It is nobody's any more."""
        del self._bundles[bundle.token]

    def settled_soon(self, key: Key) -> bool:
        """Something about the key is being written, or will be soon: its parts are not worth copying, nor safe to."""
        return key in self._table.busy or self._is_bundled(self._table.entries[key])

    def _next_token(self) -> int:
        self._token += 1
        return self._token

    def _is_bundled(self, entry: TraceEntry) -> bool:
        return entry.lease is not None and entry.token in self._bundles

    def _end_leases(self, now: int) -> None:
        """Open the bundles whose owners have not been heard of."""
        ended = [bundle for bundle in self._bundles.values() if bundle.lease <= now and not bundle.writing]
        for bundle in ended:
            self._dissolve(bundle)

    def _dissolve(self, bundle: Bundle) -> list[tuple[Key, int]]:
        """Give each key a lease of its own, and the bundle's intent; what ``bundle_keys`` gives."""
        self.end_bundle(bundle)
        covered = self.bundle_keys(bundle)
        for key, up_to in covered:
            entry = self._table.entries[key]
            if bundle.intended:
                entry.attempt = ExportAttempt(up_to)
                entry.attempt.outcomes[bundle.intended] = Outcome.INTENDED
            entry.lease = bundle.lease
            self._due_queue.schedule(key, entry, bundle.lease)
        return covered

    def _hand_out(self, key: Key, entry: TraceEntry, now: int) -> Claim:
        entry.queued = None
        entry.lease = now + self._lease
        entry.due = None
        entry.fresh = False
        entry.token = self._next_token()
        self._due_queue.schedule(key, entry, entry.lease)
        return self._claim_of(key, entry)

    def _claim_of(self, key: Key, entry: TraceEntry) -> Claim:
        attempt = entry.attempt
        up_to = attempt.up_to if attempt is not None and attempt.is_open else entry.arrival
        outcomes = dict(attempt.outcomes) if attempt is not None else {}
        return Claim(key, entry.token, up_to, self.state_of(entry), outcomes)

    def state_of(self, entry: TraceEntry) -> TraceState:
        """The sum of the facts of everything held under a key."""
        return TraceState(
            UnixNano(entry.first),
            UnixNano(entry.last),
            entry.host_spans,
            entry.guest_spans,
            entry.size,
            records.facts_of(entry.facts),
            {} if entry.guests is None else self._guest_states(entry),
            entry.remembered,
        )

    def _guest_states(self, entry: TraceEntry) -> dict[str, GuestState]:
        guests = entry.guests or {}
        if entry.sums is not None:
            states = {name: _copied(state) for name, state in entry.sums.items()}
        else:
            arrived = {chunk.arrival: chunk.now for chunk in unpack_chunks(entry.chunks) if chunk.arrival in guests}
            states = guest_state(
                (records.decode_guest(guests[arrival][1]), UnixNano(arrived[arrival])) for arrival in sorted(guests)
            )
            if len(guests) >= _KEEP_SUMS_FROM:
                entry.sums = {name: _copied(state) for name, state in states.items()}
        for state in states.values():
            # What the store knows of the link, from a memory or a move, may be more than its parts bring.
            host = self._table.guests[guest_key(state.guest)].host
            if host is not None and state.host != TraceId(host):
                state.host, state.sampled = TraceId(host), None
        return states


def _copied(state: GuestState) -> GuestState:
    return replace(state, ids=set(state.ids), parents=set(state.parents))
